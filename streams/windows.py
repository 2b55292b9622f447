"""The open windows of one channel: what is held, when windows are complete, what must be redone.

`ChannelWindows` keeps the readings of the windows that are not complete yet, sorted, and a few
before them. Windows complete only when `complete` is called with a stream time, which the agent
does at tick records, so they depend on the log and never on where a fetch was cut. A reading that
changes windows already complete is answered with the span to be computed anew from the table.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple

from schemas.reading import VALUE_NAMES, ValueRow, Values
from schemas.units import HOUR_US, MINUTE_US, MW_PER_W, MWUS_PER_UWH, SECOND_US, UWH_PER_WH
from schemas.usage import Quality, Why
from streams.energy import (
    REACH,
    GapEnergy,
    Limits,
    Measured,
    Minute,
    Point,
    minutes_of,
    point_of,
    trapezoid,
)
from streams.packed_values import unpack_row
from streams.registers import Repair

NEVER = 1 << 62
GRACE_US = 10 * SECOND_US
"""How long after its end, in stream time, a window waits for stragglers."""


Held = tuple[int, Any, Any, Any, Any, Any, int | None, ValueRow | bytes]
"""A reading in memory: the six fields of `streams.energy.Point`, `seq`, and its values, those of a
sample packed (`row_of`).

A bare tuple, for one is made for every reading: 0.9 µs less than a named one.
"""


class Span(NamedTuple):
    """Instants `[start_us, end_us]` of a channel whose windows have to be computed anew."""

    start_us: int
    end_us: int

    def near(self, other: "Span") -> bool:
        """Whether the two overlap or lie within an hour of each other."""
        return self.start_us <= other.end_us + HOUR_US and other.start_us <= self.end_us + HOUR_US

    def joined(self, other: "Span") -> "Span":
        return Span(min(self.start_us, other.start_us), max(self.end_us, other.end_us))


_POWER, _IMPORT, _EXPORT, _INTERVAL = map(
    VALUE_NAMES.index, ("power_w", "import_total_wh", "export_total_wh", "interval_s")
)


def row_of(values: ValueRow | bytes) -> ValueRow:
    """The values of a reading in memory."""
    return values if isinstance(values, tuple) else unpack_row(values)


def held_of(measured_us: int, seq: int | None, values: ValueRow) -> Held:
    """`point_of`, `seq` and the values in one tuple."""
    power, imported, exported = values[_POWER], values[_IMPORT], values[_EXPORT]
    if values[_INTERVAL] is not None:
        return (*point_of(measured_us, Values(*values)), seq, values)
    return (
        measured_us,
        None if power is None else round(power * MW_PER_W),
        None if imported is None else round(imported * UWH_PER_WH),
        None if exported is None else round(exported * UWH_PER_WH),
        None,
        None,
        seq,
        values,
    )


class ChannelWindows:
    """The windows of one channel that are not complete yet.

    `complete_until_us`: every window that ends at or before it has been given out.
    `held`: the readings from there on, and enough before them to compute the next window.
    `heard_us`: stream time when the channel was last heard of. Silence is counted from there, for
    a backlog that is being drained is no silence, however old its readings are.
    """

    __slots__ = (
        "_context_full",
        "_gap_limit_us",
        "_irregular_at",
        "_last_export_us",
        "_last_import_us",
        "_last_interval_us",
        "_max_power_mw",
        "complete_until_us",
        "heard_us",
        "held",
        "limits",
    )

    def __init__(
        self,
        limits: Limits,
        complete_until_us: int,
        held: Iterable[Held] | None = None,
        *,
        context_full: bool = False,
    ) -> None:
        self.limits = limits
        self._gap_limit_us = limits.gap_limit_us
        self._max_power_mw = limits.max_power_mw
        self.complete_until_us = complete_until_us
        self.heard_us = 0
        self.held: list[Held] = []
        self._irregular_at = -1
        self._context_full = False
        self._last_import_us: int | None = None
        self._last_export_us: int | None = None
        self._last_interval_us: int | None = None
        for reading in held or ():
            self.append(reading)
        self._context_full = context_full

    def under(self, limits: Limits) -> "ChannelWindows":
        """The same windows, those that are not complete judged by other limits from now on."""
        same = ChannelWindows(
            limits, self.complete_until_us, self.held, context_full=self._context_full
        )
        same.heard_us = self.heard_us
        return same

    @staticmethod
    def first_window(reading: Held) -> int:
        """Where a channel's record begins: `complete_until_us` for its first reading."""
        return _floor(reading[0] - (reading[4] or 0))

    @property
    def context_full(self) -> bool:
        """Whether older readings than those held exist, or none is wanted."""
        return self._context_full

    @property
    def has_interval(self) -> bool:
        return self._last_interval_us is not None

    def is_before_memory(self, at_us: int) -> bool:
        """Whether a reading belongs to complete windows and is left to the table."""
        if not self.held:
            return at_us < self.complete_until_us
        return at_us < self.held[0][0] and at_us < self.complete_until_us and self._context_full

    @property
    def has_import(self) -> bool:
        return self._last_import_us is not None

    @property
    def has_export(self) -> bool:
        return self._last_export_us is not None

    def append(self, reading: Held) -> Span | None:
        """Take a reading newer than all held. Returns what it changes of complete windows."""
        held = self.held
        if not held:
            held.append(reading)
            if reading[1] is None or reading[4] is not None:
                self._irregular_at = reading[0]
            self._saw(reading)
            return Span(reading[0], reading[0]) if reading[0] < self.complete_until_us else None
        last = held[-1]
        held.append(reading)
        at, power, imported, exported, interval, *_ = reading
        before_us, power_before, imported_before, exported_before, *_ = last
        # Usually a reading says the same things as the one before, soon after, and plausibly.
        regular = interval is None and power is not None and power_before is not None
        if regular:
            width = at - before_us
            most_uwh = (self._max_power_mw * width + _SLACK) // MWUS_PER_UWH
            regular = width <= self._gap_limit_us
            if imported is None or imported_before is None:
                regular &= imported is imported_before
            else:
                regular &= 0 <= imported - imported_before <= most_uwh
                self._last_import_us = at
            if exported is None or exported_before is None:
                regular &= exported is exported_before
            else:
                regular &= 0 <= exported - exported_before <= most_uwh
                self._last_export_us = at
        if not regular:
            self._irregular_at = at
            self._saw(reading)
        if before_us < self.complete_until_us or self._irregular_at > held[0][0]:
            return self._changed_by(len(held) - 1)
        return None

    def _saw(self, reading: Held) -> None:
        at = reading[0]
        if reading[2] is not None:
            self._context_full &= self._last_import_us is not None
            self._last_import_us = max(at, self._last_import_us or at)
        if reading[3] is not None:
            self._context_full &= self._last_export_us is not None
            self._last_export_us = max(at, self._last_export_us or at)
        if reading[4] is not None:
            self._context_full &= self._last_interval_us is not None
            self._last_interval_us = max(at, self._last_interval_us or at)

    def insert(self, reading: Held) -> Span | None:
        """Take a reading that is not newer than the newest held.

        A held reading with the same instant is replaced. One from before all that is held belongs
        to complete windows and is left to the table.
        """
        held = self.held
        at = reading[0]
        if self.is_before_memory(at):
            return Span(at, at)
        i = bisect_left(held, (at,))
        if i < len(held) and held[i][0] == at:
            held[i] = reading
        else:
            held.insert(i, reading)
        self._irregular_at = held[-1][0]
        self._saw(reading)
        return self._changed_by(i)

    def find(self, at_us: int) -> Held | None:
        i = bisect_left(self.held, (at_us,))
        return self.held[i] if i < len(self.held) and self.held[i][0] == at_us else None

    def _changed_by(self, i: int) -> Span | None:
        """The complete windows that the reading at index `i` of `held` can change."""
        held = self.held
        reading = held[i]
        at = start = reading[0]
        if reading[4] is not None:
            start = min(at - reading[4], self._next_interval_start(i))
        if reading[1] is not None:
            start = min(start, self._power_before(i))
        for column, last_us in ((2, self._last_import_us), (3, self._last_export_us)):
            if reading[column] is not None:
                start = min(start, self._registers_before(i, column))
            elif last_us is not None:
                start = min(start, self._segment_around(i, column, start))
        if start >= self.complete_until_us:
            return None
        return Span(start, min(at, self.complete_until_us - 1))

    def _next_interval_start(self, i: int) -> int:
        """Where the interval after index `i` begins, which counts from index `i` on only."""
        held = self.held
        for k in range(i + 1, len(held)):
            if held[k][4] is not None:
                return int(held[k][0] - held[k][4])
        return int(held[i][0])

    def _power_before(self, i: int) -> int:
        """The instant of the power reading that index `i` is integrated from, else its own."""
        held = self.held
        at = held[i][0]
        for k in range(i - 1, -1, -1):
            if at - held[k][0] > self.limits.gap_limit_us:
                break
            if held[k][1] is not None:
                return held[k][0]
        return at

    def _registers_before(self, i: int, column: int) -> int:
        """The instant of the oldest register reading whose segments index `i` can change."""
        held = self.held
        oldest, seen = held[i][0], 0
        for k in range(i - 1, -1, -1):
            if held[k][column] is not None:
                oldest, seen = held[k][0], seen + 1
                if seen == (REACH if self._irregular_at >= oldest else 1):
                    break
        return oldest

    def _segment_around(self, i: int, column: int, at_us: int) -> int:
        """The instant of the register reading before `at_us`, if what index `i` says of the time
        from there on changes the segment that begins with it; else `at_us`.

        What comes after a segment changes it only where its register says nothing.
        """
        held: list[tuple[Any, ...]] = self.held
        first = bisect_left(held, (at_us + 1,))
        after = next((k for k in range(first, len(held)) if held[k][column] is not None), None)
        before = next((k for k in range(first - 1, -1, -1) if held[k][column] is not None), None)
        if after is None or before is None:
            return at_us
        begins_us: int = held[before][0]
        ends = (begins_us, held[before][column]), (held[after][0], held[after][column])
        return at_us if after < i and self.limits.plausible(*ends) else begins_us

    # -- completing

    def ripe_until(self, stream_us: int) -> int:
        """The end of the last window that is complete at a stream time."""
        if not self.held:
            return self.complete_until_us
        last = self.held[-1][0]
        known = self._known_until_us()
        by_reading = min(_floor(known), _floor(stream_us - GRACE_US))
        patience_us = self.limits.gap_limit_us
        if stream_us < self.heard_us + patience_us:
            return max(by_reading, self.complete_until_us)
        by_silence = min(_floor(stream_us - patience_us), _ceil(last))
        return max(by_reading, by_silence, self.complete_until_us)

    def due(self) -> tuple[int, int] | None:
        """When a window could complete: the earliest stream time without a new reading, and the
        instant of a reading that would make it sooner (`NEVER` where none is waited for).

        None when nothing is open: the newest reading lies in a complete window.
        """
        held = self.held
        if not held or held[-1][0] < self.complete_until_us:
            return None
        known_us, end = self._known_until_us(), self.complete_until_us + MINUTE_US
        if known_us >= end:
            return end + GRACE_US, NEVER
        first = held[bisect_left(held, (self.complete_until_us,))]
        end = _floor(max(self.complete_until_us, first[0] - (first[4] or 0))) + MINUTE_US
        return max(end, self.heard_us) + self.limits.gap_limit_us, end

    def _known_until_us(self) -> int:
        known = self.held[-1][0] if self.held else 0
        if self._last_import_us is not None:
            known = min(known, self._last_import_us)
        if self._last_export_us is not None:
            known = min(known, self._last_export_us)
        return known

    def complete(self, stream_us: int) -> Measured:
        """Give out the windows that are complete at `stream_us`, once each."""
        until = self.ripe_until(stream_us)
        start = self.complete_until_us
        if until <= start:
            return _NOTHING
        held = self.held
        if self._irregular_at < held[0][0] and until <= held[-1][0]:
            done = Measured(self._regular_minutes(start, until), _NO_GAPS, _NO_REPAIRS)
        else:
            points = [Point(*reading[:6]) for reading in held]
            done = minutes_of(points, start, until, self.limits)
        self.complete_until_us = until
        self._trim()
        return done

    def _trim(self) -> None:
        held = self.held
        i = bisect_left(held, (self.complete_until_us,))
        if self._irregular_at < held[0][0]:
            self._context_full = i >= REACH
            del held[: max(0, i - REACH)]
            return
        wanted = {1: 2}
        if self._last_import_us is not None:
            wanted[2] = REACH
        if self._last_export_us is not None:
            wanted[3] = REACH
        if self._last_interval_us is not None:
            wanted[4] = 2
        while i > 0 and any(wanted.values()):
            i -= 1
            for column, count in wanted.items():
                if count and held[i][column] is not None:
                    wanted[column] = count - 1
            if len(held) - i > _MOST_HELD:
                break
        self._context_full = i > 0 or not any(wanted.values())
        del held[:i]

    def _regular_minutes(self, start_us: int, until_us: int) -> list[Minute]:
        """`minutes_of` for the usual case: power always, registers always or never, no surprise.

        `held` reaches from before `start_us` (or from the channel's first reading) to `until_us`.
        """
        held = self.held
        minutes = []
        window = start_us
        i = bisect_left(held, (window,))
        first = held[0][0]
        by_register = held[0][2] is not None
        by_export = held[0][3] is not None
        while window < until_us:
            end = window + MINUTE_US
            j = bisect_left(held, (end,), i)
            if j == 0:
                window = end
                continue
            inside = held[i:j]
            powers = [reading[1] for reading in inside]
            minute = Minute(window, readings=j - i, power_readings=j - i)
            if powers:
                minute.power_min_mw = min(powers)
                minute.power_max_mw = max(powers)
                minute.power_sum_mw = sum(powers)
            if by_register:
                minute.energy_uwh = self._register_at(2, 0, j, end) - self._register_at(
                    2, 0, i, window
                )
            else:
                minute.quality = Quality.INTEGRATED
            if by_export:
                minute.export_uwh = self._register_at(3, 1, j, end) - self._register_at(
                    3, 1, i, window
                )
            if not (by_register and by_export):
                above, below = self._areas(i, j, window, end)
                if not by_register:
                    minute.energy_uwh = (above + MWUS_PER_UWH) // (2 * MWUS_PER_UWH)
                if not by_export:
                    minute.export_uwh = (below + MWUS_PER_UWH) // (2 * MWUS_PER_UWH)
            if first > window:
                minute.quality, minute.why = Quality.GAP, Why.SILENCE
            minutes.append(minute)
            window, i = end, j
        return minutes

    def _register_at(self, column: int, part: int, i: int, at_us: int) -> int:
        """The register at a boundary: between readings i-1 and i, shaped by their power."""
        held = self.held
        after: tuple[Any, ...] = held[i]
        if i == 0 or after[0] == at_us:
            return int(after[column])
        before: tuple[Any, ...] = held[i - 1]
        t1, p1, r1, t2, p2 = before[0], before[1], before[column], after[0], after[1]
        rise = after[column] - r1
        total = trapezoid(t1, p1, t2, p2, t2)[part]
        if total == 0:
            return int(r1 + rise * (at_us - t1) // (t2 - t1))
        return int(r1 + rise * trapezoid(t1, p1, t2, p2, at_us)[part] // total)

    def _areas(self, i: int, j: int, start_us: int, end_us: int) -> tuple[int, int]:
        """Twice the integral of power above and below zero over one window, in mW·µs."""
        held = self.held
        above = below = 0
        for k in range(max(i, 1), j + 1):
            t1, p1 = held[k - 1][0], held[k - 1][1]
            t2, p2 = held[k][0], held[k][1]
            if t1 >= start_us and t2 <= end_us and p1 >= 0 and p2 >= 0:
                above += (p1 + p2) * (t2 - t1)
                continue
            up_to_end = trapezoid(t1, p1, t2, p2, min(t2, end_us))
            above += up_to_end[0]
            below += up_to_end[1]
            if t1 < start_us:
                up_to_start = trapezoid(t1, p1, t2, p2, start_us)
                above -= up_to_start[0]
                below -= up_to_start[1]
        return above, below


def _floor(at_us: int) -> int:
    return at_us - at_us % MINUTE_US


def _ceil(at_us: int) -> int:
    """The end of the window that holds `at_us`."""
    return at_us - at_us % MINUTE_US + MINUTE_US


_SLACK = MWUS_PER_UWH * 10_000_000
_MOST_HELD = 4096
_NO_GAPS: list[GapEnergy] = []
_NO_REPAIRS: list[Repair] = []
_NOTHING = Measured([], _NO_GAPS, _NO_REPAIRS)
