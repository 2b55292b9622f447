"""The sink stage: our ways into `readings` beside what the database takes at most.

Readings of 1,000 channels with twelve values each, in transactions of 20,000. The limits are given
bytes that were made before the clock started.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from infra.bench.cpu import of_tree
from infra.bench.results import Row, Taken, faster_than, rows_of
from infra.bench.workers import settle
from infra.local import Stack
from infra.local.parts import Progress
from schemas.reading import VALUE_NAMES
from sinks.copy_block import COLUMNS, BlockBuilder, ReadingRow
from sinks.reading_columns import ReadingColumns
from sinks.readings_hypertable import copy_columns, copy_new, merge_late
from streams.merge import merge

CHANNELS = 1000
_FIRST_CHANNEL = 1_000_000_000
_FIRST_US = 1_600_000_000_000_000
_STEP_US = 5_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = ", ".join(COLUMNS)
_COPY = f"COPY readings ({_NAMES}) FROM STDIN (FORMAT binary)"
_COPY_TEXT = f"COPY readings ({_NAMES}) FROM STDIN"
_COPY_STAGE = f"COPY bench_stage ({_NAMES}) FROM STDIN (FORMAT binary)"
_MERGE = f"""
INSERT INTO readings ({_NAMES}) SELECT {_NAMES} FROM bench_stage
ON CONFLICT (channel_id, measured_at) DO NOTHING
"""
_STAGE = "CREATE TEMP TABLE IF NOT EXISTS bench_stage (LIKE readings) ON COMMIT DELETE ROWS"
_INSERT = f"INSERT INTO readings ({_NAMES}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
LIMIT = "COPY of ready bytes"

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Way:
    """`prepare` makes of a batch what the clock does not count; `store` takes it."""

    name: str
    prepare: Callable[[int, int], Any]
    store: Callable[[Connection, Any], object]
    part: float = 1.0  # of the readings: a slow one would take minutes for all
    note: str = ""


# ---------------------------------------------------------------- batches


def columns_of(batch: int, rows: int) -> ReadingColumns:
    """Readings as the usual envelopes leave the decoder: one array a column."""
    n = np.arange(batch * rows, (batch + 1) * rows, dtype=np.int64)
    measured = _FIRST_US + n // CHANNELS * _STEP_US
    said = {
        "power_w": 100.0 + n % 977, "voltage_v": 229.0 + n % 7, "current_a": 1.0 + n % 13,
        "frequency_hz": 49.9 + n % 3 / 10, "power_factor": 0.9 + n % 10 / 100,
        "apparent_va": 110.0 + n % 977, "reactive_var": 20.0 + n % 11,
        "import_total_wh": 1000.0 + n, "export_total_wh": n * 0.0,
        "temperature_c": 30.0 + n % 9, "thd_voltage_percent": 2.5 + n % 2,
        "thd_current_percent": 3.5 + n % 5,
    }  # fmt: skip
    values = np.full((rows, len(VALUE_NAMES)), np.nan)
    for name, column in said.items():
        values[:, VALUE_NAMES.index(name)] = column
    return ReadingColumns(
        channel_id=_FIRST_CHANNEL + n % CHANNELS,
        measured_us=measured,
        received_us=measured + 50_000,
        log_offset=n,
        seq=n,
        values=values,
        new=bytearray(b"\1" * rows),
    )


def rows_of_batch(batch: int, rows: int) -> list[ReadingRow]:
    return columns_of(batch, rows).rows()


def _block(batch: int, rows: int) -> bytes:
    return columns_of(batch, rows).block()[1]


def _plain_rows(batch: int, rows: int) -> list[tuple[Any, ...]]:
    """As somebody who knows psycopg would hand them over."""
    return [
        (channel, _at(measured), _at(received), offset, seq, int(clock), int(source), *values)
        for channel, measured, received, offset, seq, clock, source, values in rows_of_batch(
            batch, rows
        )
    ]


def _at(instant_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant_us)


# ---------------------------------------------------------------- ways


def _copy_bytes(conn: Connection, block: bytes) -> None:
    with conn.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.write(block)


def _write_rows(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    with conn.cursor() as cursor, cursor.copy(_COPY_TEXT) as copy:
        for row in rows:
            copy.write_row(row)


def _stage_bytes(conn: Connection, block: bytes) -> None:
    conn.execute(_STAGE)
    with conn.cursor() as cursor, cursor.copy(_COPY_STAGE) as copy:
        copy.write(block)
    conn.execute(_MERGE)


def _insert_many(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    conn.cursor().executemany(_INSERT, rows)


def ways() -> tuple[Way, ...]:
    builder = BlockBuilder()

    def copied(conn: Connection, rows: list[ReadingRow]) -> None:
        copy_new(conn, builder, rows, merge)

    def staged(conn: Connection, rows: list[ReadingRow]) -> None:
        merge_late(conn, builder, rows, merge)

    return (
        Way("ours: columns, COPY", columns_of, copy_columns, note="usual readings"),
        Way("ours: rows, COPY", rows_of_batch, copied, note="other new readings"),
        Way("ours: staged merge", rows_of_batch, staged, note="late readings, field by field"),
        Way(LIMIT, _block, _copy_bytes, note="the database's limit"),
        Way("staged merge of ready bytes", _block, _stage_bytes, note="ON CONFLICT DO NOTHING"),
        Way("psycopg write_row", _plain_rows, _write_rows, 0.4, "text format"),
        Way("executemany INSERT", _plain_rows, _insert_many, 0.2, "psycopg's pipeline"),
    )


# ---------------------------------------------------------------- measuring


def measure(
    stack: Stack, readings: int, repeats: int, progress: Progress, *, batch: int = 20_000
) -> list[Row]:
    """All ways in turn, each into an empty table, `repeats` times."""
    taken: list[Taken] = []
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        for repeat in range(1, repeats + 1):
            for way in ways():
                progress(f"{way.name}, {repeat} of {repeats}")
                taken.append(_measure_way(stack, conn, way, readings, batch))
    return faster_than(rows_of(taken), LIMIT, "rows_per_s")


def _measure_way(stack: Stack, conn: Connection, way: Way, readings: int, batch: int) -> Taken:
    """One way into an empty table. Raises StoredOther if the table then holds another number."""
    conn.execute("TRUNCATE readings")
    settle(stack)
    server = of_tree(stack.server_pid("timescale"))
    begun_server_s, seconds, cpu_s = server(), 0.0, 0.0
    batches = max(1, round(readings * way.part / batch))
    for number in range(batches):
        prepared = way.prepare(number, batch)
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        with conn.transaction():
            way.store(conn, prepared)
        seconds += time.monotonic() - begun_s
        cpu_s += time.process_time() - begun_cpu_s
    server_s = server() - begun_server_s
    found = conn.execute("SELECT count(*) FROM readings").fetchone()
    stored = batches * batch
    if found != (stored,):
        raise StoredOther(f"{way.name}: {found} rows are stored, not {stored}")
    conn.execute("TRUNCATE readings")
    return Taken(
        way.name,
        {
            "rows_per_s": stored / seconds,
            "cpu_us_per_row": cpu_s / stored * 1e6,
            "postgres_us_per_row": server_s / stored * 1e6,
        },
        way.note,
    )


class StoredOther(Exception):
    """A way did not store what it was given."""
