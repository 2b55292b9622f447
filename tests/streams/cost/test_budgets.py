"""Budgets: each alert once a period, taken back by late data, whatever the order of rounds."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest

from schemas.cost import BudgetPeriod, Level, Turn
from streams.cost.budgets import Budget, judge
from streams.cost.days import Span
from streams.cost.home import assess
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from tests.streams.cost.homes import book_of, home_of

KNOWN = known_tariffs()
AT = datetime(2026, 2, 10, tzinfo=UTC)
MONTH = Span(datetime(2026, 1, 31, 17, tzinfo=UTC), datetime(2026, 2, 28, 17, tzinfo=UTC))
BUDGET = Budget(3, "February", BudgetPeriod.MONTH, Decimal(1000), None, date(2026, 1, 1))
RAISED, CLEARED = Turn.RAISED, Turn.CLEARED


def told(*rounds: tuple[str, str | None]):
    """What each round of `(used, projected)` tells: number, level and turn."""
    standing, found = None, []
    for used, projected in rounds:
        standing, events = judge(
            BUDGET, standing, MONTH, Decimal(used), projected and Decimal(projected), AT
        )
        found.append([tuple(event) for event in events])
    return found


def test_eighty_and_a_hundred_percent_are_told_once_each():
    assert told(
        ("799.99", None), ("800", None), ("999.99", None), ("1000", None), ("5000", None)
    ) == [
        [],
        [(1, Level.WARNED, RAISED)],
        [],
        [(2, Level.EXCEEDED, RAISED)],
        [],
    ]


def test_both_at_once_after_an_outage():
    assert told(("1200", None)) == [[(1, Level.WARNED, RAISED), (2, Level.EXCEEDED, RAISED)]]


def test_late_data_takes_an_alert_back_and_more_use_raises_it_anew():
    assert told(("1000", None), ("810", None), ("700", None), ("801", None)) == [
        [(1, Level.WARNED, RAISED), (2, Level.EXCEEDED, RAISED)],
        [(3, Level.EXCEEDED, CLEARED)],
        [(4, Level.WARNED, CLEARED)],
        [(5, Level.WARNED, RAISED)],
    ]


def test_a_wavering_projection_is_told_once_a_period():
    assert told(
        ("10", "1000"),  # reaches it, and does not cross
        ("10", "1000.01"),
        ("10", "950"),
        ("10", "1001"),
        ("10", "899"),
        ("10", "1500"),
    ) == [
        [],
        [(1, Level.PROJECTED, RAISED)],
        [],
        [],
        [(2, Level.PROJECTED, CLEARED)],
        [],
    ]


def test_a_budget_that_is_used_up_is_not_projected_any_more():
    assert told(("1000", "2000"))[0] == [(1, Level.WARNED, RAISED), (2, Level.EXCEEDED, RAISED)]


# ---------------------------------------------------------------- over a ledger


def ledger_of(kwh_a_day: str, start: datetime, days: int) -> Ledger:
    quarter_uwh = int(Decimal(kwh_a_day) * 10**9) // 96
    energy = np.full(96 * days, quarter_uwh, np.int64)
    return Ledger(start, start + timedelta(days=days), energy, energy * 0)


CONTRACT = Contract("mea-1.2", date(2025, 1, 1), 1, Decimal(30))
JANUARY_3 = datetime(2026, 1, 2, 17, tzinfo=UTC)


def budget(period: str, amount=None, energy_kwh=None, **more) -> Budget:
    amount = amount and Decimal(amount)
    energy_kwh = energy_kwh and Decimal(energy_kwh)
    kept = Budget(7, "mine", BudgetPeriod(period), amount, energy_kwh, date(2026, 1, 1))
    return replace(kept, **more)


def status(one: Budget, ledger: Ledger, at: datetime, contract: Contract | None = CONTRACT):
    home = home_of(KNOWN, [contract] if contract else [], [one])
    found = assess(home, book_of(home, ledger, at))
    return found.cost.budgets[0], found


@pytest.mark.parametrize("cycle_day", [1, 15])
def test_a_month_of_money_is_that_of_the_cycles_within(cycle_day):
    """From 1 February to the 20th; the cycle before ended on the 15th, or with January."""
    contract = replace(CONTRACT, cycle_day=cycle_day)
    ledger = ledger_of("12", datetime(2025, 12, 31, 17, tzinfo=UTC), 90)
    at = datetime(2026, 2, 19, 17, tzinfo=UTC)
    shown, _ = status(budget("month", amount="5000"), ledger, at, contract)

    def bill(month: Month, until: datetime) -> Decimal:
        cycle = cycle_for(KNOWN, contract, month)
        quarters = (until - cycle.start) // timedelta(minutes=15)
        energy = np.zeros(cycle.quarters, np.int64)
        energy[:quarters] = ledger.energy_uwh[0]
        return rate_contract(
            KNOWN, contract, month, Ledger(cycle.start, cycle.end, energy, energy * 0)
        ).total

    if cycle_day == 1:
        expected = bill(Month(2026, 2), at)
    else:
        end = cycle_for(KNOWN, contract, Month(2026, 2)).end
        expected = bill(Month(2026, 2), end) - bill(Month(2026, 2), MONTH.start)
        expected += bill(Month(2026, 3), at)
    assert Decimal(shown.used) == expected
    assert (shown.start_at, shown.end_at, shown.unit) == (*MONTH, "THB")
    assert Decimal(shown.projected) > expected


def test_a_day_of_money_is_without_service():
    ledger = ledger_of("9.6", datetime(2026, 1, 31, 17, tzinfo=UTC), 1)
    at = datetime(2026, 2, 1, 5, tzinfo=UTC)  # noon
    shown, found = status(budget("day", amount="40"), ledger, at)
    assert Decimal(shown.used) == Decimal(found.cost.today.cost)
    assert Decimal(found.cost.today.with_service) > Decimal(shown.used) + 26
    #  noon: 4.8 × 3.2484 = 15.59, 4.8 × 0.0972 = 0.47; (16.06 + 24.62) × 1.07 - 26.34 = 17.19
    #  evening: 31.18 + 0.93; (32.11 + 24.62) × 1.07 - 26.34 = 34.36
    assert Decimal(shown.used) == Decimal("17.19")
    assert Decimal(shown.projected) == Decimal("34.36")


def test_a_budget_of_energy_needs_no_contract():
    ledger = ledger_of("9.6", JANUARY_3, 5)
    at = JANUARY_3 + timedelta(days=4, hours=6)
    shown, found = status(budget("month", energy_kwh="300"), ledger, at, None)
    assert (shown.used, shown.unit, shown.problem) == ("40.8", "kWh", None)
    assert (
        shown.projected == "278.4"
    )  # from the 3rd on 29 days; nothing is known of 1 and 2 January
    assert not found.alerts


@pytest.mark.parametrize("period", ["day", "month", "cycle"])
def test_a_budget_of_money_without_a_contract_says_what_is_missing(period):
    ledger = ledger_of("9.6", JANUARY_3, 5)
    shown, found = status(budget(period, amount="300"), ledger, JANUARY_3 + timedelta(days=1), None)
    assert "contract set" in shown.problem
    assert (shown.used, found.standings, found.alerts) == (None, {}, [])


def test_alerts_name_period_and_limit_and_have_an_identity():
    ledger = ledger_of("9.6", JANUARY_3, 3)
    at = JANUARY_3 + timedelta(days=1)
    _, found = status(budget("day", energy_kwh="9"), ledger, at)
    warned, exceeded = found.alerts
    assert warned.alert_id == "budget/7/day/2026-01-03/1"
    assert exceeded.alert_id == "budget/7/day/2026-01-03/2"
    assert (warned.level, exceeded.level) == (Level.WARNED, Level.EXCEEDED)
    assert (warned.used, warned.limit, warned.unit) == ("9.6", "9", "kWh")
    assert (warned.start_at, warned.end_at) == (JANUARY_3, at)


def test_a_late_day_judges_its_own_day_and_clears_what_was_wrong():
    """3 January was 9.6 kWh at first, and 4.8 when its rows were put right on the 5th."""

    def of_the_third(found):
        return [(one.level, one.turn) for one in found.alerts if one.start_at == JANUARY_3]

    ledger = ledger_of("9.6", JANUARY_3, 3)
    one = budget("day", energy_kwh="9")
    at = JANUARY_3 + timedelta(days=2, hours=1)
    home = home_of(KNOWN, [CONTRACT], [one])
    first = assess(home, book_of(home, ledger, at, [JANUARY_3]), [JANUARY_3])
    assert of_the_third(first) == [(Level.WARNED, RAISED), (Level.EXCEEDED, RAISED)]
    ledger.energy_uwh[:96] //= 2
    home = home_of(KNOWN, [CONTRACT], [one], first.standings)
    second = assess(home, book_of(home, ledger, at, [JANUARY_3]), [JANUARY_3])
    assert of_the_third(second) == [(Level.WARNED, CLEARED), (Level.EXCEEDED, CLEARED)]
    again = home_of(KNOWN, [CONTRACT], [one], second.standings)
    assert not assess(again, book_of(again, ledger, at, [JANUARY_3]), [JANUARY_3]).alerts


def test_a_late_day_judges_the_later_days_of_its_cycle_too():
    #  day 1 comes late with 300 kWh: days 2 to 5, of 50 kWh each, move into dearer blocks
    start, quarters = MONTH.start, 28 * 96
    money = budget("day", amount="150")
    energy = replace(budget("day", energy_kwh="10"), budget_id=9, name="kWh")
    kwh = np.zeros(quarters, np.int64)
    kwh[96 : 5 * 96] = 50 * 10**9 // 96

    def bill_until(day: int) -> Decimal:
        cut = np.where(np.arange(quarters) < day * 96, kwh, 0)
        ledger = Ledger(MONTH.start, MONTH.end, cut, cut * 0)
        return rate_contract(KNOWN, CONTRACT, Month(2026, 2), ledger).total

    def assessed(day: int, standings, changed=()):
        ledger = Ledger(MONTH.start, MONTH.end, kwh, kwh * 0)
        home = home_of(KNOWN, [CONTRACT], [money, energy], standings)
        at = start + timedelta(days=day)
        return assess(home, book_of(home, ledger, at, changed), changed).standings

    standings = {}
    for day in range(1, 6):
        standings |= assessed(day, standings)
    before = {key[1]: one.used for key, one in standings.items() if key[0] == money.budget_id}
    assert len(before) == 5

    kwh[:96] = 300 * 10**9 // 96
    late = [start + number * timedelta(minutes=15) for number in range(96)]
    after = assessed(5, standings, late)
    judged = {key[1]: one.used for key, one in after.items() if key[0] == money.budget_id}
    for day in range(1, 5):
        used = judged[start + timedelta(days=day)]
        assert used == bill_until(day + 1) - bill_until(day) > before[start + timedelta(days=day)]
    assert start in judged
    of_energy = {key[1] for key in after if key[0] == energy.budget_id}
    assert of_energy == {start, start + timedelta(days=4)}, "energy of a day is of that day alone"


def test_a_budget_holds_for_the_periods_that_touch_its_days():
    ledger = ledger_of("9.6", JANUARY_3, 5)
    at = JANUARY_3 + timedelta(days=1)  # the newest quarter hour is of 3 January
    for start, end, holds in (
        (date(2026, 1, 3), None, True),
        (date(2026, 1, 4), None, False),
        (date(2026, 1, 1), date(2026, 1, 3), False),
        (date(2026, 1, 1), date(2026, 1, 4), True),
    ):
        one = budget("day", energy_kwh="9", valid_from=start, valid_to=end)
        shown, found = status(one, ledger, at)
        assert (shown.used is not None, bool(found.alerts)) == (holds, holds), (start, end)
