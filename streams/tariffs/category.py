"""Which of two tariffs a home is billed by, when its use decides."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from streams.tariffs.catalogue import Catalogue
from streams.tariffs.errors import BadUsage
from streams.tariffs.month import Month


class MonthUse(NamedTuple):
    """What a home used in a billing month that is over."""

    month: Month
    energy_kwh: Decimal


def billed_tariff(
    catalogue: Catalogue,
    tariff_id: str,
    month: Month,
    ampere_a: Decimal | None,
    history: Sequence[MonthUse],
) -> str:
    """The id of the tariff for the bill of `month`.

    `tariff_id` is what the contract began with, before `history` (in order of time, months before
    `month`; a month that is left out breaks a run). A meter above the category's limit is always
    large; another moves when it was above, or not above, the limit for as many months running as
    the category says, and the bill after those is the first of the new kind.
    Raises BadUsage if the category needs the meter's ampere and it is not known.
    """
    category = catalogue.category(tariff_id)
    if category is None:
        return tariff_id
    if ampere_a is None:
        raise BadUsage(f'tariff "{tariff_id}" depends on the size of the meter; give its ampere')
    if ampere_a > category.ampere_a:
        return category.large
    current, run, last = tariff_id, 0, None
    for use in history:
        if use.month >= month:
            break
        other = category.small if current == category.large else category.large
        above = use.energy_kwh > category.limit_kwh
        away = above == (other == category.large)
        follows = last is not None and use.month == last.plus(1)
        run = (run if follows else 0) + 1 if away else 0
        last = use.month
        if run == category.months:
            current, run = other, 0
    return current
