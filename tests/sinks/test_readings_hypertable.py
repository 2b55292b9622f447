"""Readings in the real table: new ones, late ones in any order, and those it will not have."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.reading import VALUE_NAMES, ValueRow
from schemas.units import DAY_US, SECOND_US
from sinks.copy_block import BlockBuilder, ReadingRow
from sinks.readings_hypertable import LateResult, Unstorable, copy_new, merge_late, update_merged
from streams.merge import merge
from tests.value_rows import value_row

pytestmark = pytest.mark.stack

T0 = 1_763_700_000 * SECOND_US
BEYOND_TIME = 9_223_372_036_854_775_000 + 946_684_800_000_000 - 400
"""Fits eight bytes, and PostgreSQL has no such instant."""

Connection = psycopg.Connection[Any]


def row(
    at_s: float, channel: int = 1, seq: int | None = None, offset: int = 0, **values: float
) -> ReadingRow:
    at = T0 + round(at_s * SECOND_US)
    return (channel, at, at + 7, offset, seq, 0, 1, value_row(**values))


def stored(db: Connection) -> list[tuple[int, int, int | None, ValueRow]]:
    names = ", ".join(VALUE_NAMES)
    return [
        (channel, at, seq, value_row(*values))
        for channel, at, seq, *values in db.execute(
            f"SELECT channel_id, to_us(measured_at), seq, {names} FROM readings "
            "ORDER BY 1, 2".encode()
        )
    ]


def conflicts(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT channel_id, to_us(measured_at), log_offset, seq, reading FROM reading_conflict "
        "ORDER BY 1, 2, 3"
    ).fetchall()


def test_new_readings_are_stored_in_all_their_fields(db: Connection):
    rows = [
        row(i, 1 + i % 3, i or None, 100 + i, power_w=1.5 * i, import_total_wh=10.0 + i)
        for i in range(50)
    ]
    assert copy_new(db, BlockBuilder(), rows, merge) == LateResult(50, 0, 0)
    assert stored(db) == sorted((r[0], r[1], r[4], r[7]) for r in rows)
    assert db.execute(
        "SELECT to_us(received_at), log_offset, clock, source FROM readings "
        "WHERE channel_id = 2 AND measured_at = from_us(%s)",
        [T0 + SECOND_US],
    ).fetchone() == (T0 + SECOND_US + 7, 101, 0, 1)


def test_nothing_is_stored_of_nothing(db: Connection):
    assert copy_new(db, BlockBuilder(), [], merge) == LateResult(0, 0, 0)
    assert merge_late(db, BlockBuilder(), [], merge) == LateResult(0, 0, 0)


def test_readings_that_are_known_after_all_are_merged(db: Connection):
    builder = BlockBuilder()
    copy_new(db, builder, [row(0, power_w=1.0), row(1, power_w=2.0)], merge)
    again = [row(0, power_w=1.0), row(1, voltage_v=230.0), row(2, power_w=3.0)]
    assert copy_new(db, builder, again, merge) == LateResult(new=1, duplicates=1, changed=1)
    assert [values for *_, values in stored(db)] == [
        value_row(power_w=1.0),
        value_row(power_w=2.0, voltage_v=230.0),
        value_row(power_w=3.0),
    ]
    assert conflicts(db) == []


def test_the_transaction_around_a_known_reading_goes_on(db: Connection):
    builder = BlockBuilder()
    copy_new(db, builder, [row(0, power_w=1.0)], merge)
    with db.transaction():
        copy_new(db, builder, [row(0, power_w=1.0), row(1, power_w=2.0)], merge)
        merge_late(db, builder, [row(1, power_w=2.0), row(-5, power_w=5.0)], merge)
    assert len(stored(db)) == 3


def test_what_gives_way_is_kept_with_the_offset_that_showed_the_conflict(db: Connection):
    builder = BlockBuilder()
    copy_new(db, builder, [row(0, seq=8, offset=40, power_w=100.0)], merge)
    assert merge_late(db, builder, [row(0, seq=7, offset=41, power_w=300.0)], merge) == LateResult(
        0, 1, 0
    )
    late = merge_late(db, builder, [row(0, seq=9, offset=42, power_w=50.0)], merge)
    assert late == LateResult(0, 0, 1)
    assert [r[2:] for r in stored(db)] == [(9, value_row(power_w=50.0))]
    assert conflicts(db) == [
        (1, T0, 41, 7, {"power_w": 300.0}),
        (1, T0, 42, 8, {"power_w": 100.0}),
    ]


def test_a_merged_reading_keeps_the_place_in_the_log_of_its_first_message(db: Connection):
    """`late_points` asks for readings up to an offset: a later one would hide it from a replay."""
    halves = [row(0, offset=5, power_w=1.0), row(0, offset=9, voltage_v=2.0)]
    merge_late(db, BlockBuilder(), halves, merge)
    merge_late(db, BlockBuilder(), [row(0, offset=12, current_a=3.0)], merge)
    kept = db.execute("SELECT log_offset, power_w, voltage_v, current_a FROM readings").fetchone()
    assert kept == (5, 1.0, 2.0, 3.0)


def test_values_that_are_absent_are_set_to_null_by_an_update(db: Connection):
    copy_new(db, BlockBuilder(), [row(0, seq=1, power_w=1.0, voltage_v=2.0)], merge)
    update_merged(db, [(1, T0, 4, value_row(power_w=7.0))])
    assert stored(db) == [(1, T0, 4, value_row(power_w=7.0))]


FIELDS = ("power_w", "voltage_v", "import_total_wh")
LATE = st.lists(
    st.builds(
        lambda at, channel, said: (at, channel, said),
        st.sampled_from([0, 1, 2, 86_400, 200_000]),
        st.integers(1, 2),
        st.dictionaries(st.sampled_from(FIELDS), st.sampled_from([1.0, 2.5, 30.0]), min_size=1),
    ),
    min_size=1,
    max_size=12,
)


def test_late_readings_in_any_order_and_in_any_portions_give_the_same_rows(db: Connection):
    """Over three chunks of the hypertable, some known, some twice, some in conflict."""

    @given(LATE, st.data())
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def shuffled(said: list[tuple[int, int, dict[str, float]]], data: st.DataObject) -> None:
        rows = [
            row(at, channel, offset=i, **values) for i, (at, channel, values) in enumerate(said)
        ]
        expected: dict[tuple[int, int], tuple[int | None, ValueRow]] = {}
        for each in rows:
            key = (each[0], each[1])
            before = expected.get(key)
            merged = merge(*before, each[4], each[7]) if before else None
            expected[key] = (merged.seq, merged.values) if merged else (each[4], each[7])
        order = data.draw(st.permutations(rows))
        again = data.draw(st.lists(st.sampled_from(rows), max_size=4))
        cut = data.draw(st.integers(0, len(order)))
        db.execute("TRUNCATE readings, reading_conflict")
        builder, results = BlockBuilder(), []
        for portion in (order[:cut], order[cut:], again):
            with db.transaction():
                take = copy_new if data.draw(st.booleans()) else merge_late
                results.append(take(db, builder, portion, merge))
        assert stored(db) == [(*key, *expected[key]) for key in sorted(expected)]
        assert sum(r.new for r in results) == len(expected)

    shuffled()


# ---------------------------------------------------------------- rows that cannot be stored


def poison(channel: int, offset: int = 0) -> ReadingRow:
    return (channel, BEYOND_TIME, T0, offset, None, 0, 1, value_row(power_w=float(channel)))


@pytest.mark.parametrize("places", [[0], [6], [3, 4], [0, 6], list(range(7)), [5]])
def test_the_rows_that_cannot_be_stored_are_found_and_no_others(db: Connection, places: list[int]):
    rows = [poison(i) if i in places else row(i, i, power_w=float(i)) for i in range(7)]
    with db.transaction():
        with pytest.raises(Unstorable) as caught:
            copy_new(db, BlockBuilder(), rows, merge)
        assert caught.value.rows == [rows[i] for i in places]
        assert [id(r) for r in caught.value.rows] == [id(rows[i]) for i in places]
        assert "timestamp" in str(caught.value)
        good = [r for r in rows if r not in caught.value.rows]
        assert copy_new(db, BlockBuilder(), good, merge) == LateResult(len(good), 0, 0)
    assert len(stored(db)) == 7 - len(places)


def test_no_part_of_the_hypertable_is_made_for_rows_that_are_refused(db: Connection):
    before = db.execute("SELECT count(*) FROM show_chunks('readings')").fetchone()
    with pytest.raises(Unstorable):
        copy_new(db, BlockBuilder(), [row(DAY_US, power_w=1.0), poison(2)], merge)
    assert db.execute("SELECT count(*) FROM show_chunks('readings')").fetchone() == before


@pytest.mark.parametrize("place", [0, 1_500])
def test_a_row_that_cannot_be_stored_is_found_among_known_ones(db: Connection, place: int):
    """COPY stores a thousand rows at a time: what it meets first depends on the place."""
    builder = BlockBuilder()
    known = [row(i, power_w=float(i)) for i in range(5)]
    copy_new(db, builder, known, merge)
    bad = poison(2)
    rows = known + [row(10 + i, power_w=2.0) for i in range(1_600)]
    rows.insert(place, bad)
    with db.transaction():
        with pytest.raises(Unstorable) as caught:
            copy_new(db, builder, rows, merge)
        assert caught.value.rows == [bad]
        rows.remove(bad)
        assert copy_new(db, builder, rows, merge) == LateResult(1_600, 5, 0)
    assert len(stored(db)) == 1_605


def test_a_late_row_that_cannot_be_stored_is_found(db: Connection):
    bad = poison(2)
    with db.transaction():
        with pytest.raises(Unstorable) as caught:
            merge_late(db, BlockBuilder(), [row(0, power_w=1.0), bad, row(0, power_w=2.0)], merge)
        assert caught.value.rows == [bad]
    assert stored(db) == []
