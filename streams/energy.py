"""From readings to the energy of minutes: pure, exact, and the same whatever the order of arrival.

`minutes_of` takes the readings of one channel in order of time and gives its one-minute windows.
The stream calls it for windows as they complete, the correction of late data calls it with
readings fetched from the table, and `verify` calls it again: there is one rule, here.

Energy is whole µWh. What a register says is split by cumulative rounding between its own two
readings, so the parts sum to its difference exactly; power is integrated exactly in mW·µs and
rounded once a window.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from schemas.reading import Values
from schemas.units import HOUR_US, MINUTE_US, MWUS_PER_UWH, SECOND_US, w_to_mw, wh_to_uwh
from schemas.usage import Quality, Why
from streams.registers import REACH as REACH
from streams.registers import Limits as Limits
from streams.registers import Repair, Segment, Silent, Told, register_segments
from streams.stored_minutes import Stored, cut

LONGEST_SPREAD_US = 2 * HOUR_US
"""A register's silence longer than this makes one `GapEnergy` and no minutes."""


class Point(NamedTuple):
    """A reading as energy sees it, in whole units. `interval_us` reaches back from `at_us`."""

    at_us: int
    power_mw: int | None = None
    import_uwh: int | None = None
    export_uwh: int | None = None
    interval_us: int | None = None
    interval_uwh: int | None = None


def point_of(measured_us: int, values: Values) -> Point:
    """Quantise a reading. The same stored value always gives the same whole number."""
    power, imported, exported = values.power_w, values.import_total_wh, values.export_total_wh
    interval_s, interval_wh = values.interval_s, values.interval_import_wh
    stored = interval_s is not None and interval_wh is not None
    return Point(
        measured_us,
        None if power is None else w_to_mw(power),
        None if imported is None else wh_to_uwh(imported),
        None if exported is None else wh_to_uwh(exported),
        round(interval_s * SECOND_US) if interval_s is not None and stored else None,
        wh_to_uwh(interval_wh) if interval_wh is not None and stored else None,
    )


@dataclass(slots=True)
class Minute:
    """The window `[start_us, start_us + 60 s)` of a channel. Equal minutes are the same row."""

    start_us: int
    energy_uwh: int = 0
    export_uwh: int = 0
    readings: int = 0
    power_min_mw: int | None = None
    power_max_mw: int | None = None
    power_sum_mw: int = 0
    power_readings: int = 0
    quality: Quality = Quality.MEASURED
    why: Why = Why.NOTHING


class GapEnergy(NamedTuple):
    """What a register gained in `[start_us, end_us)` while nobody saw how."""

    start_us: int
    end_us: int
    energy_uwh: int
    export_uwh: int
    why: Why


class Measured(NamedTuple):
    minutes: list[Minute]
    gaps: list[GapEnergy]
    repairs: list[Repair]


def minutes_of(points: Sequence[Point], start_us: int, end_us: int, limits: Limits) -> Measured:
    """The windows of `[start_us, end_us)` that hold a reading or some energy.

    `points` are the channel's readings in order of time, one an instant, with at least `REACH`
    register readings before `start_us` and after `end_us` where there are so many. `start_us` and
    `end_us` lie on whole minutes. A gap's energy and a repair are given when their start lies in
    the range.
    """
    build = _Build(points, start_us, end_us, limits)
    imports = register_segments(_series(points, 2), limits)
    exports = register_segments(_series(points, 3), limits, is_export=True)
    build.hidden_by_resets(imports, 1)
    build.hidden_by_resets(exports, -1)
    build.registers(imports.segments, exports.segments)
    build.intervals(imports.segments)
    build.power(imports.segments, exports.segments, imports.silent + exports.silent)
    build.count()
    build.keep_repairs(imports, exports)
    return build.finish()


def _series(points: Sequence[Point], column: int) -> list[tuple[int, int]]:
    return [(p[0], p[column]) for p in points if p[column] is not None]  # type: ignore[misc]


def _stored(points: Sequence[Point]) -> list[Stored]:
    """The device's own interval energies; each counts from where the one before has ended."""
    stored: list[Stored] = []
    told_until = -(1 << 62)
    for point in points:
        if point.interval_us is not None and point.interval_uwh is not None:
            start_us, end_us = point.at_us - point.interval_us, point.at_us
            since_us = max(start_us, told_until)
            stored.append(Stored(start_us, end_us, since_us, point.interval_uwh))
            told_until = end_us
    return stored


class _Shape:
    """How power ran between two instants: the weight by which a register's difference is spread.

    `weight(t)` is twice the integral of the power in one direction from the first point to `t`.
    """

    def __init__(self, times: list[int], powers: list[int], sign: int) -> None:
        self._times, self._powers, self._sign = times, powers, sign
        self._before = [0]
        for i in range(1, len(times)):
            self._before.append(self._before[-1] + self._area(i - 1, times[i]))

    def _area(self, i: int, until_us: int) -> int:
        ahead, back = trapezoid(
            self._times[i], self._powers[i], self._times[i + 1], self._powers[i + 1], until_us
        )
        return ahead if self._sign > 0 else back

    def weights(self, boundaries: Sequence[int]) -> Iterator[int]:
        i = 0
        for boundary in boundaries:
            while self._times[i + 1] < boundary:
                i += 1
            yield self._before[i] + self._area(i, boundary)

    @property
    def total(self) -> int:
        return self._before[-1]


def trapezoid(t1: int, p1: int, t2: int, p2: int, until_us: int) -> tuple[int, int]:
    """Twice the integral, in mW·µs, of the line from (t1, p1) to (t2, p2) up to `until_us`.

    Returns the part above and the part below zero, both positive.
    """
    x, width = until_us - t1, t2 - t1
    net = 2 * p1 * x + (p2 - p1) * x * x // width
    if p1 >= 0 and p2 >= 0:
        return net, 0
    if p1 <= 0 and p2 <= 0:
        return 0, -net
    above_all = p1 * p1 * width // abs(p1 - p2)  # the triangle on p1's side of the crossing
    crossed = x * abs(p1 - p2) >= abs(p1) * width
    if p1 > 0:
        above = above_all if crossed else net
        return above, above - net
    below = above_all if crossed else -net
    return net + below, below


class _Build:
    """One call of `minutes_of`: its windows while they are being filled."""

    def __init__(self, points: Sequence[Point], start_us: int, end_us: int, limits: Limits) -> None:
        self.points, self.start_us, self.end_us, self.limits = points, start_us, end_us, limits
        self.times = [p.at_us for p in points]
        self.powered = [(p.at_us, p.power_mw) for p in points if p.power_mw is not None]
        self.minutes: dict[int, Minute] = {}
        self.covered_us: dict[int, int] = {}
        self.import2: dict[int, int] = {}  # twice mW·µs, from power
        self.export2: dict[int, int] = {}
        self.gaps: list[GapEnergy] = []
        self.repairs: list[Repair] = []
        self.told: list[Segment] = []
        self.stored = _stored(points)

    def minute(self, start_us: int) -> Minute:
        minute = self.minutes.get(start_us)
        if minute is None:
            minute = self.minutes[start_us] = Minute(start_us)
        return minute

    def mark(self, minute: Minute, quality: Quality, why: Why) -> None:
        if quality > minute.quality or (quality == minute.quality and why > minute.why):
            minute.quality, minute.why = quality, why

    # -- registers

    def hidden_by_resets(self, told: Told, sign: int) -> None:
        """Put back what a register counted between its last reading and its reset.

        Only power knows of it. It is believed over the register where even the lesser of each two
        power readings, all along, makes more than the register has counted since it was reset.
        """
        for i, segment in enumerate(told.segments):
            if segment.why is not Why.REGISTER_RESET or not self.touches(segment):
                continue
            power = self.between(segment.start_us, segment.end_us, sign)
            if power is None:
                continue
            least = sum(min(p1, p2) * (t2 - t1) for (t1, p1), (t2, p2) in pairwise(power))
            if segment.energy_uwh * 100 * MWUS_PER_UWH >= 99 * least:
                continue
            energy = sum((p1 + p2) * (t2 - t1) for (t1, p1), (t2, p2) in pairwise(power))
            told.segments[i] = segment._replace(
                energy_uwh=_halved(energy), quality=Quality.INTEGRATED
            )

    def touches(self, segment: Segment) -> bool:
        return segment.end_us > self.start_us and segment.start_us < self.end_us

    def between(self, start_us: int, end_us: int, sign: int) -> list[tuple[int, int]] | None:
        """The power readings of `[start_us, end_us]` in one direction, with both ends; None where
        too many are missing. An end without a reading has the next one's, of a minute at most.
        """
        low = bisect_left(self.powered, (start_us, -(1 << 62)))
        high = bisect_right(self.powered, (end_us, 1 << 62))
        inside = [(at, max(0, sign * p)) for at, p in self.powered[low:high] if p is not None]
        if not inside or max(inside[0][0] - start_us, end_us - inside[-1][0]) > MINUTE_US:
            return None
        if max((b[0] - a[0] for a, b in pairwise(inside)), default=0) > self.limits.gap_limit_us:
            return None
        return [(start_us, inside[0][1]), *inside, (end_us, inside[-1][1])]

    def registers(self, imports: list[Segment], exports: list[Segment]) -> None:
        hidden: dict[tuple[int, int], list[int]] = {}
        for segments, sign in ((imports, 1), (exports, -1)):
            for segment in segments:
                if not self.touches(segment):
                    continue
                for part in self.parts(segment, sign):
                    if self.spread(part, sign):
                        continue
                    span = hidden.setdefault((part.start_us, part.end_us), [0, 0, 0])
                    span[0 if sign > 0 else 1] += part.energy_uwh
                    span[2] = max(span[2], part.why, Why.SILENCE)
        for (start_us, end_us), (energy, export, why) in sorted(hidden.items()):
            if start_us >= self.start_us:
                self.gaps.append(GapEnergy(start_us, end_us, energy, export, Why(why)))

    def parts(self, segment: Segment, sign: int) -> list[Segment]:
        """A segment, cut by what the device stored of its silence; of export it stores nothing."""
        silence_us = segment.end_us - segment.start_us
        if sign < 0 or segment.why or not self.stored or silence_us <= self.limits.gap_limit_us:
            return [segment]
        if self.shape(segment.start_us, segment.end_us, sign) is not None:
            return [segment]
        return cut(segment, self.stored, self.limits)

    def spread(self, segment: Segment, sign: int) -> bool:
        """Split a segment over its minutes; False when it is a gap's energy instead."""
        start_us, end_us, energy, why, quality = segment
        first, last = start_us // MINUTE_US, (end_us - 1) // MINUTE_US
        silent = end_us - start_us > self.limits.gap_limit_us
        if first == last:
            self.add(first * MINUTE_US, energy, sign, end_us - start_us, why, quality, silent)
            return True
        shape = self.shape(start_us, end_us, sign)
        if shape is None and end_us - start_us > LONGEST_SPREAD_US:
            return False
        boundaries = [k * MINUTE_US for k in range(first + 1, last + 1)]
        if shape is None or shape.total == 0:
            width = end_us - start_us
            shares = [energy * (b - start_us) // width for b in boundaries]
        else:
            shares = [energy * w // shape.total for w in shape.weights(boundaries)]
        before_us, before = start_us, 0
        for boundary, share in zip([*boundaries, end_us], [*shares, energy], strict=True):
            window = (boundary - 1) // MINUTE_US * MINUTE_US
            covered = boundary - before_us
            unseen = silent and shape is None
            self.add(window, share - before, sign, covered, why, quality, unseen)
            before_us, before = boundary, share
        return True

    def add(
        self,
        window: int,
        energy: int,
        sign: int,
        covered_us: int,
        why: Why,
        quality: Quality,
        silent: bool,
    ) -> None:
        if not self.start_us <= window < self.end_us:
            return
        minute = self.minute(window)
        if sign < 0:
            minute.export_uwh += energy
            return
        minute.energy_uwh += energy
        self.covered_us[window] = self.covered_us.get(window, 0) + covered_us
        if silent:
            self.mark(minute, Quality.INTERPOLATED, max(why, Why.SILENCE))
        elif why or quality:
            self.mark(minute, quality, why)

    def shape(self, start_us: int, end_us: int, sign: int) -> _Shape | None:
        """The run of power over a segment, if readings cover it from end to end."""
        low = bisect_left(self.powered, (start_us, -(1 << 62)))
        high = bisect_right(self.powered, (end_us, 1 << 62))
        inside = self.powered[low:high]
        if len(inside) < 2 or inside[0][0] != start_us or inside[-1][0] != end_us:
            return None
        times = [at for at, _ in inside]
        longest = max(b - a for a, b in pairwise(times))
        if longest > self.limits.gap_limit_us:
            return None
        return _Shape(times, [power for _, power in inside if power is not None], sign)

    # -- the device's own intervals, where no register speaks

    def intervals(self, imports: list[Segment]) -> None:
        free = _Free([(s.start_us, s.end_us) for s in imports])
        for stored in self.stored:
            for a, b in free.parts(stored.since_us, stored.end_us):
                part = _part(stored.energy_uwh, stored.start_us, stored.end_us, a, b)
                self.spread(part, 1)
                self.told.append(part)
                for window in range(a - a % MINUTE_US, b, MINUTE_US):
                    if self.start_us <= window < self.end_us:
                        self.mark(self.minute(window), Quality.INTEGRATED, Why.NOTHING)

    # -- power, where neither speaks

    def power(
        self,
        imports: list[Segment],
        exports: list[Segment],
        silent: list[Silent],
    ) -> None:
        import_free = _Free([(s.start_us, s.end_us) for s in imports + self.told])
        export_free = _Free([(s.start_us, s.end_us) for s in exports])
        tail_from = max((p.at_us for p in self.points if p.import_uwh is not None), default=None)
        for (t1, p1), (t2, p2) in pairwise(self.powered):
            if t2 <= self.start_us or t1 >= self.end_us:
                continue
            if t2 - t1 > self.limits.gap_limit_us or p1 is None or p2 is None:
                continue
            for a, b in import_free.parts(t1, t2):
                self.integrate(t1, p1, t2, p2, a, b, self.import2, 0)
                self.cover(a, b, tail_from, silent)
            for a, b in export_free.parts(t1, t2):
                self.integrate(t1, p1, t2, p2, a, b, self.export2, 1)

    def integrate(
        self, t1: int, p1: int, t2: int, p2: int, a: int, b: int, into: dict[int, int], part: int
    ) -> None:
        before = trapezoid(t1, p1, t2, p2, a)[part]
        for boundary in _boundaries(a, b):
            area = trapezoid(t1, p1, t2, p2, boundary)[part]
            window = (boundary - 1) // MINUTE_US * MINUTE_US
            if self.start_us <= window < self.end_us:
                self.minute(window)
                into[window] = into.get(window, 0) + area - before
            before = area

    def cover(self, a: int, b: int, tail_from: int | None, silent: list[Silent]) -> None:
        quality, why = Quality.INTEGRATED, Why.NOTHING
        if tail_from is not None and a >= tail_from:
            quality, why = Quality.PROVISIONAL, Why.LATE_REGISTER
        for start_us, end_us, reason in silent:
            if start_us <= a < end_us:
                why = reason
        before = a
        for boundary in _boundaries(a, b):
            window = (boundary - 1) // MINUTE_US * MINUTE_US
            if self.start_us <= window < self.end_us:
                self.covered_us[window] = self.covered_us.get(window, 0) + boundary - before
                self.mark(self.minute(window), quality, why)
            before = boundary

    # -- the rest

    def count(self) -> None:
        for point in self.points:
            at_us, power = point.at_us, point.power_mw
            if not self.start_us <= at_us < self.end_us:
                continue
            minute = self.minute(at_us - at_us % MINUTE_US)
            minute.readings += 1
            if power is None:
                continue
            minute.power_readings += 1
            minute.power_sum_mw += power
            low, high = minute.power_min_mw, minute.power_max_mw
            minute.power_min_mw = power if low is None or power < low else low
            minute.power_max_mw = power if high is None or power > high else high

    def keep_repairs(self, imports: Told, exports: Told) -> None:
        for told in (imports, exports):
            counted = {segment[:2]: segment.energy_uwh for segment in told.segments}
            silent = {span[:2] for span in told.silent}
            for repair in told.repairs:
                if not self.start_us <= repair.start_us < self.end_us:
                    continue
                span = repair.start_us, repair.end_us
                if repair.why is Why.REGISTER_SPIKE:
                    energy = 0
                elif span in silent:
                    energy = self.stood_in(*span, repair.is_export)
                else:
                    energy = counted[span]
                self.repairs.append(repair._replace(energy_uwh=energy))

    def stood_in(self, start_us: int, end_us: int, is_export: bool) -> int:
        """What intervals and power told of a span of which the register says nothing, in µWh."""
        energy, told = 0, [] if is_export else self.told
        for part in told:
            a, b = max(part.start_us, start_us), min(part.end_us, end_us)
            if a < b:
                energy += _part(part.energy_uwh, part.start_us, part.end_us, a, b).energy_uwh
        free = _Free([(part.start_us, part.end_us) for part in told])
        low = max(0, bisect_right(self.powered, (start_us, 1 << 62)) - 1)
        high = bisect_left(self.powered, (end_us, -(1 << 62))) + 1
        twice, direction = 0, 1 if is_export else 0
        for (t1, p1), (t2, p2) in pairwise(self.powered[low:high]):
            if t2 - t1 > self.limits.gap_limit_us or p1 is None or p2 is None:
                continue
            for a, b in free.parts(max(t1, start_us), min(t2, end_us)):
                twice += trapezoid(t1, p1, t2, p2, b)[direction]
                twice -= trapezoid(t1, p1, t2, p2, a)[direction]
        return energy + _halved(twice)

    def finish(self) -> Measured:
        for start_us, minute in self.minutes.items():
            minute.energy_uwh += _halved(self.import2.get(start_us, 0))
            minute.export_uwh += _halved(self.export2.get(start_us, 0))
            if self.covered_us.get(start_us, 0) < MINUTE_US:
                self.mark(minute, Quality.GAP, Why.SILENCE)
        minutes = [self.minutes[key] for key in sorted(self.minutes)]
        return Measured(minutes, self.gaps, sorted(self.repairs))


class _Free:
    """The time that no span covers. Spans may touch; asked for in rising order."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._spans = sorted(spans)
        self._next = 0

    def parts(self, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        spans = self._spans
        while self._next < len(spans) and spans[self._next][1] <= start_us:
            self._next += 1
        at, i = start_us, self._next
        while i < len(spans) and spans[i][0] < end_us:
            if spans[i][0] > at:
                yield at, spans[i][0]
            at = max(at, spans[i][1])
            i += 1
        if at < end_us:
            yield at, end_us


def _halved(twice_mwus: int) -> int:
    """µWh of twice an integral in mW·µs, rounded."""
    return (twice_mwus + MWUS_PER_UWH) // (2 * MWUS_PER_UWH)


def _part(energy_uwh: int, start_us: int, end_us: int, a: int, b: int) -> Segment:
    """The part [a, b) of an even energy over [start, end), by cumulative rounding."""
    width = end_us - start_us
    share = energy_uwh * (b - start_us) // width - energy_uwh * (a - start_us) // width
    return Segment(a, b, share, Why.NOTHING)


def _boundaries(start_us: int, end_us: int) -> Iterator[int]:
    """Whole minutes inside `(start_us, end_us)`, then `end_us`."""
    boundary = start_us - start_us % MINUTE_US + MINUTE_US
    while boundary < end_us:
        yield boundary
        boundary += MINUTE_US
    yield end_us
