"""The rows behind one quarter hour of the ledger, down to the readings and where they came from."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import args_row

from schemas.reading import VALUE_NAMES, Clock, Source, ValueRow
from schemas.units import QUARTER_US
from sinks.register_repairs import RepairRecord
from sinks.usage_windows import GapRecord, MinuteRecord

QUARTER = timedelta(microseconds=QUARTER_US)
MOST_READINGS = 20_000
"""Of one quarter hour and the segments that cross it: a reading each 50 ms."""

Connection = psycopg.Connection[Any]


class QuarterRow(NamedTuple):
    """A row of `usage_15m`. µWh."""

    energy_uwh: int
    export_uwh: int
    readings: int
    quality: int
    why: int
    complete: bool
    revision: int
    changed_at: datetime


class Changed(NamedTuple):
    """How often a row changed, and the log offset that last did."""

    revision: int
    offset: int


class StoredReading(NamedTuple):
    """A row of `readings`, or of `reading_conflict`, with the place of its bytes in the raw log."""

    measured_us: int
    received_us: int | None
    offset: int
    seq: int | None
    clock: Clock | None
    source: Source | None
    values: ValueRow


@dataclass(frozen=True)
class QuarterRows:
    """What is stored of [start_us, start_us + 15 min) of a channel; `part` of the raw log."""

    channel_id: int
    start_us: int
    part: int
    complete_until_us: int
    quarter: QuarterRow | None
    minutes: list[tuple[MinuteRecord, Changed]]
    gaps: list[tuple[GapRecord, Changed]]
    repairs: list[tuple[RepairRecord, int]]
    readings: list[StoredReading]
    conflicts: list[StoredReading]

    @property
    def end_us(self) -> int:
        return self.start_us + QUARTER_US


_STATE = """
SELECT part, to_us(complete_until) FROM channel_state WHERE channel_id = %(channel_id)s
"""
_QUARTER = """
SELECT energy_uwh, export_uwh, readings, quality, why, complete, revision, changed_at
FROM usage_15m WHERE channel_id = %(channel_id)s AND window_start = from_us(%(start_us)s)
"""
_MINUTES = """
SELECT channel_id, to_us(window_start), energy_uwh, export_uwh, power_min_w, power_avg_w,
       power_max_w, readings, quality, why, revision, changed_offset
FROM usage_1m WHERE channel_id = %(channel_id)s
    AND window_start >= from_us(%(start_us)s) AND window_start < from_us(%(end_us)s)
ORDER BY window_start
"""
_GAPS = """
SELECT channel_id, to_us(start_at), to_us(end_at), energy_uwh, export_uwh, why, revision,
       changed_offset
FROM gap_energy WHERE channel_id = %(channel_id)s
    AND start_at < from_us(%(end_us)s) AND end_at > from_us(%(start_us)s)
    AND (energy_uwh <> 0 OR export_uwh <> 0)
ORDER BY start_at
"""
_REPAIRS = """
SELECT channel_id, to_us(start_at), to_us(at), is_export, to_us(end_at), why, energy_uwh,
       before_uwh, after_uwh, changed_offset
FROM register_repair WHERE channel_id = %(channel_id)s
    AND start_at < from_us(%(end_us)s) AND end_at > from_us(%(start_us)s)
ORDER BY at, is_export
"""
_VALUES = ", ".join(f"r.{name}" for name in VALUE_NAMES)
# With the context that decides the windows: `touched_by` is the rule of late readings.
_READINGS = f"""
SELECT to_us(r.measured_at), to_us(r.received_at), r.log_offset, r.seq, r.clock, r.source, {_VALUES}
FROM channel_state AS s
CROSS JOIN LATERAL touched_by(s.channel_id, from_us(%(start_us)s), from_us(%(end_us)s - 1),
                              %(gap_limit_us)s * interval '1 microsecond',
                              s.has_import, s.has_export, s.has_interval) AS near
JOIN readings AS r ON r.channel_id = s.channel_id AND r.measured_at BETWEEN near.low AND near.high
WHERE s.channel_id = %(channel_id)s
ORDER BY r.measured_at
LIMIT {MOST_READINGS}
"""
_CONFLICTS = """
SELECT to_us(measured_at), log_offset, seq, reading FROM reading_conflict
WHERE channel_id = %(channel_id)s
    AND measured_at >= from_us(%(start_us)s) AND measured_at < from_us(%(end_us)s)
ORDER BY measured_at, log_offset
"""


def quarter_rows(
    conn: Connection, channel_id: int, start_us: int, gap_limit_us: int
) -> QuarterRows | None:
    """Everything behind one quarter hour; None for a channel of which nothing is complete yet."""
    asked = {
        "channel_id": channel_id,
        "start_us": start_us,
        "end_us": start_us + QUARTER_US,
        "gap_limit_us": gap_limit_us,
    }
    state = conn.execute(_STATE, asked).fetchone()
    if state is None:
        return None
    part, complete_until_us = state
    with conn.cursor(row_factory=args_row(QuarterRow)) as cursor:
        quarter = cursor.execute(_QUARTER, asked).fetchone()
    return QuarterRows(
        channel_id,
        start_us,
        part,
        complete_until_us,
        quarter,
        [(MinuteRecord(*row[:10]), Changed(*row[10:])) for row in conn.execute(_MINUTES, asked)],
        [(GapRecord(*row[:6]), Changed(*row[6:])) for row in conn.execute(_GAPS, asked)],
        [(RepairRecord(*row[:9]), row[9]) for row in conn.execute(_REPAIRS, asked)],
        [_reading(*row) for row in conn.execute(_READINGS.encode(), asked)],
        [_conflict(*row) for row in conn.execute(_CONFLICTS, asked)],
    )


def _reading(
    measured_us: int,
    received_us: int,
    offset: int,
    seq: int | None,
    clock: int,
    source: int,
    *values: float | None,
) -> StoredReading:
    return StoredReading(
        measured_us, received_us, offset, seq, Clock(clock), Source(source), values
    )


def _conflict(
    measured_us: int, offset: int, seq: int | None, said: dict[str, float]
) -> StoredReading:
    values = tuple(said.get(name) for name in VALUE_NAMES)
    return StoredReading(measured_us, None, offset, seq, None, None, values)
