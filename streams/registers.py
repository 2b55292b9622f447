"""What an energy register says, and what is made of its odd readings: pure.

A register grows; but meters restart it, roll it over, restore an older value after a power cut,
are replaced, and now and then a reading is nonsense. Each of these is a `Repair`: what was seen,
when, and how much energy was counted instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from schemas.units import HOUR_US, MWUS_PER_UWH
from schemas.usage import Quality, Why

REACH = 6
"""Register readings on each side that can change what a segment says.

A spike is known by its two neighbours, and is believed to be one only if neither neighbour looks
as much like one; the segment that skips it, and the confirmation of a step, need one reading more.
"""

_QUANTUM = MWUS_PER_UWH * 10_000_000
"""A register may round up by 10 Wh, the coarsest step in use (0.01 kWh)."""

_SAVED_EACH_US = HOUR_US
"""A meter saves its register at least so often, and forgets no more than it counts meanwhile."""

_NEAR_ITS_END = 10
"""A register that rolls over is in the last tenth of its span before, and in the first after."""

Known = tuple[int, int]
"""A register reading: µs, µWh."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a channel can do: the longest bridged silence, the most energy in a time, where its
    registers begin anew at 0 (None: nowhere), and how old they may be when they are told.
    """

    gap_limit_us: int
    max_power_mw: int
    register_span_uwh: int | None = None
    register_age_us: int = 0

    def plausible(self, before: Known, after: Known) -> bool:
        """Whether a register can go from one to the other: forward, and not too fast."""
        rise = after[1] - before[1]
        width_us = after[0] - before[0] + self.register_age_us
        return 0 <= rise * MWUS_PER_UWH <= self.max_power_mw * width_us + _QUANTUM

    def rolled_over(self, before: Known, after: Known) -> bool:
        """Whether it can have gone there through the end of its span."""
        span = self.register_span_uwh
        if span is None or not after[1] * _NEAR_ITS_END < span <= before[1] + span // _NEAR_ITS_END:
            return False
        return before[1] < span and self.plausible(before, (after[0], after[1] + span))

    def follows(self, before: Known, after: Known) -> bool:
        return self.plausible(before, after) or self.rolled_over(before, after)

    def restored(self, before: Known, after: Known) -> bool:
        """Whether a step back is to a value saved earlier, to be counted on from."""
        forgotten = before[1] - after[1]
        return forgotten * MWUS_PER_UWH <= self.max_power_mw * _SAVED_EACH_US


class Segment(NamedTuple):
    """Energy of `[start_us, end_us)` as two register readings, or a repair, tell it."""

    start_us: int
    end_us: int
    energy_uwh: int
    why: Why
    quality: Quality = Quality.MEASURED


class Silent(NamedTuple):
    """`[start_us, end_us)`: the register says nothing of it, other sources stand in."""

    start_us: int
    end_us: int
    why: Why


class Repair(NamedTuple):
    """An odd reading of one register of a channel, and what was counted.

    `at_us` is the instant of the odd reading, `start_us` and `end_us` are the trusted readings
    around it (of a step, the reading itself is the second); `start_us`, `at_us` and the register
    are the key. The register went from `before_uwh` to
    `after_uwh`, and `energy_uwh` was counted for `[start_us, end_us)`; a spike, `after_uwh`, is
    passed over and counts as 0.
    """

    at_us: int
    start_us: int
    end_us: int
    why: Why
    is_export: bool
    energy_uwh: int
    before_uwh: int
    after_uwh: int

    @property
    def added_uwh(self) -> int:
        """By how much the energy of the channel differs from its register's difference."""
        if self.why is Why.REGISTER_SPIKE:
            return 0
        return self.energy_uwh - (self.after_uwh - self.before_uwh)


class Told(NamedTuple):
    """What one register says. A repair of a silent span has no energy yet."""

    segments: list[Segment]
    silent: list[Silent]
    repairs: list[Repair]


def register_segments(
    register: Sequence[Known], limits: Limits, *, is_export: bool = False
) -> Told:
    """Turn register readings in order of time into energy.

    A lone reading that its two neighbours contradict is passed over. Another step that is not
    plausible counts once the reading after it confirms it: over the end of the register's span,
    or from 0 where the new value is small enough to have been counted since the reading before,
    and nearer to 0 than to the old one. Of a register that was restored, or is another meter's,
    the span is silent, and so it is while nothing has confirmed the step.
    """
    trusted, repairs = _without_spikes(register, limits, is_export)
    told = Told([], [], repairs)
    for i in range(1, len(trusted)):
        before, after = trusted[i - 1], trusted[i]
        start_us, end_us = before[0], after[0]
        if limits.plausible(before, after):
            told.segments.append(Segment(start_us, end_us, after[1] - before[1], Why.NOTHING))
            continue
        if i + 1 == len(trusted):
            told.silent.append(Silent(start_us, end_us, Why.REGISTER_DOUBTED))
            continue
        why, energy = _step(before, after, trusted[i + 1], limits)
        if why in (Why.REGISTER_ROLLOVER, Why.REGISTER_RESET):
            told.segments.append(Segment(start_us, end_us, energy, why))
        else:
            told.silent.append(Silent(start_us, end_us, why))
        repairs.append(
            Repair(end_us, start_us, end_us, why, is_export, energy, before[1], after[1])
        )
    return told


def _step(before: Known, after: Known, later: Known, limits: Limits) -> tuple[Why, int]:
    """What an implausible step was, and the µWh that the register itself tells of it."""
    if after[1] >= before[1]:
        return Why.METER_REPLACED, 0
    confirmed = limits.follows(after, later)
    if confirmed and limits.rolled_over(before, after):
        assert limits.register_span_uwh is not None
        return Why.REGISTER_ROLLOVER, after[1] + limits.register_span_uwh - before[1]
    if 2 * after[1] < before[1]:
        if confirmed and limits.plausible((before[0], 0), after):
            return Why.REGISTER_RESET, after[1]
    elif limits.restored(before, after):
        return Why.REGISTER_RESTORED, 0
    return Why.METER_REPLACED, 0


def _without_spikes(
    register: Sequence[Known], limits: Limits, is_export: bool
) -> tuple[Sequence[Known], list[Repair]]:
    steps = [limits.follows(a, b) for a, b in pairwise(register)]
    if all(steps):
        return register, []
    odd = [0] * len(register)  # how many of its two steps are
    for i in range(1, len(register) - 1):
        if limits.follows(register[i - 1], register[i + 1]):
            odd[i] = 2 - steps[i - 1] - steps[i]
    trusted, repairs = [], []
    for i, reading in enumerate(register):
        if not odd[i] or odd[i] <= max(odd[i - 1], odd[i + 1]):
            trusted.append(reading)
            continue
        before, after = register[i - 1], register[i + 1]
        repairs.append(
            Repair(
                *(reading[0], before[0], after[0]),
                *(Why.REGISTER_SPIKE, is_export, 0),
                *(before[1], reading[1]),
            )
        )
    return trusted, repairs
