"""Readings into their hypertable: straight COPY for new ones, a staged merge for late ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from schemas.reading import VALUE_NAMES, ValueRow
from sinks.copy_block import COLUMNS, BlockBuilder, ReadingRow
from sinks.reading_columns import ReadingColumns

_COPY = f"COPY readings ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"
_COPY_STAGE = f"COPY stage ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"
_STAGE = """
CREATE TEMP TABLE IF NOT EXISTS stage (LIKE readings) ON COMMIT DELETE ROWS
"""
_SAME_KEY = f"""
SELECT r.channel_id, to_us(r.measured_at), r.seq, {", ".join("r." + name for name in VALUE_NAMES)}
FROM readings r JOIN (SELECT DISTINCT channel_id, measured_at FROM stage) s
     USING (channel_id, measured_at)
WHERE r.measured_at BETWEEN %(first)s AND %(last)s
"""
_UPDATE = f"""
UPDATE readings SET seq = %s, {", ".join(name + " = %s" for name in VALUE_NAMES)}
WHERE channel_id = %s AND measured_at = from_us(%s)
"""
_CONFLICT = """
INSERT INTO reading_conflict (channel_id, measured_at, log_offset, seq, reading)
VALUES (%s, from_us(%s), %s, %s, %s) ON CONFLICT DO NOTHING
"""

Merge = Callable[[int | None, ValueRow, int | None, ValueRow], Any]
"""`streams.merge.merge`: how two readings with one key become one."""


class LateResult(NamedTuple):
    new: int
    duplicates: int
    changed: int


class Unstorable(Exception):
    """The database refuses rows for what they hold; `rows` are those, found by bisection."""

    def __init__(self, rows: list[ReadingRow], error: str) -> None:
        super().__init__(error)
        self.rows = rows


def copy_columns(conn: psycopg.Connection[Any], columns: ReadingColumns) -> int | None:
    """Store the new ones; how many they are. None, and nothing stored, where a key is known or the
    database refuses a row for what it holds.
    """
    size, block = columns.block()
    if not size:
        return 0
    try:
        with conn.transaction():
            _copy(conn, _COPY, block)
    except (psycopg.DataError, psycopg.IntegrityError):
        return None
    return size


def copy_new(
    conn: psycopg.Connection[Any], builder: BlockBuilder, rows: Sequence[ReadingRow], merge: Merge
) -> LateResult:
    """Store readings whose keys are new. Should one be known after all, the slow way is taken.

    Raises Unstorable if rows are refused for what they hold; the transaction can be used on.
    """
    if not rows:
        return LateResult(0, 0, 0)
    try:
        with conn.transaction():
            _copy(conn, _COPY, builder.block(rows))
    except psycopg.errors.UniqueViolation:
        return merge_late(conn, builder, rows, merge)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _unstorable(conn, builder, rows, error) from error
    return LateResult(len(rows), 0, 0)


def _copy(conn: psycopg.Connection[Any], statement: str, block: bytes) -> None:
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(block)


def _unstorable(
    conn: psycopg.Connection[Any],
    builder: BlockBuilder,
    rows: Sequence[ReadingRow],
    error: psycopg.Error,
) -> Exception:
    """What to raise for rows that were refused: the error itself where no row is to blame."""
    bad = _bisect(conn, builder, list(rows))
    return Unstorable(bad, str(error)) if bad else error


def _bisect(
    conn: psycopg.Connection[Any], builder: BlockBuilder, rows: list[ReadingRow]
) -> list[ReadingRow]:
    """The rows that the database refuses, tried in halves that are rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(_STAGE)
            _copy(conn, _COPY_STAGE, builder.block(rows))
            conn.execute("INSERT INTO readings SELECT * FROM stage ON CONFLICT DO NOTHING")
    except (psycopg.DataError, psycopg.IntegrityError):
        if len(rows) == 1:
            return rows
        middle = len(rows) // 2
        return _bisect(conn, builder, rows[:middle]) + _bisect(conn, builder, rows[middle:])
    return []


def merge_late(
    conn: psycopg.Connection[Any], builder: BlockBuilder, rows: Sequence[ReadingRow], merge: Merge
) -> LateResult:
    """Store readings that may be known: equal ones add nothing, others are merged by key.

    Inside a transaction. Raises Unstorable as `copy_new` does.
    """
    if not rows:
        return LateResult(0, 0, 0)
    try:
        with conn.transaction():
            return _merge_staged(conn, builder, rows, merge)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _unstorable(conn, builder, rows, error) from error


def _merge_staged(
    conn: psycopg.Connection[Any], builder: BlockBuilder, rows: Sequence[ReadingRow], merge: Merge
) -> LateResult:
    conn.execute(_STAGE)
    conn.execute("TRUNCATE stage")
    _copy(conn, _COPY_STAGE, builder.block(rows))
    bounds = conn.execute("SELECT min(measured_at), max(measured_at) FROM stage").fetchone()
    assert bounds is not None
    known: dict[tuple[int, int], tuple[int | None, ValueRow]] = {
        (channel, at): (seq, tuple(values))
        for channel, at, seq, *values in conn.execute(
            _SAME_KEY, {"first": bounds[0], "last": bounds[1]}
        )
    }
    fresh: dict[tuple[int, int], ReadingRow] = {}
    updated: dict[tuple[int, int], tuple[int | None, ValueRow]] = {}
    conflicts = []
    duplicates = 0
    for row in rows:
        key = (row[0], row[1])
        earlier = fresh.get(key)
        before = known.get(key) if earlier is None else (earlier[4], earlier[7])
        if before is None:
            fresh[key] = row
            continue
        merged = merge(*before, row[4], row[7])
        if merged.loser is not None:
            conflicts.append((*key, row[3], merged.loser_seq, merged.loser))
        if (merged.seq, merged.values) == before:
            duplicates += 1
        elif earlier is not None:
            fresh[key] = (*earlier[:4], merged.seq, *earlier[5:7], merged.values)
        else:
            known[key] = updated[key] = (merged.seq, merged.values)
    if fresh:
        _copy(conn, _COPY, builder.block(fresh.values()))
    update_merged(conn, ((*key, *value) for key, value in updated.items()))
    store_conflicts(conn, conflicts)
    return LateResult(len(fresh), duplicates, len(updated))


def update_merged(
    conn: psycopg.Connection[Any], rows: Iterable[tuple[int, int, int | None, ValueRow]]
) -> None:
    """Replace stored readings: (channel_id, measured_us, seq, values)."""
    updates = [(seq, *values, channel, at) for channel, at, seq, values in rows]
    if updates:
        conn.cursor().executemany(_UPDATE, updates)


def store_conflicts(
    conn: psycopg.Connection[Any],
    rows: Iterable[tuple[int, int, int, int | None, ValueRow]],
) -> None:
    """Keep what gave way: (channel_id, measured_us, log_offset, seq, values)."""
    kept = [
        (channel, at, offset, seq, Jsonb(_said(values)))
        for channel, at, offset, seq, values in rows
    ]
    if kept:
        conn.cursor().executemany(_CONFLICT, kept)


def _said(values: ValueRow) -> dict[str, float]:
    named = zip(VALUE_NAMES, values, strict=True)
    return {name: value for name, value in named if value is not None}
