"""Instants and ranges in queries."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, WithJsonSchema

from api.problems import invalid
from sinks.queries import Span

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2200, 1, 1, tzinfo=UTC)


def _written_out(value: object) -> object:
    if isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdigit():
        raise ValueError("a bare number is no instant; write it like 2026-01-31T00:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    if not 1970 <= value.year < 2200:
        raise ValueError("the year is out of range; give one from 1970 to 2199")
    return min(max(value.astimezone(UTC), _FIRST), _LAST)


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_in_utc),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""RFC 3339 with an offset, turned to UTC."""


def span_of(
    start: datetime | None, end: datetime | None, default: timedelta, now: datetime
) -> Span:
    """The range asked for: to now, and `default` long, where it is not said.

    Raises a 422 problem if it is empty.
    """
    end = end or max(now, start or now)
    start = start or max(end - default, _FIRST)
    if start >= end:
        raise invalid(
            "from",
            f"the range is empty: from {start.isoformat()} is not before to {end.isoformat()}",
            "give a from that lies before to, and in the past",
        )
    return Span(start, end)
