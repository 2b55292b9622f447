"""Spot prices of quarter hours to come: those that are known, else as the last days had them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from streams.cost.costing import Prices
from streams.cost.days import QUARTERS_A_DAY, Span, civil_day, day_at, days_of, midnight
from streams.tariffs.month import QUARTER
from streams.tariffs.spot import PRICE_DIGITS, SpotPrices

LOOK_BACK_DAYS = 7
_SMALLEST = Decimal(1).scaleb(-PRICE_DIGITS)
_TIMES = [time(index // 4, index % 4 * 15) for index in range(QUARTERS_A_DAY)]


@dataclass(frozen=True, slots=True)
class ExpectedPrices:
    """Prices of a market over a span: `known`, and from `at` on what is expected where none is.

    That is the mean of the same time of day in `zone` of the last seven days with today, or of
    these days whole where none of them has a price at that time. Without any price of these days
    nothing is expected. What lies before `at` is never made up.
    """

    known: Prices
    at: datetime
    zone: ZoneInfo

    def __call__(self, market: str, span: Span) -> SpotPrices:
        known = self.known(market, span)
        ahead = Span(max(span.start, self.at), span.end)
        if ahead.quarters <= 0:
            return known
        today = day_at(self.at - QUARTER, self.zone)
        first = midnight(today - timedelta(days=LOOK_BACK_DAYS - 1), self.zone)
        recent_days = Span(first, midnight(today + timedelta(days=1), self.zone))
        recent = self.known(market, recent_days)
        means = _means(recent, recent_days, self.zone)
        if not means:
            return known
        missing = {
            start: means.get(at, means[None])
            for start, at in _clocks(ahead, self.zone)
            if start not in known.by_instant
        }
        return SpotPrices(market, missing, recent.currency) | known


def _means(recent: SpotPrices, days: Span, zone: ZoneInfo) -> dict[time | None, Decimal]:
    """By time of day, and of all (None); empty without any price."""
    by_time: dict[time | None, list[Decimal]] = {}
    for start, at in _clocks(days, zone):
        if start in recent.by_instant:
            for key in (at, None):
                by_time.setdefault(key, []).append(recent.by_instant[start])
    return {
        at: (sum(prices, Decimal(0)) / len(prices)).quantize(_SMALLEST)
        for at, prices in by_time.items()
    }


def _clocks(span: Span, zone: ZoneInfo) -> Iterator[tuple[datetime, time]]:
    """The start of each quarter hour of the span and its time of day in `zone`."""
    for day in days_of(span, zone):
        whole = civil_day(day, zone)
        for index in range(whole.quarters):
            start = whole.start + index * QUARTER
            if span.start <= start < span.end:
                usual = whole.quarters == QUARTERS_A_DAY
                yield start, _TIMES[index] if usual else start.astimezone(zone).time()
