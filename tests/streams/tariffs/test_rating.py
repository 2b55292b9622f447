"""Rating a ledger: peaks, minimum, export, proration, spot prices; properties of every bill."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.tariffs.category import MonthUse
from streams.tariffs.contract import Contract, agreed_for, rate_contract
from streams.tariffs.errors import BadUsage, NotKnown
from streams.tariffs.flat import flat_document
from streams.tariffs.ledger import Ledger, LedgerRow
from streams.tariffs.loading import catalogue_of, known_tariffs
from streams.tariffs.month import QUARTER, Month, cycle_of
from streams.tariffs.rating import Kind, rate, rate_ledger
from streams.tariffs.spot import BadPrices, SpotPrices
from streams.tariffs.usage import Usage, usage_of
from tests.streams.tariffs.documents import FEBRUARY, document, february, ledger, one_period

KWH = 10**9
BERLIN, BANGKOK = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Bangkok")
THAI = [f"{utility}-{number}" for utility in ("mea", "pea") for number in (
    "1.1", "1.2", "1.3.1", "1.3.2", "2.1.2", "2.2.2", "3.2.3")]  # fmt: skip


def thai(tariff_id, month=FEBRUARY, cycle_day=1):
    rates = known_tariffs().rates(tariff_id, month)
    return rates, cycle_of(month, rates.tariff.zone, cycle_day)


def rated(tariff_id, rows, month=FEBRUARY):
    rates, cycle = thai(tariff_id, month)
    return rate_ledger(rates, cycle, Ledger.of_rows(cycle.start, cycle.end, rows))


def lines(bill, kind):
    return {line.name: str(line.amount) for line in bill.lines if line.kind is kind}


# Peaks ------------------------------------------------------------------------------------------


def test_demand_of_a_day_that_rises_by_a_kilowatt_every_quarter_hour():
    #  loads 0, 1, ... 95 kW; peak (12-18) 71 kW x 1, half-peak (8:30-12, 18-21:30) 85 kW x 2,
    #  any time 95 kW x 10: 71 + 170 + 950 = 1191; energy 4560 kW / 4 x 0.05 = 57.00
    made = one_period(
        energy={"periods": {"all": [{"price": "0.05"}]}},
        demand=[
            {
                "schedule": "s",
                "periods": {
                    "peak": [{"price": 1}],
                    "half": [{"price": 2}],
                    "low": [{"price": 0}],
                },
            },
            {"name": "any time", "periods": {"all": [{"price": 10}]}},
        ],
    )
    made["schedules"] = {
        "s": {
            "windows": [
                {"period": "low", "to": "08:30"},
                {"period": "half", "from": "08:30", "to": "12:00"},
                {"period": "peak", "from": "12:00", "to": "18:00"},
                {"period": "half", "from": "18:00", "to": "21:30"},
                {"period": "low", "from": "21:30"},
            ]
        }
    }
    rates, cycle = february(made)
    day = ledger(cycle.start, [kw * KWH // 4 for kw in range(96)])
    bill = rate(rates, cycle, usage_of(rates, day))
    assert lines(bill, Kind.DEMAND) == {
        "demand peak": "71.00",
        "demand half": "170.00",
        "any time": "950.00",
    }
    assert str(bill.sum_of(Kind.ENERGY)) == "57.00"


@pytest.mark.parametrize(("minutes", "peak_kw"), [(15, 8), (30, 6), (60, 4)])
def test_demand_is_the_mean_over_the_measuring_period(minutes, peak_kw):
    #  kWh by quarter hour: 0 1 2 1 | 0 0 0 0; means 8 kW, (2+1) x 2 = 6 kW, 4 x 1 = 4 kW
    demand = [{"measuring_minutes": minutes, "periods": {"all": [{"price": 1}]}}]
    rates, cycle = february(one_period(demand=demand))
    hour = ledger(cycle.start, [0, 1 * KWH, 2 * KWH, 1 * KWH, 0, 0, 0, 0])
    assert usage_of(rates, hour).demand_kw == {(0, "all"): peak_kw}


def test_only_the_peak_hours_count_for_thai_demand():
    rates, cycle = thai("mea-3.2.3")
    at = cycle.start + timedelta(days=4)  # Thursday 5 February, 00:00 Bangkok
    rows = [
        LedgerRow(at + timedelta(hours=8, minutes=45), 100 * KWH),
        LedgerRow(at + timedelta(hours=9), 5 * KWH),
        LedgerRow(at + timedelta(hours=21, minutes=45), 6 * KWH),
        LedgerRow(at + timedelta(hours=22), 100 * KWH),
    ]
    bill = rate_ledger(rates, cycle, Ledger.of_rows(cycle.start, cycle.end, rows))
    assert lines(bill, Kind.DEMAND) == {"demand on_peak": "5040.00"}  # 24 kW x 210
    assert lines(bill, Kind.ENERGY) == {"on_peak": "47.63", "off_peak": "527.38"}


# Minimum, export, proration, money --------------------------------------------------------------


def test_a_bill_below_the_minimum_is_filled_up():
    rates, cycle = february(one_period(minimum=20, taxes=[{"rate": "0.1"}]))
    bill = rate(rates, cycle, Usage(15 * KWH, {"all": 15 * KWH}))
    assert lines(bill, Kind.MINIMUM) == {"minimum": "5.00"}
    assert (str(bill.subtotal), str(bill.total)) == ("20.00", "22.00")
    above = rate(rates, cycle, Usage(20 * KWH, {"all": 20 * KWH}))
    assert lines(above, Kind.MINIMUM) == {}


@pytest.mark.parametrize(("taxed", "total"), [(True, "88.00"), (False, "90.00")])
def test_an_export_credit_lowers_the_subtotal_or_the_total(taxed, total):
    #  100 kWh at 1 less 10 kWh at 2: taxed (100 - 20) x 1.1 = 88, untaxed 110 - 20 = 90
    terms = {"price": 2, "taxed": taxed}
    rates, cycle = february(one_period(export_credit=terms, taxes=[{"rate": "0.1"}]))
    bill = rate(rates, cycle, Usage(100 * KWH, {"all": 100 * KWH}, export_uwh=10 * KWH))
    assert lines(bill, Kind.CREDIT) == {"export": "-20.00"}
    assert str(bill.total) == total


def test_blocks_are_prorated_by_the_days_of_the_cycle():
    #  a block of 30 kWh in 30 days holds 28 in February: 28 x 1 + 12 x 2 = 52; 0.5 a day x 28
    energy = {"periods": {"all": [{"up_to": 30, "price": 1}, {"price": 2}]}}
    fixed = [{"price": "0.5", "per": "day"}]
    rates, cycle = february(one_period(energy=energy, prorate_days=30, fixed=fixed))
    bill = rate(rates, cycle, Usage(40 * KWH, {"all": 40 * KWH}))
    assert lines(bill, Kind.ENERGY) == {"all": "52.00"}
    assert lines(bill, Kind.FIXED) == {"service": "14.00"}


@pytest.mark.parametrize(("decimals", "total"), [(0, "12"), (2, "12.35"), (3, "12.345")])
def test_money_is_rounded_to_the_unit_of_its_currency(decimals, total):
    made = one_period(energy={"periods": {"all": [{"price": "1.2345"}]}})
    made["tariffs"]["t"]["decimals"] = decimals
    rates, cycle = february(made)
    assert str(rate(rates, cycle, Usage(10 * KWH, {"all": 10 * KWH})).total) == total


def test_a_negative_surcharge_lowers_the_bill():
    made = document()
    made["surcharges"]["ft"]["customers"]["home"][0]["price"] = "-0.1532"
    rates, cycle = february(made)
    bill = rate(rates, cycle, Usage(50 * KWH, {"day": 50 * KWH, "night": 0}))
    assert lines(bill, Kind.SURCHARGE) == {"ft": "-7.66"}
    assert str(bill.total) == "92.34"


def test_a_flat_price():
    made = flat_document(
        tariff_id="f",
        currency="EUR",
        price_per_kwh=Decimal("0.30"),
        zone="Europe/Berlin",
        tax_rate=Decimal("0.19"),
    )
    rates = catalogue_of([made]).rates("f", FEBRUARY)
    bill = rate(rates, cycle_of(FEBRUARY, BERLIN), Usage(1000 * KWH, {"all": 1000 * KWH}))
    assert str(bill.total) == "357.00"  # (0.20 + 0.10) x 1.19 a kWh


def test_the_document_of_a_bill_adds_up():
    bill = rated("mea-3.2.3", [LedgerRow(thai("mea-3.2.3")[1].start + 40 * QUARTER, KWH)])
    shown = bill.document()
    added = sum(Decimal(shown[name]) for name in ("energy", "ft", "service", "demand"))
    assert Decimal(shown["subtotal"]) == added
    assert Decimal(shown["total"]) == Decimal(shown["subtotal"]) + Decimal(shown["vat"])
    assert sum(Decimal(line["amount"]) for line in shown["lines"]) == Decimal(shown["total"])


# Spot -------------------------------------------------------------------------------------------

SPOT = one_period(
    energy={"periods": {"all": [{"price": "0.10"}]}}, spot="market", taxes=[{"rate": "0.19"}]
)
SPOT["tariffs"]["t"] |= {"zone": "Europe/Berlin", "currency": "EUR"}


@pytest.mark.parametrize(
    ("day", "slots"), [(date(2026, 3, 29), 92), (date(2026, 3, 30), 96), (date(2026, 10, 25), 100)]
)
def test_a_day_has_as_many_prices_as_quarter_hours(day, slots):
    prices = SpotPrices.of_day("m", day, BERLIN, [Decimal(n) for n in range(slots)])
    assert max(prices.by_instant) - min(prices.by_instant) == (slots - 1) * QUARTER
    with pytest.raises(BadPrices, match=f'market "m": {day} has {slots} quarter hours in Europe'):
        SpotPrices.of_day("m", day, BERLIN, [Decimal(1)] * (slots + 1))


def test_both_hours_of_the_fall_back_have_their_own_price():
    prices = SpotPrices.of_day(
        "m", date(2026, 10, 25), BERLIN, [Decimal(slot) for slot in range(100)]
    )
    first = datetime(2026, 10, 25, 2, 0, tzinfo=BERLIN)
    second = first.replace(fold=1)
    at_first, at_second = (prices.by_instant[at.astimezone(UTC)] for at in (first, second))
    assert (at_first, at_second) == (8, 12)


def test_spot_prices_may_be_negative_and_bear_charge_and_tax():
    #  2 kWh at 0.20 and 1 kWh at -0.05: 0.35; charge 3 x 0.10 = 0.30; (0.35 + 0.30) x 1.19 = 0.77
    rates, cycle = february(SPOT)
    by_instant = {cycle.start: Decimal("0.20"), cycle.start + QUARTER: Decimal("-0.05")}
    prices = SpotPrices("market", by_instant, "EUR")
    usage = usage_of(rates, ledger(cycle.start, [2 * KWH, KWH, 0]), prices)
    bill = rate(rates, cycle, usage)
    assert lines(bill, Kind.ENERGY) == {"all": "0.30", "spot": "0.35"}
    assert str(bill.total) == "0.77"


def test_energy_without_a_spot_price_is_an_error():
    rates, cycle = february(SPOT)
    prices = SpotPrices("market", {cycle.start: Decimal("0.20")})
    with pytest.raises(NotKnown, match='market "market": no price for 2026-01-31T23:15:00'):
        usage_of(rates, ledger(cycle.start, [1, 1]), prices)
    with pytest.raises(BadUsage, match='tariff "t" follows spot prices; give them'):
        rate(rates, cycle, Usage(1, {"all": 1}))


@pytest.mark.parametrize(
    ("market", "currency", "told"),
    [
        ("other", "EUR", 'tariff "t" follows the market "market", the prices are of "other"'),
        ("market", "SEK", 'tariff "t" is in EUR, the prices of the market "market" in SEK'),
    ],
)
def test_prices_of_another_market_or_currency_make_no_bill(market, currency, told):
    rates, cycle = february(SPOT)
    prices = SpotPrices(market, {cycle.start: Decimal(1)}, currency)
    with pytest.raises(BadPrices, match=told):
        usage_of(rates, ledger(cycle.start, [1]), prices)


# The ledger -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "energy_uwh", "told"),
    [
        (-QUARTER, 1, "is no quarter hour of 2026-01-31"),
        (28 * 96 * QUARTER, 1, "is no quarter hour of 2026-01-31"),
        (timedelta(minutes=1), 1, "is no quarter hour of 2026-01-31"),
        (timedelta(0), -1, "has less than no energy"),
    ],
)
def test_a_row_that_does_not_belong_to_the_cycle_is_refused(offset, energy_uwh, told):
    _, cycle = thai("mea-1.2")
    with pytest.raises(BadUsage, match=told):
        Ledger.of_rows(cycle.start, cycle.end, [LedgerRow(cycle.start + offset, energy_uwh)])


def columns(rows):
    us = [int(row.start_at.timestamp()) * 1_000_000 for row in rows]
    energies = ([row.energy_uwh for row in rows], [row.export_uwh for row in rows])
    return [np.array(column, np.int64) for column in (us, *energies)]


@pytest.mark.parametrize(
    ("offset", "energy_uwh", "told"),
    [(-QUARTER, 1, "is no quarter hour"), (timedelta(minutes=1), 1, "is no quarter hour"),
     (28 * 96 * QUARTER, 1, "is no quarter hour"), (QUARTER, -1, "has less than no energy")],
)  # fmt: skip
def test_columns_are_refused_as_rows_are(offset, energy_uwh, told):
    _, cycle = thai("mea-1.2")
    rows = [LedgerRow(cycle.start, 1), LedgerRow(cycle.start + offset, energy_uwh)]
    with pytest.raises(BadUsage, match=told):
        Ledger.of_columns(cycle.start, cycle.end, *columns(rows))


def test_the_ledger_of_another_cycle_is_refused():
    rates, cycle = thai("mea-1.2")
    with pytest.raises(BadUsage, match=r"the ledger is of .*; read the ledger of the cycle"):
        rate_ledger(rates, cycle, ledger(cycle.start, [1]))
    other = cycle_of(Month(2026, 3), rates.tariff.zone)
    with pytest.raises(BadUsage, match="rates of 2026-02 for the cycle 2026-03"):
        rate(rates, other, Usage(1, {"all": 1}))


HOME = [
    Contract("mea-1.1", date(2025, 1, 1), cycle_day=15, ampere_a=Decimal(5)),
    Contract("mea-1.3.2", date(2026, 1, 20), cycle_day=15),
]


@pytest.mark.parametrize(
    ("month", "tariff_id"),
    [
        (Month(2025, 2), "mea-1.1"),
        (Month(2026, 2), "mea-1.1"),  # its cycle began on 15 January
        (Month(2026, 3), "mea-1.3.2"),
    ],
)
def test_a_contract_holds_for_cycles_that_begin_in_it(month, tariff_id):
    assert agreed_for(HOME, month, BANGKOK).contract.tariff_id == tariff_id


def test_a_home_without_a_tariff_has_no_bill():
    with pytest.raises(BadUsage, match="the home has no tariff for 2025-01; set its contract"):
        agreed_for(HOME, Month(2025, 1), BANGKOK)


def test_a_bill_of_a_contract_follows_the_category():
    start = cycle_of(FEBRUARY, BANGKOK, 15).start
    rows = [LedgerRow(start, 16 * KWH)]
    before = [MonthUse(Month(2025, 11).plus(count), Decimal(200)) for count in range(3)]
    catalogue = known_tariffs()
    small = rate_contract(catalogue, HOME[0], FEBRUARY, rows, before[:2])
    large = rate_contract(catalogue, HOME[0], FEBRUARY, rows, before)
    assert (small.tariff_id, str(small.total)) == ("mea-1.1", "51.33")
    #  51.97 + Ft 1.56 + 24.62 = 78.15; VAT 5.47
    assert (large.tariff_id, str(large.total)) == ("mea-1.2", "83.62")


# Properties -------------------------------------------------------------------------------------

QUARTERS = 28 * 96
row_of_february = st.builds(
    lambda index, uwh: LedgerRow(thai("mea-1.2")[1].start + index * QUARTER, uwh),
    st.integers(0, QUARTERS - 1),
    st.integers(0, 50 * KWH),
)


@given(
    st.sampled_from(THAI),
    st.lists(row_of_february, max_size=30),
    st.lists(row_of_february, min_size=1, max_size=5),
)
def test_cost_never_falls_as_rows_are_added(tariff_id, rows, more):
    assert rated(tariff_id, rows + more).total >= rated(tariff_id, rows).total


@given(
    st.sampled_from(THAI),
    st.sampled_from([Month(2023, 5), Month(2023, 9), Month(2026, 2), Month(2026, 8)]),
    st.integers(0, 10_000 * KWH),
    st.integers(0, 100 * KWH),
)
def test_more_kwh_never_cost_less(tariff_id, month, energy_uwh, more_uwh):
    rates, cycle = thai(tariff_id, month)

    def total(uwh):
        energy = dict.fromkeys(rates.rates.energy.periods, uwh)
        usage = Usage(uwh * len(energy), energy, demand_kw={(0, "on_peak"): Decimal(3)})
        return rate(rates, cycle, usage).total

    assert total(energy_uwh + more_uwh) >= total(energy_uwh)


@given(st.sampled_from(THAI), st.lists(row_of_february, max_size=30), st.data())
def test_splitting_and_shuffling_the_rows_gives_the_same_bill(tariff_id, rows, data):
    split = []
    for row in rows:
        part = data.draw(st.integers(0, row.energy_uwh))
        split += [row._replace(energy_uwh=part), row._replace(energy_uwh=row.energy_uwh - part)]
    shuffled = data.draw(st.permutations(split))
    assert rated(tariff_id, shuffled) == rated(tariff_id, rows)
    rates, cycle = thai(tariff_id)
    ledger = Ledger.of_columns(cycle.start, cycle.end, *columns(shuffled))
    assert rate_ledger(rates, cycle, ledger) == rated(tariff_id, rows)


@given(st.sampled_from(THAI), st.lists(row_of_february, max_size=30))
def test_every_line_adds_up_to_the_total(tariff_id, rows):
    bill = rated(tariff_id, rows)
    assert sum(line.amount for line in bill.lines) == bill.total
    assert all(line.amount == line.amount.quantize(Decimal("0.01")) for line in bill.lines)
    energy = sum(line.quantity for line in bill.lines if line.kind is Kind.ENERGY)
    assert energy * KWH == sum(row.energy_uwh for row in rows)
