"""Time of use: which period each quarter hour of a cycle belongs to."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from streams.tariffs.calendar import billed_as
from streams.tariffs.model import HolidaySet, Schedule
from streams.tariffs.month import QUARTER
from streams.tariffs.week import period_of_quarters

_KEPT = 2_048
"""Cycles of all meter-reading days of some years, or their days: 6 kB a cycle, 200 B a day."""


class Clock:
    """Tells the period of an instant: a schedule, its holidays and a zone.

    The quarter hours of a cycle are worked out once and kept.
    """

    def __init__(self, schedule: Schedule, holidays: HolidaySet | None, zone: ZoneInfo) -> None:
        self.periods: tuple[str, ...] = tuple(sorted(schedule.periods))
        self._schedule = schedule
        self._holidays = holidays
        self._zone = zone
        self.masks = lru_cache(maxsize=_KEPT)(self._masks)
        self._codes_of_day = lru_cache(maxsize=_KEPT)(self._day)

    def period(self, at: datetime) -> str:
        """The period of an aware instant."""
        local = at.astimezone(self._zone)
        day = billed_as(local.date(), self._schedule, self._holidays)
        periods = period_of_quarters(self._schedule.windows, local.month, day)
        return periods[4 * local.hour + local.minute // 15]

    def holidays(self, start: datetime, end: datetime) -> dict[date, str]:
        """The civil days within `[start, end)` that are holidays, with their kind."""
        if self._holidays is None:
            return {}
        first = start.astimezone(self._zone).date()
        last = (end - QUARTER).astimezone(self._zone).date()
        return {day: kind for day, kind in self._holidays.days.items() if first <= day <= last}

    def _masks(self, start: datetime, end: datetime) -> dict[str, NDArray[np.bool_]]:
        """For each period, whether it holds each quarter hour of `[start, end)`. Read only."""
        codes = np.array(self._codes(start, end), dtype=np.int8)
        masks = {name: codes == code for code, name in enumerate(self.periods)}
        for mask in masks.values():
            mask.flags.writeable = False
        return masks

    def _codes(self, start: datetime, end: datetime) -> list[int]:
        """The index in `periods` of each quarter hour."""
        codes: list[int] = []
        at = start
        while at < end:
            day = at.astimezone(self._zone).date()
            midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
            following = day + timedelta(days=1)
            after = midnight.replace(
                year=following.year, month=following.month, day=following.day
            ).astimezone(UTC)
            of_day = self._codes_of_day(day)
            until = min(after, end)
            if at == midnight and until - at == len(of_day) * QUARTER:
                codes += of_day
            else:  # a part of a day, or one of a clock change
                for index in range((until - at) // QUARTER):
                    local = (at + index * QUARTER).astimezone(self._zone)
                    codes.append(of_day[4 * local.hour + local.minute // 15])
            at = until
        return codes

    def _day(self, day: date) -> list[int]:
        as_day = billed_as(day, self._schedule, self._holidays)
        periods = period_of_quarters(self._schedule.windows, day.month, as_day)
        return [self.periods.index(name) for name in periods]
