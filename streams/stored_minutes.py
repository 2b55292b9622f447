"""A register's silence, told by what the device stored meanwhile: pure.

A three-phase meter keeps its last weeks in minutes of its own. Fetched after a silence, they say
when the energy ran that its register has gained; how much it was, the register says.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from schemas.units import MWUS_PER_UWH
from schemas.usage import Quality, Why
from streams.registers import Limits, Segment


class Stored(NamedTuple):
    """An energy of the device's own for `[start_us, end_us)`, which counts from `since_us` on:
    what an earlier one has told already is not told twice.
    """

    start_us: int
    end_us: int
    since_us: int
    energy_uwh: int

    def part(self, start_us: int, end_us: int) -> Segment:
        """The even part of it in `[start_us, end_us)`, by cumulative rounding."""
        a, b, width = start_us - self.start_us, end_us - self.start_us, self.end_us - self.start_us
        share = self.energy_uwh * b // width - self.energy_uwh * a // width
        return Segment(start_us, end_us, share, Why.NOTHING, Quality.BACKFILLED)


def cut(segment: Segment, stored: Sequence[Stored], limits: Limits) -> list[Segment]:
    """A register's segment, in parts that follow each other and sum to its energy exactly.

    Each stored energy is a part of its own, and what is left goes evenly to the time between them.
    Of an energy that reaches beyond the segment only its even part can be said; where that, or all
    of them, contradict the register, it is left out, or all are scaled: the register is right.
    `stored` are in order, each beginning where the one before ends, or later.
    """
    start_us, end_us, energy_uwh = segment[:3]
    low = bisect_right(stored, start_us, key=_end)
    near = [one for one in stored[low:] if one.since_us < end_us]
    if not near:
        return [segment]
    clipped = [one.part(max(one.since_us, start_us), min(one.end_us, end_us)) for one in near]
    inside = [
        part
        for part, one in zip(clipped, near, strict=True)
        if one.start_us >= start_us and one.end_us <= end_us
    ]
    for known in (clipped, inside):
        open_us = end_us - start_us - sum(part.end_us - part.start_us for part in known)
        rest_uwh = energy_uwh - sum(part.energy_uwh for part in known)
        if 0 <= rest_uwh * MWUS_PER_UWH <= limits.max_power_mw * open_us:
            return _filled(segment, known, rest_uwh, open_us)
    return _scaled(segment, clipped)


def _filled(
    segment: Segment, known: Sequence[Segment], rest_uwh: int, open_us: int
) -> list[Segment]:
    """The known parts, and the rest evenly in the time that they leave open."""
    parts: list[Segment] = []
    at_us, seen_us, spent_uwh = segment.start_us, 0, 0
    for part in [*known, Segment(segment.end_us, segment.end_us, 0, Why.NOTHING)]:
        if at_us < part.start_us:
            seen_us += part.start_us - at_us
            upto_uwh = rest_uwh * seen_us // open_us
            parts.append(Segment(at_us, part.start_us, upto_uwh - spent_uwh, Why.NOTHING))
            spent_uwh = upto_uwh
        if part.start_us < part.end_us:
            parts.append(part)
        at_us = part.end_us
    return parts


def _scaled(segment: Segment, known: Sequence[Segment]) -> list[Segment]:
    """The known parts, all changed alike so that they sum to the register's difference."""
    told_uwh = sum(part.energy_uwh for part in known)
    if not told_uwh:
        return [segment]
    parts: list[Segment] = []
    upto_uwh = spent_uwh = 0
    for part in _filled(segment, known, 0, 1):
        upto_uwh += part.energy_uwh
        share = segment.energy_uwh * upto_uwh // told_uwh
        parts.append(part._replace(energy_uwh=share - spent_uwh))
        spent_uwh = share
    return parts


def _end(one: Stored) -> int:
    return one.end_us
