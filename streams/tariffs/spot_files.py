"""Lists of spot prices as markets publish them, CSV or JSON: read, checked, by the quarter hour.

CSV has a head line with `starts_at` and `price`. JSON is an array of objects with these, or an
object of civil days, each with an array of its prices in order. Instants have an offset: at a
change of the clock a local time alone says two things, or none.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from streams.tariffs.month import QUARTER
from streams.tariffs.spot import PRICE_DIGITS, BadPrices

MINUTES = (15, 30, 60)
MOST = Decimal(10_000)
_KWH_OF = {"kwh": 1, "mwh": 1000}


class Slot(NamedTuple):
    """A price of the file and the instant from which it holds, in UTC."""

    starts_at: datetime
    price: Decimal


def read_prices(
    text: str, *, minutes: int, zone: ZoneInfo, per: str = "kwh"
) -> dict[datetime, Decimal]:
    """The price per kWh of each quarter hour of the whole civil days that the file holds.

    `minutes` is the length of the market's slots, `zone` that of its days, `per` of its prices
    (`kwh` or `mwh`). Raises BadPrices, which names the line, day or instant and says what to do.
    """
    if minutes not in MINUTES:
        raise BadPrices(f"slots of {minutes} minutes are not known; give 15, 30 or 60")
    return by_quarter_hour(_parsed(text, minutes, zone), minutes=minutes, zone=zone, per=per)


def by_quarter_hour(
    slots: Sequence[Slot], *, minutes: int, zone: ZoneInfo, per: str = "kwh"
) -> dict[datetime, Decimal]:
    """The same of slots that are read already."""
    if not slots:
        raise BadPrices("there is no price; give at least one whole day")
    by_start = _once(slots, minutes)
    _check_days(by_start, minutes, zone)
    return {
        start + part * QUARTER: price
        for start, said in sorted(by_start.items())
        for price in [_per_kwh(start, said, per)]
        for part in range(minutes // 15)
    }


def _per_kwh(start: datetime, said: Decimal, per: str) -> Decimal:
    price = (said / _KWH_OF[per]).normalize()
    exponent = price.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > PRICE_DIGITS:
        raise BadPrices(
            f"the price {said} of {start.isoformat()} has more than {PRICE_DIGITS} decimals a kWh; "
            "round it as the market does"
        )
    return price


def _parsed(text: str, minutes: int, zone: ZoneInfo) -> list[Slot]:
    if text.lstrip()[:1] in ("[", "{"):
        return list(_of_json(text, minutes, zone))
    return list(_of_csv(text))


def _of_csv(text: str) -> Iterable[Slot]:
    reader = csv.DictReader(io.StringIO(text))
    missing = sorted({"starts_at", "price"} - set(reader.fieldnames or ()))
    if missing:
        raise BadPrices(
            f"the head line has no column {missing[0]!r}; begin the file with starts_at,price"
        )
    for row in reader:
        where = f"line {reader.line_num}"
        yield Slot(_instant(row["starts_at"], where), _price(row["price"], where))


def _of_json(text: str, minutes: int, zone: ZoneInfo) -> Iterable[Slot]:
    try:
        said = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise BadPrices(f"the file is no JSON: {error}; correct that place") from error
    if isinstance(said, dict):
        for day, prices in said.items():
            yield from _of_day(day, prices, minutes, zone)
        return
    for number, one in enumerate(said, 1):
        where = f"entry {number}"
        if not isinstance(one, dict) or not {"starts_at", "price"} <= one.keys():
            raise BadPrices(f"{where} has no starts_at or no price; give both")
        yield Slot(_instant(one["starts_at"], where), _price(one["price"], where))


def _of_day(text: str, prices: Any, minutes: int, zone: ZoneInfo) -> Iterable[Slot]:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise BadPrices(f"{text!r:.40} is no day; write it as 2026-03-29") from error
    start, end = _day_of(day, zone)
    if not isinstance(prices, list) or len(prices) != _count(start, end, minutes):
        count = len(prices) if isinstance(prices, list) else 0
        raise BadPrices(_told_count(day, zone, minutes, _count(start, end, minutes), count))
    for index, price in enumerate(prices):
        yield Slot(start + index * timedelta(minutes=minutes), _price(price, f"{day}, {index + 1}"))


def _instant(value: Any, where: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise BadPrices(
            f"{where}: {value!r:.40} is no instant; write it as 2026-03-29T00:00:00+01:00"
        ) from error
    if at.tzinfo is None:
        raise BadPrices(
            f"{where}: {value} has no offset, and may be two instants when the clock is changed; "
            "write it as 2026-03-29T00:00:00+01:00"
        )
    return at.astimezone(UTC)


def _price(value: Any, where: str) -> Decimal:
    try:
        price = Decimal(value)
    except (InvalidOperation, TypeError, ValueError) as error:
        raise BadPrices(f"{where}: {value!r:.40} is no price; give a number") from error
    if not price.is_finite() or abs(price) > MOST:
        raise BadPrices(f"{where}: {price} is no price; give a number of the market's currency")
    return price


def _once(slots: Sequence[Slot], minutes: int) -> dict[datetime, Decimal]:
    """Raises BadPrices for an instant that is given twice, or lies within another's slot."""
    ordered = sorted(slots)
    width = timedelta(minutes=minutes)
    for before, after in pairwise(ordered):
        if after.starts_at < before.starts_at + width:
            raise BadPrices(
                f"the prices of {before.starts_at.isoformat()} and {after.starts_at.isoformat()} "
                f"overlap: slots are of {minutes} minutes; remove one, or give the right minutes"
            )
    return dict(ordered)


def _check_days(by_start: Mapping[datetime, Decimal], minutes: int, zone: ZoneInfo) -> None:
    """Raises BadPrices for a day that lacks a slot, between the days given too."""
    by_day: dict[date, list[datetime]] = {}
    for at in by_start:
        by_day.setdefault(at.astimezone(zone).date(), []).append(at)
    width, day = timedelta(minutes=minutes), min(by_day)
    while day <= max(by_day):
        start, end = _day_of(day, zone)
        wanted = [start + index * width for index in range(_count(start, end, minutes))]
        held = by_day.get(day, [])
        stray = sorted(set(held) - set(wanted))
        if stray:
            raise BadPrices(
                f"{stray[0].isoformat()} begins no slot of {minutes} minutes of {day} in "
                f"{zone.key}; give the zone of the market's days, and its minutes"
            )
        missing = [at for at in wanted if at not in by_start]
        if missing:
            told = _told_count(day, zone, minutes, len(wanted), len(held))
            raise BadPrices(f"{told}; the first that is missing is {missing[0].isoformat()}")
        day += timedelta(days=1)


def _told_count(day: date, zone: ZoneInfo, minutes: int, wanted: int, given: int) -> str:
    return (
        f"{day} has {wanted} slots of {minutes} minutes in {zone.key}, {given} prices were given; "
        "give one for each"
    )


def _count(start: datetime, end: datetime, minutes: int) -> int:
    return (end - start) // timedelta(minutes=minutes)


def _day_of(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    after = day + timedelta(days=1)
    start, end = (
        datetime(one.year, one.month, one.day, tzinfo=zone).astimezone(UTC) for one in (day, after)
    )
    return start, end
