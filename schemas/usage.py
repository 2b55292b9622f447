"""Windows: the energy of a channel in one minute or one quarter of an hour."""

from enum import IntEnum

import msgspec


class Quality(IntEnum):
    """How the energy of a window was come by, best first; a sum has the worst of its parts."""

    MEASURED = 0  # difference of a register
    INTEGRATED = 1  # power over time, or the device's own interval energy
    BACKFILLED = 2  # fetched from the device's store afterwards
    INTERPOLATED = 3  # a register's difference spread over a silence
    ESTIMATED = 4
    PROVISIONAL = 5  # the register's next value has not come yet
    GAP = 6  # a part of the window is unmeasured


class Why(IntEnum):
    """What made the quality worse than `MEASURED` or `INTEGRATED`."""

    NOTHING = 0
    SILENCE = 1  # no reading for longer than the gap limit, or none before the first
    REGISTER_RESET = 2  # counted on from 0
    METER_REPLACED = 3
    REGISTER_DOUBTED = 4  # a step too large or backward, not yet confirmed
    LATE_REGISTER = 5  # the register has not come yet; power stands in
    NOT_COMPLETE = 6  # the window is still open
    REGISTER_ROLLOVER = 7  # counted on through the end of the register's span
    REGISTER_RESTORED = 8  # a few Wh back: the meter counts on from an older value
    REGISTER_SPIKE = 9  # a reading that its neighbours contradict (of repairs, not of windows)


class UsageWindow(msgspec.Struct, gc=False, omit_defaults=True):
    """One window of one channel, as announced on `energy.usage.1m.v1` and `energy.usage.15m.v1`.

    `window_start_us` is in µs since the epoch, UTC; energies are whole µWh (import, export, both
    positive). Keep the highest `revision` of a (`channel_id`, `window_start_us`).
    """

    device_id: int
    channel_id: int
    address: str
    channel: str
    window_start_us: int
    window_s: int
    energy_uwh: int
    export_uwh: int
    quality: Quality
    why: Why
    revision: int
    power_min_w: float | None = None
    power_avg_w: float | None = None
    power_max_w: float | None = None
    readings: int = 0
    home_id: str | None = None
