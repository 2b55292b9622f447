"""Civil days and months of a zone, and the hours of the week within."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from streams.tariffs.month import QUARTER

HOURS_A_DAY = 24
HOURS_A_WEEK = 168
QUARTERS_AN_HOUR = 4
QUARTERS_A_DAY = 96


class Span(NamedTuple):
    """`[start, end)`, aware, UTC."""

    start: datetime
    end: datetime

    @property
    def quarters(self) -> int:
        return (self.end - self.start) // QUARTER


@lru_cache(maxsize=4_096)
def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When the civil day begins, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def civil_day(day: date, zone: ZoneInfo) -> Span:
    """23, 24 or 25 hours."""
    return Span(midnight(day, zone), midnight(day + timedelta(days=1), zone))


def civil_month(day: date, zone: ZoneInfo) -> Span:
    """The month that `day` lies in."""
    first = day.replace(day=1)
    after = (first + timedelta(days=31)).replace(day=1)
    return Span(midnight(first, zone), midnight(after, zone))


def day_at(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()


def days_of(span: Span, zone: ZoneInfo) -> list[date]:
    """Every civil day that the span touches, in order."""
    first, last = day_at(span.start, zone), day_at(span.end - QUARTER, zone)
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


@lru_cache(maxsize=128)
def hours_of_week(span: Span, zone: ZoneInfo) -> NDArray[np.int64]:
    """For each quarter hour 24 × its day of the week (Monday 0) + its hour, local. Read only.

    The span begins and ends at midnight.
    """
    hours = np.concatenate([_hours_of(day, zone) for day in days_of(span, zone)])
    hours.flags.writeable = False
    return hours


def _hours_of(day: date, zone: ZoneInfo) -> NDArray[np.int64]:
    span = civil_day(day, zone)
    if span.quarters == QUARTERS_A_DAY:
        hours = np.arange(QUARTERS_A_DAY) // QUARTERS_AN_HOUR
    else:  # the clock is changed
        instants = (span.start + index * QUARTER for index in range(span.quarters))
        hours = np.array([at.astimezone(zone).hour for at in instants])
    return HOURS_A_DAY * day.weekday() + hours.astype(np.int64)
