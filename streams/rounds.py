"""Whether a process still gets on with its work."""

import threading
import time
from collections.abc import Callable

IDLE_S = 60.0
_REST_S = 5.0


class Rounds:
    """When each part of a process last finished a round of its work; parts may be threads.

    `clock`: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted_s = {"work": clock()}

    def note(self, part: str = "work") -> None:
        """A part has just finished a round, or begins its first."""
        self._noted_s[part] = self._clock()

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait between two rounds, or until `stop` is set; whoever rests is well."""
        while seconds > 0 and not stop.wait(min(seconds, _REST_S)):
            self.note()
            seconds -= _REST_S

    def health(self) -> tuple[bool, dict[str, object]]:
        """Working means: every part has finished a round, or rested, within the last minute."""
        now_s = self._clock()
        idle_s = {part: now_s - noted_s for part, noted_s in list(self._noted_s.items())}
        ok = max(idle_s.values()) < IDLE_S
        return ok, {
            "ok": ok,
            "seconds_since_round": {part: round(s, 1) for part, s in idle_s.items()},
        }


ROUNDS = Rounds()
"""Those of this process."""
