"""What a tariff says, for people and programs that want to look at it."""

from collections.abc import Iterator
from typing import Any

from streams.tariffs.catalogue import Catalogue, MonthRates
from streams.tariffs.model import Rates, Schedule
from streams.tariffs.month import Month
from streams.tariffs.rating import plain
from streams.tariffs.surcharges import surcharge_value
from streams.tariffs.week import WEEK, Window, time_of_day

_SAID_OTHERWISE = {"from_", "until", "unknown", "surcharges"}


def summary(catalogue: Catalogue, tariff_id: str) -> dict[str, object]:
    """Its name, and the billing months whose rates are known. Raises UnknownTariff."""
    tariff = catalogue.tariff(tariff_id)
    return {
        "id": tariff.id,
        "title": tariff.title,
        "title_th": tariff.title_th,
        "utility": tariff.utility,
        "currency": tariff.currency,
        "zone": tariff.zone.key,
        "known": list(_spans(catalogue.versions(tariff_id))),
    }


def rates_of_month(catalogue: Catalogue, tariff_id: str, month: Month) -> dict[str, object]:
    """What it costs in a billing month, in the words of a tariff document; numbers are text.

    Surcharges have the price that holds in the month, schedules their windows.
    Raises UnknownTariff; NotKnown where the rates or a surcharge of the month are not.
    """
    found = catalogue.rates(tariff_id, month)
    rates = found.rates
    said: dict[str, Any] = rates.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=_SAID_OTHERWISE
    )
    shown = summary(catalogue, tariff_id) | {
        "number": found.tariff.number,
        "month": str(month),
        "from": str(rates.from_),
        "until": None if rates.until is None else str(rates.until),
        **said,
        "surcharges": _surcharges(catalogue, found),
    }
    names = {one.schedule for one in (rates.energy, *rates.demand) if one is not None}
    shown["schedules"] = {
        name: _schedule(catalogue.schedule(name)) for name in sorted(filter(None, names))
    }
    category = catalogue.category(tariff_id)
    if category is not None:
        shown["category"] = category.model_dump(mode="json")
    return shown


def _spans(versions: tuple[Rates, ...]) -> Iterator[dict[str, str | None]]:
    """Months in a row are one span, whose `until` is exclusive; null: until now."""
    start: Month | None = None
    end: Month | None = None
    for rates in versions:
        if rates.unknown is not None:
            continue
        if start is not None and end == rates.from_:
            end = rates.until
            continue
        if start is not None:
            yield _span(start, end)
        start, end = rates.from_, rates.until
    if start is not None:
        yield _span(start, end)


def _span(start: Month, end: Month | None) -> dict[str, str | None]:
    return {"from": str(start), "until": None if end is None else str(end)}


def _surcharges(catalogue: Catalogue, found: MonthRates) -> list[dict[str, object]]:
    shown: list[dict[str, object]] = []
    for use in found.rates.surcharges:
        value = surcharge_value(catalogue.surcharge(use.name), use, found.month)
        price = {"price": plain(value.price), "revision": value.revision}
        shown.append({"name": use.name, "customer": use.customer, **price})
    return shown


def _schedule(schedule: Schedule) -> dict[str, object]:
    shown: dict[str, object] = {"windows": [_window(window) for window in schedule.windows]}
    if schedule.calendar is not None:
        shown |= {"calendar": schedule.calendar, "holidays": dict(schedule.holidays)}
    return shown


def _window(window: Window) -> dict[str, object]:
    shown: dict[str, object] = {
        "period": window.period,
        "from": time_of_day(window.from_),
        "to": time_of_day(window.to),
    }
    if window.days != WEEK:
        shown["days"] = list(window.days)
    if len(window.months) < 12:
        shown["months"] = list(window.months)
    return shown
