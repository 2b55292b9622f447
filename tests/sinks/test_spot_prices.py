"""Spot prices in the real database, and what bills, running cost and comparisons make of them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from schemas.cost import CostState
from sinks.bill_drafts import draft
from sinks.bills import issued_bill
from sinks.contracts import ledger_of, set_contract, set_home
from sinks.costs import cost_of
from sinks.spot_prices import Kept, keep_prices, price_rows, prices_by_market, prices_of
from streams.billing.job import Billing, BillingSettings
from streams.billing.what_if import compare
from streams.cost.job import CostJob
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract
from streams.tariffs.errors import NotKnown
from streams.tariffs.loading import catalogue_of
from streams.tariffs.month import QUARTER, Month
from streams.tariffs.spot import BadPrices

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
KWH = 10**9
MARCH = Month(2026, 3)
START, END = datetime(2026, 2, 28, 23, tzinfo=UTC), datetime(2026, 3, 31, 22, tzinfo=UTC)
"""March 2026 in Berlin: the clock goes forward within."""
QUARTERS = 31 * 96 - 4
LATER = max(datetime.now(UTC), END) + timedelta(days=1)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """`spot` follows DE at the market's price + 19 %; `flat` costs 0.30; `north` follows SE3."""

    def tariff(currency: str, **rates: Any) -> dict[str, Any]:
        return {
            "title": "Test",
            "currency": currency,
            "zone": "Europe/Berlin",
            "rates": [{"from": "2026-01", "taxes": [{"rate": "0.19"}], **rates}],
        }

    flat = {"periods": {"all": [{"price": "0.30"}]}}
    return catalogue_of(
        [
            {
                "tariffs": {
                    "spot": tariff("EUR", spot="DE"),
                    "flat": tariff("EUR", energy=flat),
                    "north": tariff("EUR", spot="SE3"),
                }
            }
        ]
    )


@pytest.fixture
def home(db: Connection, catalogue: Catalogue) -> str:
    """1 kWh in each of the first four quarter hours of March, nothing afterwards."""
    set_home(db, "h1", zone="Europe/Berlin")
    set_contract(db, "h1", Contract("spot", date(2026, 3, 1)), catalogue)
    db.execute(
        """
        WITH d AS (INSERT INTO device (address, family) VALUES ('homesync:h1/meter', 'homesync')
                   RETURNING device_id),
             c AS (INSERT INTO channel (device_id, name) SELECT device_id, 'total' FROM d
                   RETURNING channel_id),
             m AS (INSERT INTO home_meter (home_id, channel_id, role, valid_from, valid_to)
                   SELECT 'h1', channel_id, 'grid', %(start)s, %(end)s FROM c)
        INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, quality,
                               why, complete, revision)
        SELECT channel_id, at, CASE WHEN at < %(low)s THEN 1000000000 ELSE 0 END,
               0, 15, 0, 0, true, 1
        FROM c, generate_series(%(start)s, %(last)s, interval '15 minutes') AS at""",
        {"start": START, "end": END, "low": START + 4 * QUARTER, "last": END - QUARTER},
    )
    return "h1"


def keep(db: Connection, catalogue: Catalogue, prices: list[str], **more: Any) -> Kept:
    """The prices of the quarter hours from the month's first on."""
    given = {START + index * QUARTER: Decimal(price) for index, price in enumerate(prices)}
    terms = {"market": "DE", "currency": "EUR", "minutes": 15, **more}
    return keep_prices(db, catalogue, by_instant=given, **terms)


PRICES = ["0.10", "-0.05", "0.20", "0.15"]  # 0.40 EUR of energy, 0.476 with tax


def test_prices_are_kept_corrected_and_the_same_again_changes_nothing(
    db: Connection, catalogue: Catalogue
):
    assert keep(db, catalogue, PRICES) == Kept(4, 0)
    assert keep(db, catalogue, PRICES) == Kept(0, 0)
    assert keep(db, catalogue, ["0.10", "-0.06", "0.20", "0.15", "0"]) == Kept(1, 1)
    rows = price_rows(db, "DE", START, START + 5 * QUARTER)
    assert [str(row.price) for row in rows] == ["0.10", "-0.06", "0.20", "0.15", "0"]
    assert [row.revision for row in rows] == [1, 2, 1, 1, 1]
    assert {(row.minutes, row.currency) for row in rows} == {(15, "EUR")}
    assert prices_of(db, "DE", START + QUARTER, START + 2 * QUARTER).by_instant == {
        START + QUARTER: Decimal("-0.06")
    }
    assert prices_of(db, "other", START, END).currency is None


def test_a_market_has_one_currency_and_a_name(db: Connection, catalogue: Catalogue):
    keep(db, catalogue, PRICES)
    with pytest.raises(BadPrices, match='"DE" are in EUR, these in SEK'):
        keep(db, catalogue, PRICES, currency="SEK")
    with pytest.raises(BadPrices, match="is no market"):
        keep(db, catalogue, PRICES, market="\0")
    with pytest.raises(BadPrices, match="is no currency"):
        keep(db, catalogue, PRICES, currency="eur")


def test_a_missing_price_is_an_error_and_no_bill(db: Connection, catalogue: Catalogue, home: str):
    keep(db, catalogue, PRICES[:3])
    with pytest.raises(NotKnown, match=r'market "DE": no price for 2026-02-28T23:45:00\+00:00'):
        draft(db, catalogue, home, MARCH)
    assert billed(db, catalogue) == []
    assert issued_bill(db, home, MARCH) is None


def billed(db: Connection, catalogue: Catalogue) -> list[tuple[str, int, str]]:
    settings = BillingSettings.model_validate({"billing_quiet_s": 0})
    issued = Billing(catalogue, "t", settings).work_off(db, LATER)
    return [(f"{bill.month:%Y-%m}", bill.version, str(bill.total)) for bill in issued]


def test_a_corrected_price_makes_a_next_version(db: Connection, catalogue: Catalogue, home: str):
    keep(db, catalogue, PRICES)
    #  0.40 × 1.19 = 0.476: 0.40 + tax 0.08
    assert billed(db, catalogue) == [("2026-03", 1, "0.48")]
    assert billed(db, catalogue) == []
    keep(db, catalogue, ["0.10", "-0.05", "0.20", "0.25"])
    assert billed(db, catalogue) == [("2026-03", 2, "0.60")]
    second = issued_bill(db, home, MARCH)
    assert second is not None
    assert second.adjustment is not None
    assert second.adjustment["difference"] == "0.12"
    assert second.document["lines"][0]["name"] == "spot"
    keep(db, catalogue, ["9"], market="SE3")
    assert billed(db, catalogue) == [], "another market"


def work_off(db: Connection, catalogue: Catalogue) -> None:
    job = CostJob(db, catalogue)
    while job.terms_changed():
        pass


def test_the_running_cost_follows_the_market_and_waits_for_its_prices(
    db: Connection, catalogue: Catalogue, home: str
):
    db.execute("DELETE FROM usage_15m WHERE window_start >= %s", [START + 4 * QUARTER])
    work_off(db, catalogue)
    unknown = cost_of(db, home)
    assert unknown is not None
    assert unknown.state is CostState.NOT_RATED
    assert 'market "DE": no price' in (unknown.problem or "")
    keep(db, catalogue, PRICES)
    work_off(db, catalogue)
    known = cost_of(db, home)
    assert known is not None
    assert (known.state, known.at) == (CostState.RUNNING, START + timedelta(hours=1))
    assert known.cycle is not None
    assert known.cycle.with_service == str(draft(db, catalogue, home, MARCH).bill.total) == "0.48"
    assert known.projected is not None
    #  1 kWh in each quarter hour at the mean of the four known ones: 0.10 + 19 %
    assert known.projected.assumed_prices == QUARTERS - 4
    assert known.projected.with_service == f"{Decimal('0.1') * QUARTERS * Decimal('1.19'):.2f}"
    keep(db, catalogue, [*PRICES, *["0.20"] * (QUARTERS - 4)])
    work_off(db, catalogue)
    sure = cost_of(db, home)
    assert sure is not None
    assert sure.projected is not None
    assert sure.projected.assumed_prices == 0


def test_tariffs_of_markets_are_compared_by_their_own_prices(
    db: Connection, catalogue: Catalogue, home: str
):
    keep(db, catalogue, PRICES)
    ledger = ledger_of(db, home, START, END).ledger
    spot = prices_by_market(db, catalogue, ["spot", "flat", "north"], START, END)
    offers = compare(catalogue, ["flat", "north", "spot"], ledger, spot=spot)
    assert [(one.tariff_id, str(one.total)) for one in offers[:2]] == [
        ("spot", "0.48"),
        ("flat", "1.43"),
    ]
    assert offers[2].tariff_id == "north"
    assert 'market "SE3": no price' in (offers[2].unknown or "")
    keep(db, catalogue, ["0", "0", "0", "0.01"], market="SE3")
    spot = prices_by_market(db, catalogue, ["north"], START, END)
    assert [str(one.total) for one in compare(catalogue, ["north"], ledger, spot=spot)] == ["0.01"]


def test_a_whole_month_with_the_change_of_the_clock_is_rated(
    db: Connection, catalogue: Catalogue, home: str
):
    db.execute("UPDATE usage_15m SET energy_uwh = %s", [KWH])
    keep(db, catalogue, ["0.10"] * QUARTERS)
    made = draft(db, catalogue, home, MARCH)
    assert made.cycle.quarters == QUARTERS == 2972
    assert made.bill.lines[0].amount == Decimal("297.20")
