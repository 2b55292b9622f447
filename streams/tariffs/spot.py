"""Spot prices: one a quarter hour, keyed by its UTC instant, negative ones included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import mul
from typing import Self
from zoneinfo import ZoneInfo

from streams.tariffs.errors import NotKnown, TariffError
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER

PRICE_DIGITS = 9
_KWH_DIGITS = 9


class BadPrices(TariffError):
    """Prices that do not fit their day, their market or the tariff."""


@dataclass(frozen=True, slots=True)
class SpotPrices:
    """Prices per kWh of a market in one currency, by the UTC start of their quarter hour.

    `currency` None: nobody has said any price yet.
    """

    market: str
    by_instant: Mapping[datetime, Decimal]
    currency: str | None = None

    @classmethod
    def of_day(cls, market: str, day: date, zone: ZoneInfo, prices: Sequence[Decimal]) -> Self:
        """The prices of a civil day in order: 96, or 92 and 100 when the clock is changed."""
        start = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        after = day + timedelta(days=1)
        end = datetime(after.year, after.month, after.day, tzinfo=zone).astimezone(UTC)
        slots = (end - start) // QUARTER
        if len(prices) != slots:
            raise BadPrices(
                f'market "{market}": {day} has {slots} quarter hours in {zone.key}, '
                f"{len(prices)} prices were given; give one for each quarter hour"
            )
        return cls(market, {start + index * QUARTER: price for index, price in enumerate(prices)})

    def __or__(self, other: Self) -> "SpotPrices":
        """Both; where they overlap the prices of `other`."""
        both = {**self.by_instant, **other.by_instant}
        return SpotPrices(self.market, both, other.currency or self.currency)

    def check(self, tariff_id: str, market: str, currency: str) -> None:
        """Raises BadPrices if the tariff follows another market, or is in another currency."""
        if self.market != market:
            raise BadPrices(
                f'tariff "{tariff_id}" follows the market "{market}", the prices are of '
                f'"{self.market}"; give those of its own'
            )
        if self.currency not in (None, currency):
            raise BadPrices(
                f'tariff "{tariff_id}" is in {currency}, the prices of the market "{market}" in '
                f"{self.currency}; import them in {currency}"
            )

    def over(self, ledger: Ledger) -> list[int]:
        """Prices in 10^-9 of the currency for each quarter hour; 0 where none is needed.

        Raises NotKnown for a quarter hour that used energy and has no price.
        """
        known = self.by_instant
        prices = []
        for index, energy_uwh in enumerate(ledger.energy_uwh.tolist()):
            price = known.get(ledger.start + index * QUARTER)
            if price is None and energy_uwh:
                at = ledger.start + index * QUARTER
                raise NotKnown(
                    f'market "{self.market}": no price for {at.isoformat()}; import the prices '
                    "of that day"
                )
            prices.append(0 if price is None else int(price.scaleb(PRICE_DIGITS)))
        return prices


def spot_cost(prices: SpotPrices, ledger: Ledger) -> Decimal:
    """Energy times price, summed exactly; prices have up to nine decimals."""
    total = sum(map(mul, ledger.energy_uwh.tolist(), prices.over(ledger)))
    return Decimal(total).scaleb(-PRICE_DIGITS - _KWH_DIGITS)
