"""The integral of power beside the register's difference; the figures are worked out by hand."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from schemas.units import HOUR_US, MINUTE_US, SECOND_US
from streams.energy import Point
from streams.reconcile import Day, Outcome, Reconciled, days_of, reconciled, told
from streams.registers import Limits

WH = 10**6
LIMITS = Limits(300 * SECOND_US, 100_000_000, 10_000_000 * WH)
BANGKOK = ZoneInfo("Asia/Bangkok")
(DAY,) = days_of(date(2026, 3, 1), date(2026, 3, 2), BANGKOK)
(NEXT,) = days_of(date(2026, 3, 2), date(2026, 3, 3), BANGKOK)


def at(minute: float, day: Day = DAY) -> int:
    return day.start_us + round(minute * MINUTE_US)


def point(minute: float, power_w: float | None, wh: float | None, out: float | None = None):
    whole = (None if one is None else round(one * WH) for one in (wh, out))
    return Point(at(minute), None if power_w is None else round(power_w * 1000), *whole)


def imported(points: list[Point], day: Day = DAY) -> Reconciled:
    return reconciled(points, day, LIMITS)[0]


def test_a_register_that_counts_one_per_cent_more_than_power_says():
    #  600 W: 10 Wh a minute, the register 10.1
    done = imported([point(k, 600, 10.1 * k) for k in range(61)])
    assert done.outcome is Outcome.COMPARED
    assert (done.register_uwh, done.power_uwh) == (606 * WH, 600 * WH)
    assert done.compared_us == HOUR_US
    assert done.drift_uwh == -6 * WH
    assert done.drift_percent == -0.99
    assert (
        told(done) == "power says 6 Wh less than the import register's 606 Wh (-0.990 %) in 1.0 h"
    )
    assert (done.left_out_uwh, done.repaired) == (0, 0)


def test_power_and_register_may_be_told_at_different_instants():
    #  power rises from 0 W to 600 W in 10 min; the register was read at minutes 2 and 8
    #  integral of 60 W/min · t from 2 to 8 min: 30 · (64 - 4) W·min = 30 Wh
    points = [point(0, 0, None), point(2, None, 5), point(5, 300, None), point(8, None, 35)]
    done = imported([*points, point(10, 600, None)])
    assert (done.register_uwh, done.power_uwh, done.compared_us) == (
        30 * WH,
        30 * WH,
        6 * MINUTE_US,
    )


def test_a_segment_over_midnight_belongs_to_the_day_of_its_last_instant():
    points = [point(24 * 60 - 1, 600, 0), point(24 * 60, 600, 10), point(24 * 60 + 1, 600, 20)]
    points.append(point(24 * 60 + 1.5, 600, 25))
    assert imported(points).register_uwh == 10 * WH, "the one that ends at midnight"
    assert imported(points, NEXT).register_uwh == 15 * WH
    over = [point(24 * 60 - 1, 600, 0), point(24 * 60 + 1, 600, 20)]
    assert imported(over).register_uwh == 0
    assert imported(over, NEXT).register_uwh == imported(over, NEXT).power_uwh == 20 * WH


def test_where_power_was_silent_nothing_is_compared():
    points = [point(0, 600, 0), point(1, 600, 10), point(7, 600, 70), point(8, 600, 80)]
    done = imported(points)
    assert (done.register_uwh, done.power_uwh, done.left_out_uwh) == (20 * WH, 20 * WH, 60 * WH)
    before_power = imported([point(0, None, 0), point(1, 600, 10), point(2, 600, 20)])
    assert (before_power.register_uwh, before_power.left_out_uwh) == (10 * WH, 10 * WH)


def test_a_rollover_is_compared_and_a_reset_is_left_out():
    rolled = imported([point(k, 600, wh) for k, wh in enumerate([9_999_985, 9_999_995, 5, 15])])
    assert (rolled.register_uwh, rolled.drift_uwh, rolled.repaired) == (30 * WH, 0, 0)
    reset = imported([point(k, 600, wh) for k, wh in enumerate([1000, 1010, 4, 14])])
    assert (reset.register_uwh, reset.power_uwh) == (20 * WH, 20 * WH)
    assert (reset.left_out_uwh, reset.repaired) == (4 * WH, 1)
    spike = imported([point(k, 600, wh) for k, wh in enumerate([10, 20, 9e6, 40, 50])])
    assert (spike.register_uwh, spike.drift_uwh, spike.repaired) == (40 * WH, 0, 1)


def test_import_and_export_are_reconciled_apart_where_power_changes_its_sign():
    #  +600 W to -600 W in 2 min: a triangle of 5 Wh each way
    points = [point(0, 600, 100, 50), point(2, -600, 105, 55)]
    done, exported = reconciled(points, DAY, LIMITS)
    assert (done.is_export, done.power_uwh, done.register_uwh) == (False, 5 * WH, 5 * WH)
    assert (exported.is_export, exported.power_uwh, exported.drift_uwh) == (True, 5 * WH, 0)


@pytest.mark.parametrize(
    ("points", "outcome"),
    [
        ([], Outcome.NO_READINGS),
        ([point(0, 600, None), point(1, 600, None)], Outcome.NO_REGISTER),
        ([point(0, None, 1), point(1, None, 2)], Outcome.NO_POWER),
        ([point(0, None, 1), point(1, None, 2), point(2, 600, None)], Outcome.NEVER_TOGETHER),
    ],
)
def test_a_day_without_register_or_power_says_so(points: list[Point], outcome: Outcome):
    done = imported(points)
    assert done.outcome is outcome
    assert (done.register_uwh, done.power_uwh, done.drift_percent) == (0, 0, None)


def test_export_that_no_register_counts_is_named():
    _, exported = reconciled([point(0, -600, 1), point(1, -600, 1)], DAY, LIMITS)
    assert exported.outcome is Outcome.NO_REGISTER
    assert told(exported) == ("no export register on this day: its energy is known by power alone")


def test_days_follow_the_zone_also_where_its_clock_changes():
    berlin = ZoneInfo("Europe/Berlin")
    days = list(days_of(date(2026, 3, 28), date(2026, 3, 31), berlin))
    assert [(day.end_us - day.start_us) // HOUR_US for day in days] == [24, 23, 24]
    assert days[0].end_us == days[1].start_us
    assert days[-1].day == date(2026, 3, 30)
    assert timedelta(microseconds=DAY.start_us) == timedelta(seconds=1_772_298_000)  # 17:00 UTC
