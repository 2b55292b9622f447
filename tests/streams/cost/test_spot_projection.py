"""What a cycle under a spot tariff will cost: by known prices, then by those of the last week."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from schemas.cost import BudgetPeriod
from streams.cost.budgets import Budget
from streams.cost.days import Span, midnight
from streams.cost.expected_prices import ExpectedPrices
from streams.cost.home import assess
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import catalogue_of
from streams.tariffs.month import QUARTER, Month
from streams.tariffs.spot import SpotPrices
from tests.streams.cost.homes import book_of, home_of

BERLIN = ZoneInfo("Europe/Berlin")
KWH = 10**9
SPOT = {
    "tariffs": {
        "spot": {
            "title": "The market's price + 19 %",
            "currency": "EUR",
            "zone": "Europe/Berlin",
            "rates": [{"from": "2026-01", "spot": "DE", "taxes": [{"rate": "0.19"}]}],
        }
    }
}
KNOWN = catalogue_of([SPOT])
CONTRACT = Contract("spot", date(2026, 1, 1))


class Market:
    """Prices of whole civil days: `price(start)` for each quarter hour of `[first, after)`."""

    def __init__(self, first: date, after: date, price) -> None:
        start, end = midnight(first, BERLIN), midnight(after, BERLIN)
        instants = [start + index * QUARTER for index in range((end - start) // QUARTER)]
        self.by_instant = {at: price(at.astimezone(BERLIN)) for at in instants}

    def __call__(self, market: str, span: Span) -> SpotPrices:
        assert market == "DE"
        held = {at: price for at, price in self.by_instant.items() if span.start <= at < span.end}
        return SpotPrices("DE", held, "EUR" if held else None)


def by_hour(at: datetime) -> Decimal:
    """Each hour has a price of its own, and each day."""
    return Decimal(at.hour + 1).scaleb(-2) + Decimal(at.day).scaleb(-4)


def assessed(market, at: datetime, budgets=()):
    """A home that uses a kWh in each quarter hour, at `at`; and its ledger of the month."""
    home = home_of(KNOWN, [CONTRACT], budgets, zone=BERLIN)
    home.costing.prices = market
    cycle = cycle_for(KNOWN, CONTRACT, Month(at.year, at.month))
    quarters = np.full(cycle.quarters, KWH, np.int64)
    whole = Ledger(cycle.start, cycle.end, quarters, quarters * 0)
    return assess(home, book_of(home, whole, at)), whole


def bill(ledger: Ledger, prices: dict[datetime, Decimal]) -> Decimal:
    month = Month(*ledger.start.astimezone(BERLIN).timetuple()[:2])
    spot = SpotPrices("DE", prices, "EUR")
    return rate_contract(KNOWN, CONTRACT, month, ledger, spot=spot).total


def test_a_month_whose_prices_are_known_is_projected_by_them():
    market = Market(date(2026, 6, 1), date(2026, 7, 1), by_hour)
    told, whole = assessed(market, midnight(date(2026, 6, 10), BERLIN) + timedelta(hours=7))
    assert told.cost.projected.assumed_prices == 0
    assert Decimal(told.cost.projected.with_service) == bill(whole, market.by_instant)


def test_what_is_not_known_takes_the_mean_of_the_same_time_of_the_last_seven_days():
    #  known to the 11th at midnight, seven days with today (the 10th): the 4th to the 10th
    market = Market(date(2026, 6, 1), date(2026, 6, 12), by_hour)
    told, whole = assessed(market, midnight(date(2026, 6, 10), BERLIN) + timedelta(hours=7))
    prices = dict(market.by_instant)
    for day in range(12, 31):
        start = midnight(date(2026, 6, day), BERLIN)
        for index in range(96):
            #  the mean of the days' parts 4 to 10 of 0.0001 is 0.0007
            prices[start + index * QUARTER] = Decimal(index // 4 + 1).scaleb(-2) + Decimal("0.0007")
    assert told.cost.projected.assumed_prices == 19 * 96
    assert Decimal(told.cost.projected.with_service) == bill(whole, prices)
    assert told.cost.not_projected is None


def test_the_days_of_a_clock_change_take_their_own_hours():
    #  29 March 2026 has no 02:00; 25 October has two
    march = Market(date(2026, 3, 20), date(2026, 3, 28), by_hour)
    at = midnight(date(2026, 3, 27), BERLIN) + timedelta(hours=12)
    change = Span(midnight(date(2026, 3, 29), BERLIN), midnight(date(2026, 3, 30), BERLIN))
    found = ExpectedPrices(march, at, BERLIN)("DE", change).by_instant
    hours = [one.astimezone(BERLIN).hour for one in sorted(found)]
    assert len(found) == 92
    assert 2 not in hours
    #  days 21 to 27: 0.0024
    for start, price in found.items():
        assert price == Decimal(start.astimezone(BERLIN).hour + 1).scaleb(-2) + Decimal("0.0024")


def test_a_time_that_no_day_had_takes_the_mean_of_all():
    market = Market(date(2026, 6, 10), date(2026, 6, 11), lambda _: Decimal("0.10"))
    noon = midnight(date(2026, 6, 10), BERLIN) + timedelta(hours=12)
    market.by_instant = {at: price for at, price in market.by_instant.items() if at < noon}
    tomorrow = Span(midnight(date(2026, 6, 11), BERLIN), midnight(date(2026, 6, 12), BERLIN))
    market.by_instant[noon - QUARTER] = Decimal("4.90")
    found = ExpectedPrices(market, noon, BERLIN)("DE", tomorrow).by_instant
    assert found[tomorrow.start] == Decimal("0.10")
    assert found[tomorrow.start + timedelta(hours=11, minutes=45)] == Decimal("4.90")
    assert found[tomorrow.start + timedelta(hours=12)] == Decimal("0.20")  # (47 × 0.1 + 4.9) / 48


def test_a_price_of_the_past_is_never_made_up():
    """The 9th used energy and has no price: no cost, however many prices there are around it."""
    market = Market(date(2026, 6, 1), date(2026, 7, 1), by_hour)
    gone = midnight(date(2026, 6, 9), BERLIN)
    del market.by_instant[gone]
    told, _ = assessed(market, midnight(date(2026, 6, 10), BERLIN))
    assert told.cost.projected is None
    assert f'market "DE": no price for {gone.isoformat()}' in told.cost.problem


def test_without_a_price_of_the_last_days_it_is_said_why_there_is_no_projection():
    """A market whose prices ended ten days ago, and a home that has used nothing since."""
    market = Market(date(2026, 6, 1), date(2026, 6, 5), by_hour)
    home = home_of(KNOWN, [CONTRACT], zone=BERLIN)
    home.costing.prices = market
    cycle = cycle_for(KNOWN, CONTRACT, Month(2026, 6))
    used = np.zeros(cycle.quarters, np.int64)
    used[: 4 * 96] = KWH
    at = midnight(date(2026, 6, 15), BERLIN)
    cost = assess(home, book_of(home, Ledger(cycle.start, cycle.end, used, used * 0), at)).cost
    assert cost.cycle is not None
    assert cost.projected is None
    assert cost.not_projected == (
        f'market "DE": no price for {at.isoformat()}; import the prices of that day'
    )


@pytest.mark.parametrize("period", [BudgetPeriod.CYCLE, BudgetPeriod.MONTH])
def test_a_budget_of_money_is_projected_by_the_same_prices(period):
    budget = Budget(1, "June", period, Decimal(1_000), None, date(2026, 1, 1))
    market = Market(date(2026, 6, 1), date(2026, 6, 12), by_hour)
    told, _ = assessed(market, midnight(date(2026, 6, 10), BERLIN), [budget])
    (status,) = told.cost.budgets
    assert status.problem is None
    assert Decimal(status.projected) == Decimal(told.cost.projected.with_service)
