"""Does the integral of power agree with the register? By civil day, over the same time. Pure.

A register and a power reading are two measurements of one thing. Each whole segment between two
readings of a register is compared with the integral of power over exactly its time, and counts
for the day that holds its last instant; so both sides of a day cover the same time, to the µs.
A segment is left out where power was silent for longer than the gap limit, or where the register
needed a repair and says nothing by itself (a rollover is counted on and stays in).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from schemas.units import HOUR_US, MWUS_PER_UWH, SECOND_US
from schemas.usage import Why
from streams.energy import Point, trapezoid
from streams.registers import Limits, register_segments
from streams.repair_words import at_us, register_name, wh

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TELLS = (Why.NOTHING, Why.REGISTER_ROLLOVER)


class Day(NamedTuple):
    """A civil day `[start_us, end_us)`: 23, 24 or 25 hours."""

    day: date
    start_us: int
    end_us: int


def days_of(first: date, end: date, zone: tzinfo) -> Iterator[Day]:
    """The civil days from `first` to the one before `end`."""
    while first < end:
        after = first + timedelta(days=1)
        yield Day(first, _midnight_us(first, zone), _midnight_us(after, zone))
        first = after


def _midnight_us(day: date, zone: tzinfo) -> int:
    return (datetime.combine(day, time(), zone) - _EPOCH) // timedelta(microseconds=1)


class Outcome(StrEnum):
    COMPARED = "compared"
    NO_READINGS = "no_readings"
    NO_REGISTER = "no_register"
    NO_POWER = "no_power"
    NEVER_TOGETHER = "never_together"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One register of a channel on one day. Energies in µWh.

    `register_uwh` and `power_uwh` are of the same `compared_us`. `left_out_uwh` is what the
    register gained in segments that could not be compared, `repaired` the number of those that
    needed a repair.
    """

    day: Day
    is_export: bool
    outcome: Outcome
    register_uwh: int = 0
    power_uwh: int = 0
    compared_us: int = 0
    left_out_uwh: int = 0
    repaired: int = 0

    @property
    def drift_uwh(self) -> int:
        """By how much power says more than the register."""
        return self.power_uwh - self.register_uwh

    @property
    def drift_percent(self) -> float | None:
        """Of the register's energy, three decimals; None where it is 0."""
        if not self.register_uwh:
            return None
        return round(100 * self.drift_uwh / self.register_uwh, 3)


def document(channel: str, done: Reconciled, zone: tzinfo = UTC) -> dict[str, object]:
    """As JSON shows it; instants are aware datetimes in `zone`."""
    return {
        "channel": channel,
        "register": register_name(done.is_export),
        "day": done.day.day,
        "start": at_us(done.day.start_us, zone),
        "end": at_us(done.day.end_us, zone),
        "outcome": done.outcome.value,
        "register_wh": _wh(done.register_uwh),
        "power_wh": _wh(done.power_uwh),
        "drift_wh": _wh(done.drift_uwh),
        "drift_percent": done.drift_percent,
        "compared_s": done.compared_us / SECOND_US,
        "left_out_wh": _wh(done.left_out_uwh),
        "repaired": done.repaired,
        "text": told(done),
    }


def told(done: Reconciled) -> str:
    """One sentence for people."""
    register = register_name(done.is_export)
    match done.outcome:
        case Outcome.NO_READINGS:
            return "no readings on this day"
        case Outcome.NO_REGISTER:
            return f"no {register} register on this day: its energy is known by power alone"
        case Outcome.NO_POWER:
            return f"no power on this day: nothing to hold the {register} register against"
        case Outcome.NEVER_TOGETHER:
            return f"power and the {register} register never covered the same time on this day"
    difference = f"{wh(abs(done.drift_uwh))} {'more' if done.drift_uwh >= 0 else 'less'}"
    share = "" if done.drift_percent is None else f" ({done.drift_percent:+.3f} %)"
    return (
        f"power says {difference} than the {register} register's {wh(done.register_uwh)}{share} "
        f"in {done.compared_us / HOUR_US:.1f} h"
    )


def _wh(energy_uwh: int) -> float:
    """Wh with three decimals, half up."""
    return (energy_uwh + 500) // 1000 / 1000


def reconciled(points: Sequence[Point], day: Day, limits: Limits) -> list[Reconciled]:
    """The registers of a channel on one day: import, and export where there is any.

    `points` are the channel's readings of the day and some before and after it, in order of time.
    """
    found = [_register(points, day, limits, is_export=False)]
    exports = any(p.export_uwh is not None or (p.power_mw or 0) < 0 for p in _within(points, day))
    if exports:
        found.append(_register(points, day, limits, is_export=True))
    return found


def _within(points: Sequence[Point], day: Day) -> list[Point]:
    return [point for point in points if day.start_us <= point.at_us < day.end_us]


def _register(points: Sequence[Point], day: Day, limits: Limits, *, is_export: bool) -> Reconciled:
    known = [
        (p.at_us, uwh)
        for p in points
        if (uwh := p.export_uwh if is_export else p.import_uwh) is not None
    ]
    power = _Power(points, limits.gap_limit_us, is_export)
    told = register_segments(known, limits, is_export=is_export)
    register = twice = compared = left_out = 0
    for segment in told.segments:
        if not day.start_us < segment.end_us <= day.end_us:
            continue
        area = power.between(segment.start_us, segment.end_us)
        if area is None or segment.why not in _TELLS:
            left_out += segment.energy_uwh
            continue
        register += segment.energy_uwh
        twice += area
        compared += segment.end_us - segment.start_us
    repaired = [
        repair
        for repair in told.repairs
        if day.start_us < repair.end_us <= day.end_us and repair.why not in _TELLS
    ]
    inside = _within(points, day)
    has_register = any((p.export_uwh if is_export else p.import_uwh) is not None for p in inside)
    outcome = _outcome(inside, has_register, compared)
    power_uwh = (twice + MWUS_PER_UWH) // (2 * MWUS_PER_UWH)
    return Reconciled(
        *(day, is_export, outcome, register, power_uwh, compared, left_out, len(repaired))
    )


def _outcome(inside: Sequence[Point], has_register: bool, compared_us: int) -> Outcome:
    if compared_us:
        return Outcome.COMPARED
    if not inside:
        return Outcome.NO_READINGS
    if not has_register:
        return Outcome.NO_REGISTER
    if all(point.power_mw is None for point in inside):
        return Outcome.NO_POWER
    return Outcome.NEVER_TOGETHER


class _Power:
    """The power of a channel in one direction, as twice its integral in mW·µs up to any instant."""

    def __init__(self, points: Sequence[Point], gap_limit_us: int, is_export: bool) -> None:
        said = [(p.at_us, p.power_mw) for p in points if p.power_mw is not None]
        self._side = 1 if is_export else 0
        self._times = [at for at, _ in said]
        self._powers = [power for _, power in said]
        self._areas, self._silent = [0], [0]
        for (t1, p1), (t2, p2) in pairwise(said):
            self._areas.append(self._areas[-1] + trapezoid(t1, p1, t2, p2, t2)[self._side])
            self._silent.append(self._silent[-1] + (t2 - t1 > gap_limit_us))

    def between(self, start_us: int, end_us: int) -> int | None:
        """Of [start, end]; None where power does not cover it from end to end."""
        times = self._times
        if not times or start_us < times[0] or end_us > times[-1]:
            return None
        first = bisect_right(times, start_us) - 1
        last = bisect_right(times, end_us - 1)  # the first reading at or after the end
        if self._silent[last] != self._silent[first]:
            return None
        return self._until(end_us) - self._until(start_us)

    def _until(self, at_us: int) -> int:
        i = bisect_right(self._times, at_us) - 1
        if self._times[i] == at_us:
            return self._areas[i]
        t1, p1, t2, p2 = *self._reading(i), *self._reading(i + 1)
        return self._areas[i] + trapezoid(t1, p1, t2, p2, at_us)[self._side]

    def _reading(self, i: int) -> tuple[int, int]:
        return self._times[i], self._powers[i]
