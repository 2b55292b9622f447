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
from sinks.usage_windows import LateSpan, late_points
from streams.energy import Limits, Point, point_of
from streams.merge import merge
from streams.recompute import fetch_bounds
from streams.store import point_of_stored
from streams.windows import Span
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


def test_the_query_reads_what_the_rule_over_a_list_reads(db: psycopg.Connection[Any]):
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
        assert [point_of_stored(row) for row in found] == [
            p for p in points if low <= p.at_us <= high
        ]

    same()


def test_readings_of_later_records_are_left_out(db: psycopg.Connection[Any]):
    """A replay must not see what its first reading of the log could not."""
    rows = [
        (1, T0 + n * SECOND_US, T0, n, None, 0, 0, value_row(power_w=float(n))) for n in range(5)
    ]
    copy_new(db, BlockBuilder(), rows, merge)
    span = LateSpan(1, T0, T0 + SECOND_US, 2, LIMITS.gap_limit_us, False, False, False)
    (found,) = late_points(db, [span])
    assert [row[1] for row in found] == [0.0, 1.0, 2.0]
