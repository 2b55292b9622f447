"""Which complete windows a late reading can change, and which readings decide them.

Two steps outwards from the late instants, on both sides: first to the last register reading that
is touched (`REACH` of them) and on to the whole minute, then as far again to the readings that
these minutes are computed from. The table's query (`touched_by` in SQL) walks the same steps;
`fetch_bounds` is its rule over a list.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from schemas.units import MINUTE_US
from streams.energy import REACH, Limits, Point
from streams.windows import Span

STEPS = 2


def fetch_bounds(points: Sequence[Point], span: Span, limits: Limits) -> tuple[int, int]:
    """The instants `[low, high]` between which readings are needed to redo `span`."""
    low, high = span
    for _ in range(STEPS):
        low, high = touched(points, Span(low, high), limits)
    return low, high


def affected(
    points: Sequence[Point], span: Span, complete_until_us: int, limits: Limits
) -> tuple[int, int]:
    """The range `[start, end)` of complete windows that readings in `span` can change."""
    low, high = touched(points, span, limits)
    return low, min(complete_until_us, high)


def touched(points: Sequence[Point], span: Span, limits: Limits) -> tuple[int, int]:
    """One step outwards: which instants readings within the span reach, to whole minutes."""
    low, high = span.start_us - limits.gap_limit_us, span.end_us + limits.gap_limit_us
    for column in (2, 3):
        register = [p[0] for p in points if p[column] is not None]
        i, j = bisect_left(register, span.start_us), bisect_right(register, span.end_us)
        low = min([low, *register[max(0, i - REACH) : i]])
        high = max([high, *register[j : j + REACH]])
    stored = [p for p in points if p[4] is not None]
    i = bisect_left(stored, span.start_us, key=_instant)
    j = bisect_right(stored, span.end_us, key=_instant)
    # The next one counts only from the end of the last of them, wherever it begins.
    low = min([low, *(p[0] - (p[4] or 0) for p in stored[max(0, i - 1) : j + 1])])
    high = max([high, *(p[0] for p in stored[j : j + 1])])
    return low - low % MINUTE_US, high - high % MINUTE_US + MINUTE_US


def _instant(point: Point) -> int:
    return point[0]
