"""The table's query for late readings walks the same steps as `streams.recompute`."""

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from schemas.reading import Values
from schemas.units import SECOND_US
from sinks.copy_block import BlockBuilder
from sinks.readings_hypertable import copy_new
from sinks.usage_windows import LateSpan, Stretch, late_points, points_within
from streams.energy import Limits, Point, point_of
from streams.late import point_of_stored, points_of, suffices
from streams.merge import merge
from streams.partition import Channel, Device
from streams.recompute import fetch_bounds
from streams.windows import ChannelWindows, Span, held_of
from streams.work import Redo
from tests.value_rows import value_row

pytestmark = pytest.mark.stack

T0 = 1_763_700_000 * SECOND_US
LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)

SAID = st.fixed_dictionaries(
    {"power_w": st.just(1.5)},
    optional={
        "import_total_wh": st.just(10.0),
        "export_total_wh": st.just(20.0),
        "interval_s": st.sampled_from([30.0, 60.0, 3600.0]),
    },
)
TRACES = st.lists(
    st.tuples(st.sampled_from([1, 5, 61, 290, 301, 3700]), SAID), min_size=1, max_size=40
)


MARGINS_S = (0, 90, 800, 3_000, 40_000)


def test_the_queries_read_what_the_rule_over_a_list_reads(db: psycopg.Connection[Any]):
    sufficed = set()

    @given(TRACES, st.integers(0, 39), st.integers(0, 3))
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    def same(trace: list[tuple[int, dict[str, float]]], first: int, count: int) -> None:
        at, readings = T0, []
        for step_s, said in trace:
            at += step_s * SECOND_US
            if "interval_s" in said:
                said = said | {"interval_import_wh": 2.0}
            readings.append((at, Values(**said)))
        db.execute("TRUNCATE readings")
        rows = [
            (1, at, at, n, None, 0, 0, astuple(values)) for n, (at, values) in enumerate(readings)
        ]
        copy_new(db, BlockBuilder(), rows, merge)
        points: list[Point] = [point_of(at, values) for at, values in readings]
        start = points[min(first, len(points) - 1)].at_us
        end = points[min(first + count, len(points) - 1)].at_us
        has = [any(p[column] is not None for p in points) for column in (2, 3, 4)]
        span = LateSpan(1, start, end, len(rows), LIMITS.gap_limit_us, *has)
        low, high = fetch_bounds(points, Span(start, end), LIMITS)
        (found,) = late_points(db, [span])
        wanted = [p for p in points if low <= p.at_us <= high]
        assert [point_of_stored(row) for row in found] == wanted
        for margin_s in MARGINS_S:
            stretch = Stretch(1, start - margin_s * SECOND_US, end + margin_s * SECOND_US, 99)
            (rows,) = points_within(db, [stretch])
            nearby = [point_of_stored(row) for row in rows]
            assert nearby == [p for p in points if stretch.low_us <= p.at_us <= stretch.high_us]
            enough = suffices(nearby, span, stretch, points[-1].at_us)
            sufficed.add(enough)
            if enough:
                assert fetch_bounds(nearby, Span(start, end), LIMITS) == (low, high)

    same()
    assert sufficed == {True, False}


def test_readings_of_later_records_are_left_out(db: psycopg.Connection[Any]):
    """A replay must not see what its first reading of the log could not."""
    rows = [
        (1, T0 + n * SECOND_US, T0, n, None, 0, 0, value_row(power_w=float(n))) for n in range(5)
    ]
    copy_new(db, BlockBuilder(), rows, merge)
    span = LateSpan(1, T0, T0 + SECOND_US, 2, LIMITS.gap_limit_us, False, False, False)
    (found,) = late_points(db, [span])
    assert [row[1] for row in found] == [0.0, 1.0, 2.0]
    (near,) = points_within(db, [Stretch(1, T0, T0 + 9 * SECOND_US, 2)])
    assert near == found


def test_each_stretch_has_its_own_readings(db: psycopg.Connection[Any]):
    """Days apart, of two channels; a stretch without any between them."""
    days = [T0 + n * 86_400 * SECOND_US for n in range(3)]
    rows = [
        (channel, at, at, 1, None, 0, 0, value_row(power_w=float(channel * 10 + n)))
        for channel in (1, 2)
        for n, at in enumerate(days)
    ]
    copy_new(db, BlockBuilder(), rows, merge)
    asked = [(2, days[2]), (1, days[0]), (1, days[1] + SECOND_US), (1, days[1])]
    found = points_within(db, [Stretch(channel, at, at, 1) for channel, at in asked])
    assert [[row[1] for row in one] for one in found] == [[22.0], [10.0], [], [11.0]]
    assert points_within(db, []) == []


STEADY = [
    (T0 + n * 60 * SECOND_US, Values(power_w=60.0, import_total_wh=float(n))) for n in range(400)
]


def test_of_a_steady_channel_the_readings_nearby_suffice(db: psycopg.Connection[Any]):
    """The table need not be walked, neither in the middle nor near the newest reading."""
    rows = [(1, at, at, n, None, 0, 0, astuple(values)) for n, (at, values) in enumerate(STEADY)]
    copy_new(db, BlockBuilder(), rows, merge)
    windows = ChannelWindows(LIMITS, T0)
    for at, values in STEADY:
        windows.append(held_of(at, None, astuple(values)))
    channel = Channel(1, "total", Device(1, "homesync:h/n", (), LIMITS), windows)
    db.execute("ALTER FUNCTION touched_by RENAME TO walk")
    points = [point_of(at, values) for at, values in STEADY]
    for number in (30, 200, 395):
        span = Span(STEADY[number][0], STEADY[number][0])
        (found,) = points_of(db, [Redo(0, 999, channel, span, T0)])
        low, high = fetch_bounds(points, span, LIMITS)
        assert [p for p in found if low <= p.at_us <= high] == [
            p for p in points if low <= p.at_us <= high
        ]
    db.execute("ALTER FUNCTION walk RENAME TO touched_by")
