"""Billing months, and the cycle of a home that ends in one."""

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from streams.tariffs.errors import BadUsage

QUARTER = timedelta(minutes=15)


class Month(NamedTuple):
    """A billing month; orders and compares by time, reads `2026-02`."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Raises ValueError for anything but `YYYY-MM`."""
        year, dash, month = text.partition("-")
        if not (dash and len(year) == 4 and len(month) == 2 and (year + month).isdecimal()):
            raise ValueError(f"{text!r:.40} is no month; write it as 2026-02")
        if not 1 <= int(month) <= 12:
            raise ValueError(f"{text!r} has no month {month}; write 01 to 12")
        return cls(int(year), int(month))

    def plus(self, months: int) -> "Month":
        count = self.year * 12 + self.month - 1 + months
        return Month(count // 12, count % 12 + 1)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


@dataclass(frozen=True, slots=True)
class Cycle:
    """The time `[start, end)` that the bill of `month` covers, in aware UTC; `days` civil days."""

    month: Month
    start: datetime
    end: datetime
    days: int

    @property
    def quarters(self) -> int:
        """The number of quarter hours: 96 a day, 92 or 100 on a day of a clock change."""
        return (self.end - self.start) // QUARTER


def cycle_of(month: Month, zone: ZoneInfo, cycle_day: int = 1) -> Cycle:
    """The cycle whose last day lies in `month`; it begins where `cycle_day` does, at midnight.

    Day 1 is the calendar month; day 15 makes February [15 January, 15 February). A month without
    that day begins its cycle on its last one.
    """
    return cycle_between(
        month, begins_on(month, cycle_day), begins_on(month.plus(1), cycle_day), zone
    )


def begins_on(month: Month, cycle_day: int) -> date:
    """The first day of the cycle of `month`, the day after the one before. Raises BadUsage."""
    if not 1 <= cycle_day <= 31:
        raise BadUsage(f"the meter-reading day {cycle_day} is no day of a month; give 1 to 31")
    first = month if cycle_day == 1 else month.plus(-1)
    return date(first.year, first.month, min(cycle_day, calendar.monthrange(*first)[1]))


def cycle_between(month: Month, first: date, after: date, zone: ZoneInfo) -> Cycle:
    """The cycle of the days `[first, after)`, by the midnights of `zone`."""
    return Cycle(month, _midnight(first, zone), _midnight(after, zone), (after - first).days)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
