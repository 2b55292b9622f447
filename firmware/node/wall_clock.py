"""Which time it is: from NTP, else from the server's acknowledgements. Pure.

All instants are whole milliseconds: Unix time (`…_unix_ms`) or since the start (`…_up_ms`).
"""

from micropython import const

_EARLIEST_UNIX_MS = const(1_735_689_600_000)  # 2025-01-01: no clock of ours is behind it
_LATEST_UNIX_MS = const(4_102_444_800_000)  # 2100-01-01
_STEP_MS = const(2_000)  # a smaller step back is waited out, so that no instant comes twice
NTP_HOLDS_MS = 86_400_000  # the server's word is not asked for so long after NTP's


class WallClock:
    def __init__(self):
        self._started_unix_ms = None
        self._ntp_up_ms = None
        self._last_unix_ms = 0

    @property
    def known(self):
        return self._started_unix_ms is not None

    @property
    def started_unix_ms(self):
        return self._started_unix_ms

    def set_by_ntp(self, unix_ms, now_up_ms):
        """False where the time cannot be."""
        if not _is_plausible(unix_ms):
            return False
        self._ntp_up_ms = now_up_ms
        self._started_unix_ms = unix_ms - now_up_ms
        return True

    def set_by_server(self, unix_ms, now_up_ms):
        """As `set_by_ntp`; but NTP's word counts for a day, and no difference below _STEP_MS."""
        if not _is_plausible(unix_ms):
            return False
        if self._ntp_up_ms is not None and now_up_ms - self._ntp_up_ms < NTP_HOLDS_MS:
            return False
        started = unix_ms - now_up_ms
        if self.known and abs(started - self._started_unix_ms) < _STEP_MS:
            return False
        self._started_unix_ms = started
        return True

    def unix_ms(self, now_up_ms):
        """Unix time; None while nobody has said it."""
        return None if self._started_unix_ms is None else self._started_unix_ms + now_up_ms

    def stamp(self, now_up_ms):
        """Unix time for a message, later than every stamp before it; None while not known."""
        unix_ms = self.unix_ms(now_up_ms)
        if unix_ms is None:
            return None
        if self._last_unix_ms - _STEP_MS < unix_ms <= self._last_unix_ms:
            unix_ms = self._last_unix_ms + 1
        self._last_unix_ms = unix_ms
        return unix_ms


def _is_plausible(unix_ms):
    return isinstance(unix_ms, int) and _EARLIEST_UNIX_MS <= unix_ms <= _LATEST_UNIX_MS
