"""The move between 1.1 and 1.2: three months running, and never by one month alone."""

from decimal import Decimal

import pytest

from streams.tariffs.category import MonthUse, billed_tariff
from streams.tariffs.errors import BadUsage
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month

SMALL, LARGE = "mea-1.1", "mea-1.2"


def billed(tariff_id, used_kwh, ampere_a=Decimal(5), skip=()):
    """The tariff of the month after months of `used_kwh` from January 2025."""
    start = Month(2025, 1)
    history = [
        MonthUse(start.plus(index), Decimal(kwh))
        for index, kwh in enumerate(used_kwh)
        if index not in skip
    ]
    month = start.plus(len(used_kwh))
    return billed_tariff(known_tariffs(), tariff_id, month, ampere_a, history)


@pytest.mark.parametrize(
    ("begun", "used_kwh", "expected"),
    [
        (SMALL, [], SMALL),
        (SMALL, [900], SMALL),
        (SMALL, [151, 151], SMALL),
        (SMALL, [151, 151, 151], LARGE),
        (SMALL, [151, 151, 150, 151, 151], SMALL),
        (SMALL, [151, 151, 150, 151, 151, 151], LARGE),
        (SMALL, [151, 151, 151, 150, 150], LARGE),
        (SMALL, [151, 151, 151, 150, 150, 150], SMALL),
        (SMALL, ["150.000000001"] * 3, LARGE),
        (LARGE, [150, 150], LARGE),
        (LARGE, [150, 150, 150], SMALL),
    ],
)
def test_three_months_running_move_a_small_meter(begun, used_kwh, expected):
    assert billed(begun, used_kwh) == expected


def test_a_meter_above_five_ampere_is_large_at_once():
    assert billed(SMALL, [], ampere_a=Decimal(15)) == LARGE
    assert billed(SMALL, [1, 1, 1], ampere_a=Decimal(15)) == LARGE


def test_a_month_that_is_not_known_breaks_the_run():
    assert billed(SMALL, [151, 151, 151, 151], skip=[1]) == SMALL


def test_months_from_the_billed_one_on_do_not_count():
    history = [MonthUse(Month(2025, month), Decimal(200)) for month in (1, 2, 3)]
    args = (known_tariffs(), SMALL, Month(2025, 3), Decimal(5), history)
    assert billed_tariff(*args) == SMALL


def test_a_tariff_without_a_category_stays():
    assert billed("mea-1.3.2", [900, 900, 900], ampere_a=None) == "mea-1.3.2"


def test_a_meter_of_unknown_size_is_an_error():
    with pytest.raises(BadUsage, match=r'tariff "mea-1\.1" depends on the size of the meter; give'):
        billed(SMALL, [], ampere_a=None)
