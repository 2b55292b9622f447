"""Time of use in Thailand: the clock, the week and the holidays with their exceptions."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from streams.tariffs.errors import NotKnown
from streams.tariffs.loading import known_tariffs
from streams.tariffs.model import Schedule
from streams.tariffs.month import QUARTER, Month, cycle_of
from streams.tariffs.tou import Clock

BANGKOK = ZoneInfo("Asia/Bangkok")
CLOCK = known_tariffs().rates("mea-1.3.2", Month(2026, 2)).clock


def period(text: str) -> str:
    return CLOCK.period(datetime.fromisoformat(text).replace(tzinfo=BANGKOK))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-02-06T08:59:59", "off_peak"),
        ("2026-02-06T09:00:00", "on_peak"),
        ("2026-02-06T21:59:59", "on_peak"),
        ("2026-02-06T22:00:00", "off_peak"),
        ("2026-02-06T00:00:00", "off_peak"),
        ("2026-02-06T23:59:59", "off_peak"),
        ("2026-02-07T12:00:00", "off_peak"),  # Saturday
        ("2026-02-08T12:00:00", "off_peak"),  # Sunday
    ],
)
def test_the_peak_is_nine_to_ten_on_weekdays(at, expected):
    assert period(at) == expected


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        ("2026-05-01", "off_peak"),  # National Labour Day, Friday
        ("2025-12-10", "off_peak"),  # Constitution Day, Wednesday
        ("2026-04-14", "off_peak"),  # Songkran, Tuesday
        ("2025-07-11", "off_peak"),  # Buddhist Lent, Friday
        ("2025-05-09", "on_peak"),  # Royal Ploughing Day, Friday
        ("2026-05-13", "on_peak"),  # Royal Ploughing Day, Wednesday
        ("2025-05-12", "on_peak"),  # substitution for Visakha Bucha on Sunday
        ("2026-12-07", "on_peak"),  # substitution for 5 December, a Saturday
        ("2023-07-31", "on_peak"),  # extra day of the cabinet; billed on-peak by notice of MEA
        ("2025-06-02", "on_peak"),  # extra day of the cabinet
        ("2026-12-05", "off_peak"),  # a holiday on a Saturday
    ],
)
def test_each_kind_of_holiday(day, expected):
    assert period(f"{day}T09:00:00") == expected
    assert period(f"{day}T21:45:00") == expected
    assert period(f"{day}T08:45:00") == "off_peak"
    assert period(f"{day}T22:00:00") == "off_peak"


def test_the_first_quarter_hour_of_the_peak_is_two_o_clock_utc():
    masks = CLOCK.masks(datetime(2026, 2, 5, 17, tzinfo=UTC), datetime(2026, 2, 6, 17, tzinfo=UTC))
    on_peak = [index for index, held in enumerate(masks["on_peak"]) if held]
    #  17:00Z is midnight; 02:00Z is quarter hour 36, 15:00Z is 88
    assert on_peak == list(range(36, 88))


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25), date(2026, 7, 1)])
def test_quarter_hours_of_a_clock_change_are_as_their_instants(day):
    schedule = Schedule.model_validate(
        {
            "windows": [
                {"period": "night", "to": "02:30"},
                {"period": "early", "from": "02:30", "to": "03:30"},
                {"period": "day", "from": "03:30"},
            ]
        }
    )
    clock = Clock(schedule, None, ZoneInfo("Europe/Berlin"))
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    start, end = noon - timedelta(hours=20), noon + timedelta(hours=20)  # parts of days, too
    masks = clock.masks(start, end)
    for index in range((end - start) // QUARTER):
        held = [name for name, mask in masks.items() if mask[index]]
        assert held == [clock.period(start + index * QUARTER)]


def test_quarter_hours_of_a_cycle_are_each_in_one_period_and_as_their_instants():
    cycle = cycle_of(Month(2025, 5), BANGKOK, cycle_day=15)
    masks = CLOCK.masks(cycle.start, cycle.end)
    for index in range(cycle.quarters):
        held = [name for name, mask in masks.items() if mask[index]]
        assert held == [CLOCK.period(cycle.start + index * QUARTER + timedelta(minutes=14))]


def test_a_year_without_holidays_is_an_error():
    with pytest.raises(NotKnown, match='calendar "thai": the holidays of 2027 are not known'):
        period("2027-01-01T12:00:00")


def test_a_cycle_ends_in_its_month():
    assert cycle_of(Month(2026, 2), BANGKOK).start == datetime(2026, 1, 31, 17, tzinfo=UTC)
    fifteenth = cycle_of(Month(2026, 2), BANGKOK, cycle_day=15)
    assert (fifteenth.start, fifteenth.end, fifteenth.days) == (
        datetime(2026, 1, 14, 17, tzinfo=UTC),
        datetime(2026, 2, 14, 17, tzinfo=UTC),
        31,
    )
    last = cycle_of(Month(2026, 3), BANGKOK, cycle_day=31)
    assert last.start.astimezone(BANGKOK).date() == date(2026, 2, 28)
    assert last.end.astimezone(BANGKOK).date() == date(2026, 3, 31)


@pytest.mark.parametrize(
    ("month", "quarters"), [((2026, 3), 31 * 96 - 4), ((2026, 10), 31 * 96 + 4)]
)
def test_a_clock_change_makes_a_cycle_an_hour_shorter_or_longer(month, quarters):
    assert cycle_of(Month(*month), ZoneInfo("Europe/Berlin")).quarters == quarters


@pytest.mark.parametrize("day", range(1, 32))
def test_cycles_follow_each_other_without_a_hole(day):
    month = Month(2024, 1)
    for _ in range(24):
        assert cycle_of(month, BANGKOK, day).end == cycle_of(month.plus(1), BANGKOK, day).start, (
            month
        )
        month = month.plus(1)
