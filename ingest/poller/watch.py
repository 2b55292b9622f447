"""When a device is asked over HTTP: pure, in seconds of a monotonic clock.

MQTT comes first. A device is asked only while it has been silent for longer than its contract
allows, or while the broker cannot be reached; the first message over MQTT ends that. One that does
not answer is asked less and less often, and all at different times.
"""

from random import Random

BROKER_AWAY_S = 10.0
"""For so long the broker may be away before all devices are asked."""
FAILURES_TO_OPEN = 3
OPEN_FIRST_S, OPEN_MOST_S = 30.0, 900.0


class Breaker:
    """After three failures in a row nothing is tried for a while, then once; the while doubles."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._failures = 0
        self.open_until_s = float("-inf")

    def succeeded(self) -> None:
        self._failures = 0
        self.open_until_s = float("-inf")

    def failed(self, now_s: float) -> None:
        self._failures += 1
        over = self._failures - FAILURES_TO_OPEN
        if over >= 0:
            longest_s = min(OPEN_MOST_S, OPEN_FIRST_S * 2 ** min(over, 10))
            self.open_until_s = now_s + longest_s * self._chance.uniform(0.5, 1)

    def is_open(self, now_s: float) -> bool:
        return now_s < self.open_until_s


class Watch:
    """One device. `heard_s`: when it, or whoever watches it, last heard its MQTT."""

    def __init__(
        self, interval_s: float, silent_after_s: float, now_s: float, chance: Random
    ) -> None:
        self._interval_s = interval_s
        self._silent_after_s = silent_after_s
        self.heard_s = now_s
        self.breaker = Breaker(chance)
        self._next_s = now_s + interval_s * chance.random()

    def heard(self, at_s: float) -> None:
        self.heard_s = max(self.heard_s, at_s)

    def is_silent(self, now_s: float, broker_away_s: float) -> bool:
        return now_s - self.heard_s >= self._silent_after_s or broker_away_s >= BROKER_AWAY_S

    def is_due(self, now_s: float, broker_away_s: float) -> bool:
        """Whether to ask now."""
        return (
            now_s >= self._next_s
            and self.is_silent(now_s, broker_away_s)
            and not self.breaker.is_open(now_s)
        )

    def asked(self, now_s: float) -> None:
        """The next time is an interval later, and no time is made up for."""
        self._next_s = max(self._next_s + self._interval_s, now_s + self._interval_s / 2)
