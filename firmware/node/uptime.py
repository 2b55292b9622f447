"""Milliseconds since the start, from a counter that wraps (after 12 days on ESP32 and ESP8266)."""


class Uptime:
    """Ask at least once while the counter goes half round."""

    def __init__(self, ticks_ms, ticks_diff):
        self._ticks_ms = ticks_ms
        self._ticks_diff = ticks_diff
        self._last = ticks_ms()
        self._sum_ms = 0

    def ms(self):
        ticks = self._ticks_ms()
        self._sum_ms += self._ticks_diff(ticks, self._last)
        self._last = ticks
        return self._sum_ms
