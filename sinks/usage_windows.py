"""Windows, gaps and what the stream keeps of channels, as rows."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg

from sinks.copy_block import PG_EPOCH_US


class MinuteRecord(NamedTuple):
    """A row of `usage_1m` but for its revision. Energies in µWh, time in µs."""

    channel_id: int
    start_us: int
    energy_uwh: int
    export_uwh: int
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    readings: int
    quality: int
    why: int


class GapRecord(NamedTuple):
    """A row of `gap_energy` but for its revision."""

    channel_id: int
    start_us: int
    end_us: int
    energy_uwh: int
    export_uwh: int
    why: int


_COLUMNS = (
    "channel_id, window_start, energy_uwh, export_uwh, power_min_w, power_avg_w, power_max_w, "
    "readings, quality, why, revision, changed_offset"
)
_COPY_NEW = f"COPY usage_1m ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_HEAD = ">hiiiqiqiq"
_TAIL = "iiihihiiiq"
_WITH_POWER = struct.Struct(_HEAD + "ididid" + _TAIL).pack
_WITHOUT_POWER = struct.Struct(_HEAD + "iii" + _TAIL).pack
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack(">h", -1)


def copy_new_minutes(
    conn: psycopg.Connection[Any], rows: Iterable[tuple[MinuteRecord, int]]
) -> None:
    """Store windows that are complete for the first time: (window, log offset)."""
    parts = [_SIGNATURE]
    for row, offset in rows:
        channel, start, energy, export, low, mean, high, readings, quality, why = row
        head = (12, 4, channel, 8, start - PG_EPOCH_US, 8, energy, 8, export)
        tail = (4, readings, 2, quality, 2, why, 4, 1, 8, offset)
        if low is None:
            parts.append(_WITHOUT_POWER(*head, -1, -1, -1, *tail))
        else:
            parts.append(_WITH_POWER(*head, 8, low, 8, mean, 8, high, *tail))
    if len(parts) == 1:
        return
    parts.append(_TRAILER)
    with conn.cursor() as cursor, cursor.copy(_COPY_NEW) as copy:
        copy.write(b"".join(parts))


_REVISE = f"""
INSERT INTO usage_1m AS u ({_COLUMNS})
SELECT channel_id, from_us(start_us), energy_uwh, export_uwh, power_min_w, power_avg_w,
       power_max_w, readings, quality, why, 1, changed_offset
FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::float8[], %s::float8[],
            %s::float8[], %s::int[], %s::smallint[], %s::smallint[], %s::bigint[])
     AS v (channel_id, start_us, energy_uwh, export_uwh, power_min_w, power_avg_w, power_max_w,
           readings, quality, why, changed_offset)
ON CONFLICT (channel_id, window_start) DO UPDATE
SET energy_uwh = excluded.energy_uwh, export_uwh = excluded.export_uwh,
    power_min_w = excluded.power_min_w, power_avg_w = excluded.power_avg_w,
    power_max_w = excluded.power_max_w, readings = excluded.readings,
    quality = excluded.quality, why = excluded.why,
    revision = u.revision + 1, changed_offset = excluded.changed_offset
"""


def revise_minutes(conn: psycopg.Connection[Any], rows: Sequence[tuple[MinuteRecord, int]]) -> None:
    """Store windows that changed after they were complete; their revision rises."""
    if rows:
        columns = [list(column) for column in zip(*((*r, o) for r, o in rows), strict=True)]
        conn.execute(_REVISE, columns)


_REVISE_GAPS = """
INSERT INTO gap_energy AS g
    (channel_id, start_at, end_at, energy_uwh, export_uwh, why, revision, changed_offset)
SELECT channel_id, from_us(start_us), from_us(end_us), energy_uwh, export_uwh, why, 1,
       changed_offset
FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::smallint[],
            %s::bigint[])
     AS v (channel_id, start_us, end_us, energy_uwh, export_uwh, why, changed_offset)
ON CONFLICT (channel_id, start_at, end_at) DO UPDATE
SET energy_uwh = excluded.energy_uwh, export_uwh = excluded.export_uwh, why = excluded.why,
    revision = g.revision + 1, changed_offset = excluded.changed_offset
"""


def revise_gaps(conn: psycopg.Connection[Any], rows: Sequence[tuple[GapRecord, int]]) -> None:
    """Store energy of gaps, new or changed. One that is no more has energy 0."""
    if rows:
        columns = [list(column) for column in zip(*((*r, o) for r, o in rows), strict=True)]
        conn.execute(_REVISE_GAPS, columns)


class LateSpan(NamedTuple):
    """Where complete windows are to be redone, and by what the reach of a reading is judged."""

    channel_id: int
    start_us: int
    end_us: int
    offset: int
    gap_limit_us: int
    has_import: bool
    has_export: bool
    has_interval: bool


_LATE_POINTS = """
SELECT s.n, to_us(r.measured_at), r.power_w, r.import_total_wh, r.export_total_wh, r.interval_s,
       r.interval_import_wh
FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::bool[], %s::bool[], %s::bool[])
     AS s (n, channel_id, start_us, end_us, log_offset, gap_us, has_import, has_export,
           has_interval)
CROSS JOIN LATERAL (SELECT s.gap_us * interval '1 microsecond' AS width) AS gap
CROSS JOIN LATERAL touched_by(s.channel_id, from_us(s.start_us), from_us(s.end_us), gap.width,
                              s.has_import, s.has_export, s.has_interval) AS near
CROSS JOIN LATERAL touched_by(s.channel_id, near.low, near.high, gap.width,
                              s.has_import, s.has_export, s.has_interval) AS far
CROSS JOIN LATERAL (
    SELECT measured_at, power_w, import_total_wh, export_total_wh, interval_s, interval_import_wh
    FROM readings
    WHERE channel_id = s.channel_id AND measured_at BETWEEN far.low AND far.high
      AND log_offset <= s.log_offset
    OFFSET 0  -- or all readings of the channel are joined with every span
) AS r
ORDER BY s.n, r.measured_at
"""
Quantities = tuple[int, float | None, float | None, float | None, float | None, float | None]
"""`measured_us, power_w, import_total_wh, export_total_wh, interval_s, interval_import_wh`."""


class Stretch(NamedTuple):
    """A time `[low_us, high_us]` of a channel, as records of the log up to `offset` tell it."""

    channel_id: int
    low_us: int
    high_us: int
    offset: int


_POINTS_WITHIN = """
SELECT s.n, to_us(r.measured_at), r.power_w, r.import_total_wh, r.export_total_wh, r.interval_s,
       r.interval_import_wh
FROM unnest(%(n)s::int[], %(channel)s::int[], %(low)s::bigint[], %(high)s::bigint[],
            %(offset)s::bigint[]) AS s (n, channel_id, low_us, high_us, log_offset)
CROSS JOIN LATERAL (
    SELECT measured_at, power_w, import_total_wh, export_total_wh, interval_s, interval_import_wh
    FROM readings
    WHERE channel_id = s.channel_id AND log_offset <= s.log_offset
      AND measured_at BETWEEN from_us(s.low_us) AND from_us(s.high_us)
      AND measured_at BETWEEN from_us(%(first)s) AND from_us(%(last)s)  -- days that matter
    OFFSET 0
) AS r
ORDER BY s.n, r.measured_at
"""


def points_within(
    conn: psycopg.Connection[Any], stretches: Sequence[Stretch]
) -> list[list[Quantities]]:
    """The readings of each stretch, in order of time, in one query."""
    found: list[list[Quantities]] = [[] for _ in stretches]
    if not stretches:
        return found
    channels, lows, highs, offsets = (list(column) for column in zip(*stretches, strict=True))
    wanted = {
        "n": list(range(len(stretches))),
        "channel": channels,
        "low": lows,
        "high": highs,
        "offset": offsets,
        "first": min(lows),
        "last": max(highs),
    }
    for n, *point in conn.execute(_POINTS_WITHIN, wanted, prepare=False):
        found[n].append(tuple(point))
    return found


def late_points(conn: psycopg.Connection[Any], spans: Sequence[LateSpan]) -> list[list[Quantities]]:
    """The readings that decide the windows of each span, in order of time, in one query."""
    if not spans:
        return []
    numbered = [(n, *span) for n, span in enumerate(spans)]
    columns = [list(column) for column in zip(*numbered, strict=True)]
    found: list[list[Quantities]] = [[] for _ in spans]
    for n, *point in conn.execute(_LATE_POINTS, columns):
        found[n].append(tuple(point))
    return found


_STORED_MINUTES = """
SELECT s.n, u.channel_id, to_us(u.window_start), u.energy_uwh, u.export_uwh, u.power_min_w,
       u.power_avg_w, u.power_max_w, u.readings, u.quality, u.why
FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[])
     AS s (n, channel_id, start_us, end_us)
JOIN usage_1m AS u ON u.channel_id = s.channel_id
     AND u.window_start >= from_us(s.start_us) AND u.window_start < from_us(s.end_us)
"""
_STORED_GAPS = """
SELECT s.n, g.channel_id, to_us(g.start_at), to_us(g.end_at), g.energy_uwh, g.export_uwh, g.why
FROM unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[])
     AS s (n, channel_id, start_us, end_us)
JOIN gap_energy AS g ON g.channel_id = s.channel_id
     AND g.start_at >= from_us(s.start_us) AND g.start_at < from_us(s.end_us)
"""


def stored_windows(
    conn: psycopg.Connection[Any], ranges: Sequence[tuple[int, int, int]]
) -> list[tuple[dict[int, MinuteRecord], dict[tuple[int, int], GapRecord]]]:
    """What is stored of each (channel_id, start_us, end_us): windows by start, gaps by ends."""
    columns = [
        list(column) for column in zip(*((n, *r) for n, r in enumerate(ranges)), strict=True)
    ]
    found: list[tuple[dict[int, MinuteRecord], dict[tuple[int, int], GapRecord]]] = [
        ({}, {}) for _ in ranges
    ]
    for n, *row in conn.execute(_STORED_MINUTES, columns):
        minute = MinuteRecord(*row)
        found[n][0][minute.start_us] = minute
    for n, *row in conn.execute(_STORED_GAPS, columns):
        gap = GapRecord(*row)
        found[n][1][gap.start_us, gap.end_us] = gap
    return found


_ROLLUP_DIRTY = """
INSERT INTO rollup_dirty (channel_id, quarter_hour)
SELECT channel_id, from_us(quarter_us)
FROM unnest(%s::int[], %s::bigint[]) AS v (channel_id, quarter_us)
"""


def mark_for_rollup(conn: psycopg.Connection[Any], quarters: Iterable[tuple[int, int]]) -> None:
    """Quarter hours whose ledger rows have to be computed again: (channel_id, start_us)."""
    pairs = list(quarters)
    if pairs:
        conn.execute(_ROLLUP_DIRTY, [list(column) for column in zip(*pairs, strict=True)])


class ChannelStateRow(NamedTuple):
    channel_id: int
    part: int
    complete_until_us: int
    context_from_us: int
    last_reading_us: int
    has_import: bool
    has_export: bool
    has_interval: bool
    context_full: bool


_KEEP_STATE = """
INSERT INTO channel_state AS c (channel_id, part, complete_until, context_from, last_reading_at,
                                has_import, has_export, has_interval, context_full)
SELECT channel_id, part, from_us(complete_until), from_us(context_from), from_us(last_reading),
       has_import, has_export, has_interval, context_full
FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bool[],
            %s::bool[], %s::bool[], %s::bool[])
     AS v (channel_id, part, complete_until, context_from, last_reading, has_import, has_export,
           has_interval, context_full)
ON CONFLICT (channel_id) DO UPDATE
SET part = excluded.part, complete_until = excluded.complete_until,
    context_from = excluded.context_from, last_reading_at = excluded.last_reading_at,
    has_import = excluded.has_import, has_export = excluded.has_export,
    has_interval = excluded.has_interval, context_full = excluded.context_full
"""


def keep_channel_states(conn: psycopg.Connection[Any], rows: Sequence[ChannelStateRow]) -> None:
    if rows:
        conn.execute(_KEEP_STATE, [list(column) for column in zip(*rows, strict=True)])


class LimitsRow(NamedTuple):
    """By which limits windows from `since_us` on are made; None: all of them."""

    channel_id: int
    gap_limit_s: int
    max_power_w: int
    since_us: int | None


_KEEP_LIMITS = """
INSERT INTO channel_limits (channel_id, gap_limit_s, max_power_w, since)
SELECT channel_id, gap_limit_s, max_power_w, from_us(since_us)
FROM unnest(%s::int[], %s::int[], %s::int[], %s::bigint[])
     AS v (channel_id, gap_limit_s, max_power_w, since_us)
ON CONFLICT (channel_id) DO UPDATE
SET gap_limit_s = excluded.gap_limit_s, max_power_w = excluded.max_power_w, since = excluded.since
"""


def keep_limits(conn: psycopg.Connection[Any], rows: Sequence[LimitsRow]) -> None:
    if rows:
        conn.execute(_KEEP_LIMITS, [list(column) for column in zip(*rows, strict=True)])


_KEEP_DIRTY = """
INSERT INTO window_dirty (part, log_offset, channel_id, start_at, end_at)
SELECT part, log_offset, channel_id, from_us(start_us), from_us(end_us)
FROM unnest(%s::smallint[], %s::bigint[], %s::int[], %s::bigint[], %s::bigint[])
     AS v (part, log_offset, channel_id, start_us, end_us)
"""
_SETTLE_DIRTY = """
DELETE FROM window_dirty AS d USING unnest(%s::smallint[], %s::bigint[]) AS v (part, log_offset)
WHERE d.part = v.part AND d.log_offset < v.log_offset
"""


def keep_dirty(
    conn: psycopg.Connection[Any], rows: Sequence[tuple[int, int, int, int, int]]
) -> None:
    """Spans that wait for the next tick: (part, log offset, channel_id, start_us, end_us)."""
    if rows:
        conn.execute(_KEEP_DIRTY, [list(column) for column in zip(*rows, strict=True)])


def settle_dirty(conn: psycopg.Connection[Any], settled: dict[int, int]) -> None:
    """Forget the spans from before the given log offsets: part -> offset."""
    if settled:
        conn.execute(_SETTLE_DIRTY, [list(settled), list(settled.values())])


_ANNOUNCE = """
INSERT INTO announcement (part, log_offset, channel_ids, window_starts)
SELECT %s, %s, %s::int[], array_agg(from_us(start_us) ORDER BY n)
FROM unnest(%s::bigint[]) WITH ORDINALITY AS v (start_us, n)
"""


def keep_announcement(
    conn: psycopg.Connection[Any], part: int, offset: int, windows: Sequence[tuple[int, int]]
) -> None:
    """Remember which windows a transaction changed until Kafka has confirmed their announcement."""
    channels, starts = [c for c, _ in windows], [at for _, at in windows]
    conn.execute(_ANNOUNCE, (part, offset, channels, starts))
