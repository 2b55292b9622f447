"""What-if over one's own ledger, and the utility's bill beside ours."""

from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from streams.billing.utility import BadUtilityBill, beside_ours, check_lines
from streams.billing.what_if import compare, told
from streams.tariffs.contract import Contract, agreed_for
from streams.tariffs.errors import BadUsage, UnknownTariff
from streams.tariffs.flat import flat_document
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import catalogue_of, known_tariffs
from streams.tariffs.month import Month, cycle_of
from streams.tariffs.rating import plain, rate, rate_ledger
from streams.tariffs.usage import Usage

BANGKOK = ZoneInfo("Asia/Bangkok")


def bangkok(*when):
    return datetime(*when, tzinfo=BANGKOK)


def ledger(start, end, uwh):
    """The same energy in each quarter hour."""
    energy = np.full(int((end - start).total_seconds()) // 900, uwh, np.int64)
    return Ledger(start, end, energy, np.zeros_like(energy))


def by_night(ledger):
    hours = (np.arange(len(ledger.energy_uwh)) // 4) % 24
    energy = np.where((hours < 9) | (hours >= 22), ledger.energy_uwh, 0)
    return Ledger(ledger.start, ledger.end, energy, ledger.export_uwh)


def test_whole_months_cost_what_their_bills_do():
    months = ledger(bangkok(2026, 1, 1), bangkok(2026, 4, 1), 200_000_000)
    (offer,) = compare(known_tariffs(), ["mea-1.2"], months)
    bills = []
    for number in (1, 2, 3):
        cycle = cycle_of(Month(2026, number), BANGKOK)
        own = ledger(cycle.start, cycle.end, 200_000_000)
        bills.append(rate_ledger(known_tariffs().rates("mea-1.2", cycle.month), cycle, own))
    assert offer.total == sum(bill.total for bill in bills)


def test_the_cheapest_comes_first_and_says_why():
    #  6 kWh an hour between 22:00 and 09:00 only, over April and May 2026
    nights = by_night(ledger(bangkok(2026, 4, 1), bangkok(2026, 6, 1), 1_500_000_000))
    offers = told(compare(known_tariffs(), ["mea-1.2", "mea-1.3.2"], nights), nights)
    assert [offer["tariff"] for offer in offers] == ["mea-1.3.2", "mea-1.2"]
    assert offers[0]["reason"].startswith("the cheapest; ")
    assert "100 % of the energy in off_peak" in offers[0]["reason"]
    more = Decimal(offers[1]["total"]) - Decimal(offers[0]["total"])
    assert offers[1]["reason"].startswith(f"{more} THB more; ")
    assert "above 400 kWh a month at 4.4217" in offers[1]["reason"]


def test_a_part_of_a_month_is_rated_with_its_own_energy():
    part = ledger(bangkok(2026, 2, 10), bangkok(2026, 2, 11), 250_000_000)
    (offer,) = compare(known_tariffs(), ["mea-1.2"], part)
    cycle = cycle_of(Month(2026, 2), BANGKOK)
    usage = Usage(24 * 10**9, {"all": 24 * 10**9})
    assert offer.total == rate(known_tariffs().rates("mea-1.2", cycle.month), cycle, usage).total


def test_a_reading_day_within_the_month_makes_the_cycles_of_the_interval():
    span = ledger(bangkok(2026, 1, 15), bangkok(2026, 3, 15), 250_000_000)
    held = [Contract("mea-1.2", date(2026, 2, 15), 15)]
    (offer,) = compare(known_tariffs(), ["mea-1.2"], span, held)
    assert [str(bill.cycle.month) for bill in offer.bills] == ["2026-02", "2026-03"]
    before, after = (bill.cycle for bill in offer.bills)
    #  the first contract begins with the March bill: its own day counts before it, too
    assert (before.start, before.end) == (bangkok(2026, 1, 15), bangkok(2026, 2, 15))
    assert (after.start, after.end) == (bangkok(2026, 2, 15), bangkok(2026, 3, 15))


def test_each_month_of_the_interval_has_the_reading_day_of_then():
    held = [Contract("mea-1.2", date(2026, 1, 1), 1), Contract("mea-1.2", date(2026, 4, 1), 20)]
    span = ledger(bangkok(2026, 3, 1), bangkok(2026, 6, 20), 200_000_000)
    (offer,) = compare(known_tariffs(), ["mea-1.2"], span, held)
    #  March [1 March, 1 April), April [1 April, 20 April), then to each 20th
    assert [bill.cycle.days for bill in offer.bills] == [31, 19, 30, 31]
    own = []
    for month in range(3, 7):
        cycle = agreed_for(held, Month(2026, month), BANGKOK).cycle
        rates = known_tariffs().rates("mea-1.2", cycle.month)
        own.append(rate_ledger(rates, cycle, ledger(cycle.start, cycle.end, 200_000_000)).total)
    assert [bill.total for bill in offer.bills] == own
    (newest,) = compare(known_tariffs(), ["mea-1.2"], span, held[1:])
    assert [bill.cycle.days for bill in newest.bills] == [28, 31, 30, 31]


def test_rates_that_nobody_knows_are_an_error_of_that_tariff_alone():
    october = ledger(bangkok(2026, 10, 1), bangkok(2026, 11, 1), 10**8)
    offers = told(compare(known_tariffs(), ["mea-1.3.2", "mea-1.2"], october), october)
    assert [offer["tariff"] for offer in offers] == ["mea-1.2", "mea-1.3.2"]
    assert offers[1]["total"] is None
    assert "are not known" in offers[1]["error"]


def test_an_unknown_tariff_is_an_error():
    day = ledger(bangkok(2026, 2, 1), bangkok(2026, 2, 2), 0)
    with pytest.raises(UnknownTariff, match="mea-9"):
        compare(known_tariffs(), ["mea-9"], day)


def test_tariffs_in_two_currencies_cannot_be_compared():
    catalogue = catalogue_of(
        flat_document(
            tariff_id=currency, currency=currency, price_per_kwh=Decimal(1), zone="Asia/Bangkok"
        )
        for currency in ("THB", "EUR")
    )
    day = ledger(bangkok(2026, 2, 1), bangkok(2026, 2, 2), 0)
    with pytest.raises(BadUsage, match="EUR and THB"):
        compare(catalogue, ["THB", "EUR"], day)


# ---------------------------------------------------------------- the utility's bill


def ours():
    """Our bill of 345 kWh in February 2026."""
    rates = known_tariffs().rates("mea-1.2", Month(2026, 2))
    cycle = cycle_of(Month(2026, 2), BANGKOK)
    bill = rate(rates, cycle, Usage(345 * 10**9, {"all": 345 * 10**9}))
    return {**bill.document(), "energy_kwh": "345", "by_period": {}}


def typed(**lines):
    return {name: Decimal(value) for name, value in lines.items()}


def test_equal_bills_say_so():
    own = ours()
    lines = typed(energy_kwh="345", energy=own["energy"], total=own["total"])
    check_lines(lines)
    made = beside_ours(lines, own)
    assert [row["difference"] for row in made["lines"]] == ["0", "0.00", "0.00"]
    assert made["reason"] == "both bills say the same"


def test_each_line_has_its_difference_and_the_meters_are_told_from_the_rates():
    own = ours()
    lines = typed(energy_kwh="350", service=own["service"], total=Decimal(own["total"]) + 20)
    made = beside_ours(lines, own)
    assert {row["line"]: row["difference"] for row in made["lines"]} == {
        "energy_kwh": "5",
        "service": "0.00",
        "total": "20.00",
    }
    assert "the utility counted 5 kWh more" in made["reason"]
    rates = beside_ours(typed(energy_kwh="345", ft="1.00", total=own["total"]), own)
    assert plain(Decimal("1.00") - Decimal(own["ft"])) in str(rates["lines"])
    assert "compare tariff, reading day and Ft" in rates["reason"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ({"energy": "10"}, "has no total"),
        ({"total": "10", "tax": "1"}, "'tax' is no line"),
        ({"total": "10", "energy_kwh": "-1"}, "energy_kwh -1 is no amount"),
        ({"total": "NaN"}, "total NaN is no amount"),
        ({"energy": "10", "ft": "1", "subtotal": "12", "total": "12"}, "make a subtotal of 11"),
        ({"subtotal": "100", "vat": "7", "total": "108"}, "make a total of 107"),
    ],
)
def test_a_bill_that_contradicts_itself_is_refused(lines, said):
    with pytest.raises(BadUtilityBill, match=said):
        check_lines(typed(**lines))
