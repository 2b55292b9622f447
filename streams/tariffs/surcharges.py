"""Prices per kWh that are set for a few months at a time, like Ft. They may be negative."""

from decimal import Decimal

from streams.tariffs.errors import NotKnown
from streams.tariffs.model import Surcharge, SurchargeUse, SurchargeValue
from streams.tariffs.month import Month


def surcharge_price(
    surcharge: Surcharge, use: SurchargeUse, month: Month, revision: int | None = None
) -> Decimal:
    """The price in `month`; see `surcharge_value`."""
    return surcharge_value(surcharge, use, month, revision).price


def surcharge_value(
    surcharge: Surcharge, use: SurchargeUse, month: Month, revision: int | None = None
) -> SurchargeValue:
    """What holds in `month`: the last value set, or the last up to `revision`.

    Raises NotKnown where none was set: a missing surcharge is not zero.
    """
    values = [
        value
        for value in surcharge.customers[use.customer]
        if value.from_ <= month < value.until and (revision is None or value.revision <= revision)
    ]
    if not values:
        raise NotKnown(
            f"{use.name} of {use.customer} customers is not known for {month}; "
            f"add it to surcharges.{use.name}.customers.{use.customer}"
        )
    return max(values, key=lambda value: value.revision)
