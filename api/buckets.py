"""Buckets of time: minutes, quarters and hours in UTC; civil days, weeks and months in a zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from api.models import Bucket

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WIDTHS: dict[Bucket, timedelta] = {
    "1m": timedelta(minutes=1),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
}
_SHORTEST: dict[Bucket, timedelta] = _WIDTHS | {
    "1d": timedelta(days=1),
    "1w": timedelta(days=7),
    "1mo": timedelta(days=28),
}


@dataclass(frozen=True)
class Buckets:
    """The buckets of one kind in one zone: each instant lies in one `[start, end)`."""

    bucket: Bucket
    zone: ZoneInfo

    def start(self, at: datetime) -> datetime:
        width = _WIDTHS.get(self.bucket)
        if width is not None:
            return at - (at - _EPOCH) % width
        return self.midnight(self.first_day(at))

    def end(self, start: datetime) -> datetime:
        """The end of the bucket that begins at `start`."""
        width = _WIDTHS.get(self.bucket)
        if width is not None:
            return start + width
        return self.midnight(self._next_day(self.first_day(start)))

    def ceil(self, at: datetime) -> datetime:
        """The first start of a bucket that is not before `at`."""
        start = self.start(at)
        return start if start == at else self.end(start)

    def first_day(self, at: datetime) -> date:
        """The first civil day of the day, week or month that holds `at`."""
        day = at.astimezone(self.zone).date()
        if self.bucket == "1w":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.bucket == "1mo" else day

    def _next_day(self, first: date) -> date:
        if self.bucket == "1mo":
            return (first + timedelta(days=31)).replace(day=1)
        return first + timedelta(days=7 if self.bucket == "1w" else 1)

    def midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(UTC)

    def most(self, start: datetime, end: datetime) -> int:
        """No fewer than the buckets that touch [start, end)."""
        return (end - start) // _SHORTEST[self.bucket] + 2
