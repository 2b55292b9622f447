"""Time of use: which period each quarter hour of a cycle belongs to."""

from datetime import datetime
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

    def period(self, at: datetime) -> str:
        """The period of an aware instant."""
        local = at.astimezone(self._zone)
        day = billed_as(local.date(), self._schedule, self._holidays)
        periods = period_of_quarters(self._schedule.windows, local.month, day)
        return periods[4 * local.hour + local.minute // 15]

    def _masks(self, start: datetime, end: datetime) -> dict[str, NDArray[np.bool_]]:
        """For each period, whether it holds each quarter hour of `[start, end)`. Read only."""
        codes = np.array(self._codes(start, end), dtype=np.int8)
        masks = {name: codes == code for code, name in enumerate(self.periods)}
        for mask in masks.values():
            mask.flags.writeable = False
        return masks

    def _codes(self, start: datetime, end: datetime) -> list[int]:
        number = {name: code for code, name in enumerate(self.periods)}
        days: dict[object, list[str]] = {}
        codes = []
        for index in range((end - start) // QUARTER):
            local = (start + index * QUARTER).astimezone(self._zone)
            periods = days.get(local.date())
            if periods is None:
                day = billed_as(local.date(), self._schedule, self._holidays)
                periods = period_of_quarters(self._schedule.windows, local.month, day)
                days[local.date()] = periods
            codes.append(number[periods[4 * local.hour + local.minute // 15]])
        return codes
