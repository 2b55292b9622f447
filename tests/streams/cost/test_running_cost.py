"""The running cost: the same as the bill of the same ledger, at any instant, under any tariff."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.cost import CostState, Method
from streams.cost.book import cut
from streams.cost.days import Span, midnight
from streams.cost.home import assess, without_energy
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import catalogue_of, known_tariffs
from streams.tariffs.month import QUARTER, Month, cycle_of
from tests.streams.cost.homes import BANGKOK, book_of, home_of, ledger_from, write_day

KNOWN = known_tariffs()
LONDON = ZoneInfo("Europe/London")
FEBRUARY = Month(2026, 2)


def contract_of(tariff_id: str, cycle_day: int = 1, valid_from: date = date(2025, 1, 1)):
    ampere_a = Decimal(15) if KNOWN.category(tariff_id) else None
    return Contract(tariff_id, valid_from, cycle_day, ampere_a)


def amounts(cost):
    return {name: getattr(cost, name) for name in ("quarter", "today", "cycle")}


@pytest.mark.parametrize("tariff_id", KNOWN.ids)
@settings(deadline=None, max_examples=20)  # of each tariff; the first makes its masks
@given(seed=st.integers(0, 10**6), cycle_day=st.integers(1, 31), share=st.floats(0, 1))
def test_the_cycle_so_far_is_the_bill_of_the_same_ledger(tariff_id, seed, cycle_day, share):
    contract = contract_of(tariff_id, cycle_day)
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    before = Span(cycle.start - timedelta(days=40), cycle.end + timedelta(days=1))
    ledger = ledger_from(before, seed)
    at = cycle.start + (1 + int(share * (cycle.quarters - 1))) * QUARTER
    cost = assess(home, book_of(home, ledger, at)).cost
    first = (cycle.start - ledger.start) // QUARTER
    whole = Ledger(
        cycle.start,
        cycle.end,
        ledger.energy_uwh[first : first + cycle.quarters],
        ledger.export_uwh[first : first + cycle.quarters],
    )

    def bill(until: datetime) -> Decimal:
        return rate_contract(KNOWN, contract, FEBRUARY, cut(whole, until)).total

    nothing = bill(cycle.start)
    today = max(midnight((at - QUARTER).astimezone(BANGKOK).date(), BANGKOK), cycle.start)
    assert cost.state is CostState.RUNNING
    assert (cost.month, cost.at) == ("2026-02", at)
    for part, start in (
        (cost.quarter, at - QUARTER),
        (cost.today, today),
        (cost.cycle, cycle.start),
    ):
        assert Decimal(part.cost) == bill(at) - bill(start), (part, start)
        due = nothing if start == cycle.start else 0
        assert Decimal(part.with_service) == bill(at) - bill(start) + due
        assert (part.start_at, part.end_at) == (start, at)
    assert Decimal(cost.cycle.with_service) == bill(at)


def test_the_days_of_a_cycle_add_up_to_its_bill():
    contract = contract_of("mea-1.3.2", 15)
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    ledger = ledger_from(Span(cycle.start, cycle.end), 3)
    days = []
    for number in range(1, cycle.days + 1):
        at = cycle.start + timedelta(days=number)
        days.append(assess(home, book_of(home, ledger, at)).cost.today)
    bill = rate_contract(KNOWN, contract, FEBRUARY, ledger)
    assert sum(Decimal(day.with_service) for day in days) == bill.total
    #  service 24.62, VAT 7 %: due on the first day, and on no other
    due = [Decimal(day.with_service) - Decimal(day.cost) for day in days]
    assert due == [Decimal("26.34"), *[0] * (cycle.days - 1)]


FLAT = {
    "tariffs": {
        "flat": {
            "title": "10 p",
            "currency": "GBP",
            "zone": "Europe/London",
            "rates": [
                {"from": "2020-01", "energy": {"periods": {"all": [{"price": Decimal("0.1")}]}}}
            ],
        }
    }
}


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_a_day_of_a_clock_change_has_its_own_hours(day, hours):
    home = home_of(catalogue_of([FLAT]), [Contract("flat", date(2025, 1, 1))], zone=LONDON)
    cycle = cycle_of(Month(day.year, day.month), LONDON)
    quarters = np.full(cycle.quarters, 10**9, np.int64)  # a kWh each
    ledger = Ledger(cycle.start, cycle.end, quarters, quarters * 0)
    at = midnight(day + timedelta(days=1), LONDON)
    cost = assess(home, book_of(home, ledger, at)).cost
    assert cost.today.energy_kwh == str(4 * hours)
    assert Decimal(cost.today.cost) == Decimal("0.4") * hours
    assert cost.today.start_at == midnight(day, LONDON)
    assert Decimal(cost.projected.cost) == Decimal("0.1") * cycle.quarters


def test_a_late_day_changes_its_page_and_nothing_else_is_read():
    contract = contract_of("mea-1.2")
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    ledger = ledger_from(Span(cycle.start - timedelta(days=30), cycle.end), 5)
    at = cycle.start + timedelta(days=20)
    late = date(2026, 2, 4)
    hole = Ledger(ledger.start, ledger.end, ledger.energy_uwh.copy(), ledger.export_uwh)
    first = (midnight(late, BANGKOK) - ledger.start) // QUARTER
    hole.energy_uwh[first : first + 96] = 0
    book = book_of(home, hole, at)
    before = assess(home, book).cost
    book.forget([late])
    write_day(book, late, ledger)
    assert assess(home, book).cost == assess(home, book_of(home, ledger, at)).cost
    assert assess(home, book).cost.cycle != before.cycle


# ---------------------------------------------------------------- the cycle to come


def steady(span: Span, wh: int) -> Ledger:
    energy = np.full(span.quarters, wh * 10**6, np.int64)
    return Ledger(span.start, span.end, energy, energy * 0)


def test_weeks_of_one_pattern_go_on():
    """250 Wh a quarter hour on Sundays and 100 on other days, in February 2026 (4 Sundays)."""
    contract = contract_of("mea-1.2")
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    ledger = steady(Span(cycle.start - timedelta(days=30), cycle.end), 100)
    for index in range(len(ledger.energy_uwh)):
        if (ledger.start + index * QUARTER).astimezone(BANGKOK).weekday() == 6:
            ledger.energy_uwh[index] = 250 * 10**6
    cost = assess(home, book_of(home, ledger, cycle.start + timedelta(days=3, hours=5))).cost
    assert cost.projected.method is Method.WEEKDAY_HOUR
    #  96 × (24 × 0.1 + 4 × 0.25)
    assert cost.projected.energy_kwh == "326.4"
    whole = Ledger(
        cycle.start, cycle.end, ledger.energy_uwh[30 * 96 :], ledger.export_uwh[30 * 96 :]
    )
    bill = rate_contract(KNOWN, contract, FEBRUARY, whole)
    assert Decimal(cost.projected.with_service) == bill.total
    assert (cost.projected.start_at, cost.projected.end_at) == (cycle.start, cycle.end)


def test_little_data_is_projected_by_what_there_is():
    contract = contract_of("mea-1.2")
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    ledger = steady(Span(cycle.start, cycle.end), 100)
    methods = {}
    for hours in (1, 30, 7 * 24):
        cost = assess(home, book_of(home, ledger, cycle.start + timedelta(hours=hours))).cost
        methods[hours] = cost.projected.method
        assert cost.projected.energy_kwh == "268.8"  # 28 × 96 × 0.1
    assert methods == {1: Method.MEAN, 30: Method.HOUR, 168: Method.WEEKDAY_HOUR}


def test_time_without_a_meter_does_not_count_as_no_use():
    contract = contract_of("mea-1.2")
    home = home_of(KNOWN, [contract])
    cycle = cycle_for(KNOWN, contract, FEBRUARY)
    ledger = steady(Span(cycle.start + timedelta(days=2), cycle.end), 100)
    cost = assess(home, book_of(home, ledger, cycle.start + timedelta(days=4))).cost
    assert cost.missing_quarters == 2 * 96
    assert cost.projected.energy_kwh == "249.6"  # 26 days


# ---------------------------------------------------------------- no cost, and why


def test_a_home_without_a_contract_says_so():
    at = datetime(2026, 2, 6, tzinfo=UTC)
    home = home_of(KNOWN, [])
    ledger = ledger_from(Span(at - timedelta(days=3), at), 1)
    cost = assess(home, book_of(home, ledger, at)).cost
    assert (cost.state, cost.cycle, cost.at) == (CostState.NO_CONTRACT, None, at)
    assert "contract set" in cost.problem
    assert without_energy(home).state is CostState.NO_CONTRACT


def test_a_contract_holds_from_its_first_whole_cycle_on():
    home = home_of(KNOWN, [contract_of("mea-1.2", valid_from=date(2026, 2, 2))])
    at = datetime(2026, 2, 20, tzinfo=UTC)
    cost = assess(home, book_of(home, ledger_from(Span(at, at + QUARTER), 1), at)).cost
    assert cost.state is CostState.NO_CONTRACT
    assert "2026-02" in cost.problem
    at = datetime(2026, 3, 1, tzinfo=UTC)
    assert (
        assess(home, book_of(home, ledger_from(Span(at, at + QUARTER), 1), at)).cost.month
        == "2026-03"
    )


def test_rates_that_are_not_known_are_not_guessed():
    home = home_of(KNOWN, [contract_of("mea-1.3.2")])
    at = datetime(2026, 10, 20, tzinfo=UTC)
    cost = assess(home, book_of(home, ledger_from(Span(at - QUARTER, at), 1), at)).cost
    assert (cost.state, cost.cycle) == (CostState.NOT_RATED, None)
    assert "mea-1.3.2" in cost.problem


def test_meters_that_make_no_ledger_make_no_cost():
    home = home_of(KNOWN, [contract_of("mea-1.2")], problem="home 'h1' has no grid meter")
    at = datetime(2026, 2, 20, tzinfo=UTC)
    cost = assess(home, book_of(home, ledger_from(Span(at - QUARTER, at), 1), at)).cost
    assert (cost.state, cost.problem) == (CostState.NO_METER, "home 'h1' has no grid meter")
