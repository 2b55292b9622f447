"""The month that is replayed: what it measures, and in which order it arrives."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from infra.trials.month import AROUND, MeteredMonth, metered_month
from infra.trials.street import TERMS, Street, street
from schemas.units import DAY_US, HOUR_US, SECOND_US

HOMES = len(TERMS)


@pytest.fixture(scope="module")
def month() -> MeteredMonth:
    return street("h", 20_000, HOMES, seed=3).month


def test_the_ledger_is_the_difference_of_the_register(month: MeteredMonth):
    for home in range(HOMES):
        register = month.registers_uwh[home]
        energy = month.ledger(home).energy_uwh
        assert len(energy) == 30 * 96
        assert energy.sum() == register[-1 - AROUND] - register[AROUND]
        assert (energy > 0).all()


def test_no_two_readings_in_a_row_and_none_of_a_quarter_hour_are_lost(month: MeteredMonth):
    lost = ~month.kept
    assert 0.01 < lost.mean() < 0.05
    assert not (lost[:, 1:] & lost[:, :-1]).any()
    assert not lost[:, AROUND :: 900 // month.step_s].any()
    assert 2 * month.step_s <= 300


def test_each_run_has_an_order_of_its_own_and_the_same_readings(month: MeteredMonth):
    first, again, other = (list(month.arrivals(3, run)) for run in (1, 1, 2))
    assert first == again
    whole = {(home, int(n)) for home in range(HOMES) for n in np.flatnonzero(month.kept[home])}
    for run in (first, other):
        counted = Counter((one.home, one.number) for one in run)
        assert counted.keys() == whole
        assert 0 < sum(counted.values()) - len(counted) < 0.02 * len(counted), "some come twice"
        assert all(a.received_us < b.received_us for a, b in pairwise(run))
    assert [one[:2] for one in first] != [one[:2] for one in other]


def test_readings_come_out_of_order_an_hour_late_and_days_late(month: MeteredMonth):
    late_us = [one.received_us - month.at_s(one.number) * SECOND_US for one in month.arrivals(3, 1)]
    assert min(late_us) >= 0
    assert sum(late > 10 * SECOND_US for late in late_us) > 100
    assert sum(late > 2 * DAY_US for late in late_us) > 500
    assert max(late_us) < 2.5 * DAY_US + HOUR_US + SECOND_US


def test_a_bill_is_of_its_home_and_of_what_each_day_used(month: MeteredMonth):
    bills = Street("h", month).bills()
    assert len({bill.sha256 for bill in bills.values()}) == HOMES
    changed = month.registers_uwh.copy()
    changed[0, AROUND + 86_400 // month.step_s] += 1  # µWh, at the second day's midnight
    other = Street("h", replace(month, registers_uwh=changed)).bills()
    assert [home_id for home_id in bills if other[home_id] != bills[home_id]] == ["h000"]


def test_more_readings_than_seconds_are_refused(month: MeteredMonth):
    with pytest.raises(ValueError, match="less than a second"):
        metered_month(month.cycle, 10**9, 2, seed=1)
