"""Blocks of readings are what psycopg itself would send, and read back as what went in."""

import io
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer

from schemas.reading import VALUE_NAMES, ValueRow
from sinks.copy_block import COLUMNS, BlockBuilder, ReadingRow
from tests.value_rows import value_row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TYPES = ["int4", "timestamptz", "timestamptz", "int8", "int8", "int2", "int2"]
TYPES += ["float8"] * len(VALUE_NAMES)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INSTANTS = st.integers(0, 4_000_000_000_000_000)  # 1970 to 2096
ROWS = st.tuples(
    st.integers(1, 2**31 - 1),
    INSTANTS,
    INSTANTS,
    st.integers(0, 2**63 - 1),
    st.none() | st.integers(0, 2**53),
    st.integers(0, 3),
    st.integers(0, 3),
    st.builds(value_row, **{name: st.none() | FLOATS for name in VALUE_NAMES}),
)
SAME_CHANNEL = st.lists(ROWS, max_size=20).map(lambda rows: [(7, *row[1:]) for row in rows])


def instant(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


def fields(row: ReadingRow) -> list[Any]:
    channel, measured, received, *rest, values = row
    return [channel, instant(measured), instant(received), *rest, *values]


def written_by_psycopg(rows: list[ReadingRow]) -> bytes:
    """The same rows through psycopg's own binary dumpers."""
    transformer = Transformer()
    transformer.set_dumper_types(
        [psycopg.adapters.types[name].oid for name in TYPES], psycopg.pq.Format.BINARY
    )
    block = io.BytesIO()
    block.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    for row in rows:
        dumped = transformer.dump_sequence(fields(row), [PyFormat.BINARY] * len(TYPES))
        block.write(struct.pack(">h", len(TYPES)))
        for field in dumped:
            block.write(struct.pack(">i", -1 if field is None else len(field)) + (field or b""))
    block.write(b"\xff\xff")
    return block.getvalue()


@given(st.one_of(st.lists(ROWS, max_size=20), SAME_CHANNEL))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_block_is_what_psycopg_writes(rows: list[ReadingRow]):
    assert BlockBuilder().block(rows) == written_by_psycopg(rows)


@given(SAME_CHANNEL, SAME_CHANNEL)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_builder_remembers_nothing_that_alters_a_later_block(
    first: list[ReadingRow], second: list[ReadingRow]
):
    builder = BlockBuilder()
    builder.block(first)
    assert builder.block(second) == BlockBuilder().block(second)


ALTERNATING = [
    [value_row(power_w=1.0), value_row(voltage_v=2.0), value_row(power_w=3.0)],
    [value_row(), value_row(power_w=1.0), value_row()],
    [value_row(thd_current_percent=1.0), value_row(power_w=1.0)],
    [value_row(power_w=-0.0, voltage_v=5e-324), value_row(power_w=1e7, current_a=1.5)],
]


@pytest.mark.parametrize("values", ALTERNATING)
@pytest.mark.parametrize("seqs", [(None, None, None), (1, None, 2), (None, 3, None)])
def test_as_many_absent_values_but_other_ones_are_packed_anew(
    values: list[ValueRow], seqs: tuple[int | None, ...]
):
    rows: list[ReadingRow] = [
        (7, 1000 + i, 2000 + i, i, seq, 0, 1, value)
        for i, (value, seq) in enumerate(zip(values, seqs, strict=False))
    ]
    assert BlockBuilder().block(rows) == written_by_psycopg(rows)


def test_the_first_and_the_last_instant_that_a_device_can_say():
    rows: list[ReadingRow] = [
        (1, 0, 4_133_980_800_000_000, 0, 0, 0, 0, value_row(power_w=1.0)),
        (1, 946_684_800_000_000, 946_684_799_999_999, 1, None, 3, 3, value_row()),
    ]
    assert BlockBuilder().block(rows) == written_by_psycopg(rows)


@pytest.mark.stack
def test_rows_with_any_values_absent_read_back_as_they_went_in(db: psycopg.Connection[Any]):
    db.execute("CREATE TEMP TABLE kept (LIKE readings)")

    @given(st.lists(ROWS, min_size=1, max_size=30))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def read_back(rows: list[ReadingRow]) -> None:
        db.execute("TRUNCATE kept")
        statement = f"COPY kept ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"
        with db.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.write(BlockBuilder().block(rows))
        names = f"channel_id, to_us(measured_at), to_us(received_at), {', '.join(COLUMNS[3:])}"
        found = db.execute(f"SELECT {names} FROM kept ORDER BY ctid".encode()).fetchall()
        assert found == [(*row[:7], *row[7]) for row in rows]

    read_back()
