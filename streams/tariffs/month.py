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
    if not 1 <= cycle_day <= 31:
        raise BadUsage(f"the meter-reading day {cycle_day} is no day of a month; give 1 to 31")
    first = month if cycle_day == 1 else month.plus(-1)
    start, end = _day(first, cycle_day), _day(first.plus(1), cycle_day)
    return Cycle(month, _midnight(start, zone), _midnight(end, zone), (end - start).days)


def _day(month: Month, day: int) -> date:
    return date(month.year, month.month, min(day, calendar.monthrange(*month)[1]))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
