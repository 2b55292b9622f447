"""How nodes depart from the plain ones: clocks, silences, duplicates, order, registers. Pure.

Everything follows from the seed; a `Behaviour()` departs in nothing. Chances are per message.

A node's clock is never set back: of readings that go back in time nobody could say what the
energy was. It may be slow at first and jump ahead, and it drifts.
"""

from collections import deque
from dataclasses import dataclass
from random import Random

from infra.swarm.meters import Meter
from schemas.units import SECOND_US

MOST_FAST_S = 45.0  # `finish` is up to 60 s ahead of that, and 120 s are believed
MOST_SLOW_S = 110.0
SOON_S = 0.5  # a message held back is sent no later
ROLLOVER_WITHIN_UWH = 500_000  # 0.5 Wh: a few seconds of some hundred watts


@dataclass(frozen=True)
class Behaviour:
    """What nodes do beside speaking. All zero: nothing.

    `silence`: the node leaves for up to `longest_silence_s`, measures on, and sends the backlog
    when it is back. `duplicate`: the message is published once more, at once or up to
    `latest_duplicate_s` later. `reorder`: it is sent after the one that follows; of a backlog,
    the order is shuffled. `drift_ppm`: at most so much, fast or slow. `clock_step`: the clock is
    put ahead by some seconds. `reset`: the registers begin anew. `rollover`: the share of nodes
    whose import registers go through 9,999.99 kWh early on.
    """

    silence: float = 0.0
    longest_silence_s: float = 10.0
    duplicate: float = 0.0
    latest_duplicate_s: float = 20.0
    reorder: float = 0.0
    drift_ppm: float = 0.0
    clock_step: float = 0.0
    reset: float = 0.0
    rollover: float = 0.0

    def __bool__(self) -> bool:
        return any(
            (
                self.silence,
                self.duplicate,
                self.reorder,
                self.drift_ppm,
                self.clock_step,
                self.reset,
                self.rollover,
            )
        )


PLAIN = Behaviour()
ODD = Behaviour(
    silence=0.002,
    duplicate=0.02,
    reorder=0.02,
    drift_ppm=200.0,
    clock_step=0.001,
    reset=0.0005,
    rollover=0.05,
)
"""A bit of everything that the stream is made for."""


class Whims:
    """The oddities of one node: a clock of its own, and what it does next."""

    __slots__ = (
        "_ahead_us",
        "_behaviour",
        "_chance",
        "_drift_ppm",
        "_first_us",
        "_last_us",
        "held_back",
    )

    def __init__(self, behaviour: Behaviour, chance: Random, meter: Meter) -> None:
        self._behaviour, self._chance = behaviour, chance
        most = behaviour.drift_ppm
        self._drift_ppm = chance.uniform(-most, most)
        slow = MOST_SLOW_S if behaviour.clock_step else 0.0
        self._ahead_us = -round(chance.uniform(0, slow) * SECOND_US)
        self._first_us: int | None = None
        self._last_us = 0
        self.held_back: tuple[int, float] | None = None  # seq, and when it was to be sent
        if chance.random() < behaviour.rollover:
            meter.roll_over_soon(chance.randrange(1, ROLLOVER_WITHIN_UWH))

    def clock(self, now_us: int) -> int:
        """What the node's clock shows; called once a reading, it never goes back."""
        if self._first_us is None:
            self._first_us = now_us
        room_us = MOST_FAST_S * SECOND_US - self._ahead_us
        if self._chance.random() < self._behaviour.clock_step and room_us > SECOND_US:
            self._ahead_us += round(self._chance.uniform(0, room_us))
        drifted = round((now_us - self._first_us) * self._drift_ppm / 1e6)
        self._last_us = max(self._last_us + 1, now_us + self._ahead_us + drifted)
        return self._last_us

    def resets(self) -> bool:
        return self._chance.random() < self._behaviour.reset

    def silence_s(self) -> float:
        """For how long the node leaves now; mostly 0."""
        if self._chance.random() >= self._behaviour.silence:
            return 0.0
        return self._chance.uniform(0.2, 1.0) * self._behaviour.longest_silence_s

    def duplicate_after_s(self) -> float | None:
        """When a message that is being sent is sent once more; mostly never. 0: at once."""
        if self._chance.random() >= self._behaviour.duplicate:
            return None
        if self._chance.random() < 0.5:
            return 0.0
        return self._chance.uniform(0.0, self._behaviour.latest_duplicate_s)

    def order(self, seqs: list[int], now: float) -> list[int]:
        """The order in which to send these now; one may be kept for the next time."""
        if self.held_back is not None:
            seqs = [*seqs, self.held_back[0]]
            self.held_back = None
        elif self._chance.random() < self._behaviour.reorder:
            if len(seqs) > 1:
                self._chance.shuffle(seqs)
            else:
                self.held_back = (seqs[0], now)
                return []
        return seqs


class Prefix:
    """What is confirmed in any order: up to where without a gap? For nodes that believe PUBACK."""

    __slots__ = ("_beyond", "until")

    def __init__(self) -> None:
        self.until = 0
        self._beyond: set[int] = set()

    def confirm(self, seq: int) -> int:
        if seq > self.until:
            self._beyond.add(seq)
        while self.until + 1 in self._beyond:
            self.until += 1
            self._beyond.remove(self.until)
        return self.until


class Awaited:
    """The PUBACKs that a connection still owes, in the order of its PUBLISHes: (packet id, seq)."""

    __slots__ = ("_expected",)

    def __init__(self) -> None:
        self._expected: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._expected)

    def published(self, packet_id: int, seq: int) -> None:
        self._expected.append((packet_id, seq))

    def confirmed(self, packet_id: int) -> int | None:
        """The `seq` of the message; None: this PUBACK was not the next one due."""
        if not self._expected or self._expected[0][0] != packet_id:
            return None
        return self._expected.popleft()[1]
