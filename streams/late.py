"""The stored readings that decide late spans, without a walk through all of the table's days.

Where a register's sixth reading before an instant lies only the table knows: `late_points` asks it
span by span, and the planner looks at each day's chunk (36 of them: 4 ms a span). Readings come at
a pace, though: those nearby are fetched for all spans in one query, and only where they turn out
too few the table is asked to walk.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import psycopg

from schemas.units import MINUTE_US, SECOND_US, w_to_mw, wh_to_uwh
from sinks import usage_windows
from sinks.usage_windows import LateSpan, Quantities, Stretch
from streams.energy import REACH, Limits, Point
from streams.recompute import STEPS, touched
from streams.windows import ChannelWindows, Held, Span
from streams.work import Redo


def point_of_stored(row: Quantities) -> Point:
    """`streams.energy.point_of` for a row of the table."""
    at_us, power, imported, exported, interval_s, interval_wh = row
    stored = interval_s is not None and interval_wh is not None
    return Point(
        at_us,
        None if power is None else w_to_mw(power),
        None if imported is None else wh_to_uwh(imported),
        None if exported is None else wh_to_uwh(exported),
        round(interval_s * SECOND_US) if interval_s is not None and stored else None,
        wh_to_uwh(interval_wh) if interval_wh is not None and stored else None,
    )


def points_of(conn: psycopg.Connection[Any], redos: Sequence[Redo]) -> list[list[Point]]:
    """The readings that decide the windows of each span, in order of time."""
    spans = [_late_span(redo) for redo in redos]
    memory = [tuple(_windows(redo).held[-2 * REACH :]) for redo in redos]
    nearby = [_nearby(span, held) for span, held in zip(spans, memory, strict=True)]
    found: list[list[Point]] = [
        [point_of_stored(row) for row in rows] for rows in usage_windows.points_within(conn, nearby)
    ]
    walked = [
        n
        for n, (span, stretch, held) in enumerate(zip(spans, nearby, memory, strict=True))
        if not suffices(found[n], span, stretch, held[-1][0] if held else None)
    ]
    for n, rows in zip(
        walked, usage_windows.late_points(conn, [spans[n] for n in walked]), strict=True
    ):
        found[n] = [point_of_stored(row) for row in rows]
    return found


def suffices(
    points: Sequence[Point], span: LateSpan, stretch: Stretch, newest_us: int | None
) -> bool:
    """Whether the readings of a stretch are all that decide the windows of a span.

    `newest_us` is the channel's newest reading: none comes after it.
    """
    if span.has_interval:
        return False
    has_all_later = newest_us is not None and newest_us <= stretch.high_us
    limits = Limits(span.gap_limit_us, 0)
    reached = Span(span.start_us, span.end_us)
    for _ in range(STEPS):
        for column, has in ((2, span.has_import), (3, span.has_export)):
            register = [point[0] for point in points if has and point[column] is not None]
            before = bisect_left(register, reached.start_us)
            after = len(register) - bisect_right(register, reached.end_us)
            if has and (before < REACH or (after < REACH and not has_all_later)):
                return False
        reached = Span(*touched(points, reached, limits))
    return stretch.low_us <= reached.start_us and reached.end_us <= stretch.high_us


def _nearby(span: LateSpan, held: Sequence[Held]) -> Stretch:
    """What probably suffices: a channel goes on at the pace of its newest readings."""
    pace_us = 0
    if len(held) > 1:
        pace_us = (held[-1][0] - held[0][0]) // (len(held) - 1)
    margin_us = STEPS * (max(span.gap_limit_us, (REACH + 2) * pace_us) + MINUTE_US)
    low_us, high_us = span.start_us - margin_us, span.end_us + margin_us
    return Stretch(span.channel_id, low_us, high_us, span.offset)


def _windows(redo: Redo) -> ChannelWindows:
    windows = redo.channel.windows
    assert windows is not None
    return windows


def _late_span(redo: Redo) -> LateSpan:
    windows = _windows(redo)
    return LateSpan(
        redo.channel.channel_id,
        redo.span.start_us,
        redo.span.end_us,
        redo.offset,
        windows.limits.gap_limit_us,
        windows.has_import,
        windows.has_export,
        windows.has_interval,
    )
