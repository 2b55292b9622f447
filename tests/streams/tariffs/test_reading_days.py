"""A meter-reading day that changes: one cycle a billing month, none twice, none never."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.tariffs.contract import Contract, agreed_for, agreed_within, eras
from streams.tariffs.errors import BadUsage
from streams.tariffs.month import Month, cycle_of

BANGKOK = ZoneInfo("Asia/Bangkok")


def days_of(contracts: list[Contract], month: Month) -> tuple[str, str, int, str]:
    """First day, the day after, days and tariff of a billing month."""
    contract, cycle = agreed_for(contracts, month, BANGKOK)
    first, after = (at.astimezone(BANGKOK).date() for at in (cycle.start, cycle.end))
    return str(first), str(after), cycle.days, contract.tariff_id


def test_an_earlier_day_makes_one_short_cycle():
    #  March  [1 March ----------- 1 April)
    #  April                       [1 April -- 20 April)
    #  May                                     [20 April -- 20 May)
    held = [Contract("old", date(2026, 1, 1), 1), Contract("new", date(2026, 4, 1), 20)]
    assert days_of(held, Month(2026, 3)) == ("2026-03-01", "2026-04-01", 31, "old")
    assert days_of(held, Month(2026, 4)) == ("2026-04-01", "2026-04-20", 19, "new")
    assert days_of(held, Month(2026, 5)) == ("2026-04-20", "2026-05-20", 30, "new")


def test_a_later_day_makes_one_long_cycle():
    #  April  [20 March -- 20 April)
    #  May                 [20 April ------------- 1 June)
    held = [Contract("old", date(2026, 1, 1), 20), Contract("new", date(2026, 4, 5), 1)]
    assert days_of(held, Month(2026, 4)) == ("2026-03-20", "2026-04-20", 31, "old")
    assert days_of(held, Month(2026, 5)) == ("2026-04-20", "2026-06-01", 42, "new")
    assert days_of(held, Month(2026, 6)) == ("2026-06-01", "2026-07-01", 30, "new")


def test_a_contract_waits_for_the_cycle_that_begins_on_its_day_or_later():
    held = [Contract("old", date(2026, 1, 1), 20), Contract("new", date(2026, 4, 21), 1)]
    assert days_of(held, Month(2026, 5)) == ("2026-04-20", "2026-05-20", 30, "old")
    assert days_of(held, Month(2026, 6)) == ("2026-05-20", "2026-07-01", 42, "new")


def test_a_contract_that_another_has_taken_over_never_holds():
    held = [
        Contract("old", date(2026, 1, 1), 20),
        Contract("never", date(2026, 4, 5), 1),
        Contract("new", date(2026, 4, 20), 10),
    ]
    assert [era.contract.tariff_id for era in eras(tuple(held))] == ["old", "new"]
    assert days_of(held, Month(2026, 5)) == ("2026-04-20", "2026-05-10", 20, "new")


def test_there_is_no_cycle_before_the_first_contract():
    held = [Contract("first", date(2026, 1, 21), 20)]
    with pytest.raises(BadUsage, match="no tariff for 2026-02"):
        agreed_for(held, Month(2026, 2), BANGKOK)
    assert days_of(held, Month(2026, 3))[0] == "2026-02-20"


CONTRACTS = st.lists(
    st.builds(
        Contract,
        st.just("t"),
        st.dates(date(2025, 1, 1), date(2026, 12, 31)),
        st.integers(1, 31),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.valid_from,
)
START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)


@given(CONTRACTS)
def test_cycles_follow_each_other_and_no_month_has_two(held: list[Contract]):
    cycles = [cycle for _, cycle in agreed_within(held, START, END, BANGKOK)]
    assert all(before.end == after.start for before, after in pairwise(cycles))
    assert all(after.month == before.month.plus(1) for before, after in pairwise(cycles))
    assert all(1 <= cycle.days <= 62 for cycle in cycles)
    assert all((cycle.end - cycle.start) == timedelta(days=cycle.days) for cycle in cycles)
    assert cycles[-1].end >= END


@given(CONTRACTS)
def test_a_contract_holds_for_no_cycle_that_begins_before_its_day(held: list[Contract]):
    for contract, cycle in agreed_within(held, START, END, BANGKOK):
        begins = cycle.start.astimezone(BANGKOK).date()
        assert contract.valid_from <= begins
        newer = [one for one in held if contract.valid_from < one.valid_from <= begins]
        assert not newer


@given(CONTRACTS, st.integers(1, 31))
def test_with_one_reading_day_all_cycles_are_those_of_the_day(held: list[Contract], day: int):
    same = [Contract(one.tariff_id, one.valid_from, day) for one in held]
    for _, cycle in agreed_within(same, START, END, BANGKOK):
        assert cycle == cycle_of(cycle.month, BANGKOK, day)
