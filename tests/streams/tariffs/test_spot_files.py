"""Files of spot prices: whole civil days, each instant once, and errors that name the place."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from streams.tariffs.month import QUARTER
from streams.tariffs.spot import BadPrices
from streams.tariffs.spot_files import read_prices

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, USUAL, AUTUMN = date(2026, 3, 29), date(2026, 3, 30), date(2026, 10, 25)


def starts(day: date, minutes: int = 15) -> list[datetime]:
    """The slots of a civil day of Berlin, in UTC."""
    after = day + timedelta(days=1)
    at, end = (
        datetime(one.year, one.month, one.day, tzinfo=BERLIN).astimezone(UTC)
        for one in (day, after)
    )
    found = []
    while at < end:
        found.append(at)
        at += timedelta(minutes=minutes)
    return found


def csv_of(instants: list[datetime], price: str = "0.1") -> str:
    rows = [f"{at.astimezone(BERLIN).isoformat()},{price}" for at in instants]
    return "\n".join(["starts_at,price", *rows])


def read(text: str, minutes: int = 15, per: str = "kwh") -> dict[datetime, Decimal]:
    return read_prices(text, minutes=minutes, zone=BERLIN, per=per)


@pytest.mark.parametrize(("day", "slots"), [(SPRING, 92), (USUAL, 96), (AUTUMN, 100)])
def test_csv_and_json_of_a_day_say_the_same_with_92_96_and_100_slots(day: date, slots: int):
    instants = starts(day)
    assert len(instants) == slots
    prices = [Decimal(number) / 100 - 1 for number in range(slots)]
    lines = [f"{at.isoformat()},{price}" for at, price in zip(instants, prices, strict=True)]
    read_csv = read("\n".join(["starts_at,price", *reversed(lines)]))
    rows = [{"starts_at": at.isoformat(), "price": str(price)}
            for at, price in zip(instants, prices, strict=True)]  # fmt: skip
    assert read_csv == dict(zip(instants, prices, strict=True))
    assert read(json.dumps(rows)) == read_csv
    assert read(json.dumps({day.isoformat(): [float(price) for price in prices]})) == read_csv
    assert min(read_csv.values()) == -1


def test_prices_of_hours_hold_for_their_four_quarters_and_mwh_become_kwh():
    text = "starts_at,price\n" + "\n".join(
        f"{at.isoformat()},{number}.5" for number, at in enumerate(starts(AUTUMN, 60))
    )
    found = read(text, 60, "mwh")
    assert list(found) == starts(AUTUMN)
    assert [found[at] for at in starts(AUTUMN)[:5]] == [
        Decimal(text) for text in ("0.0005", "0.0005", "0.0005", "0.0005", "0.0015")
    ]


def test_a_gap_names_its_day_and_the_first_instant_that_is_missing():
    instants = starts(USUAL)
    del instants[40]
    with pytest.raises(
        BadPrices,
        match=r"2026-03-30 has 96 slots of 15 minutes in Europe/Berlin, 95 prices were given; "
        r"give one for each; the first that is missing is 2026-03-30T08:00:00",
    ):
        read(csv_of(instants))


def test_a_whole_day_that_is_missing_between_others_is_a_gap():
    with pytest.raises(BadPrices, match=r"2026-03-29 has 92 slots.*0 prices were given"):
        read(csv_of([*starts(SPRING - timedelta(days=1)), *starts(USUAL)]))


def test_an_instant_twice_and_slots_within_others_overlap():
    instants = starts(USUAL)
    with pytest.raises(BadPrices, match=r"2026-03-29T22:00:00.* overlap"):
        read(csv_of([*instants, instants[0]]))
    with pytest.raises(BadPrices, match="overlap: slots are of 60 minutes"):
        read(csv_of(instants), 60)


def test_hours_told_as_quarters_are_a_gap():
    with pytest.raises(BadPrices, match="96 slots of 15 minutes in Europe/Berlin, 24 prices"):
        read(csv_of(starts(USUAL, 60)))


def test_slots_beside_the_zones_are_refused():
    with pytest.raises(BadPrices, match="begins no slot of 60 minutes"):
        read(csv_of([at + QUARTER for at in starts(USUAL, 60)]), 60)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column 'price'"),
        ("starts_at,price\n", "there is no price; give at least one whole day"),
        ("start,price\n", "no column 'starts_at'"),
        ("starts_at,price\n2026-03-30T00:00:00,1", "line 2: .* has no offset"),
        ("starts_at,price\nyesterday,1", "line 2: 'yesterday' is no instant"),
        ("starts_at,price\n2026-03-30T00:00:00+02:00,dear", "line 2: 'dear' is no price"),
        ("starts_at,price\n2026-03-30T00:00:00+02:00,NaN", "line 2: NaN is no price"),
        ("starts_at,price\n2026-03-30T00:00:00+02:00", "line 2: None is no price"),
        ('[{"starts_at": "2026-03-30T00:00:00+02:00"}]', "entry 1 has no starts_at or no price"),
        ("[1]", "entry 1 has no starts_at or no price"),
        ("[", "is no JSON"),
        ('{"someday": []}', "'someday' is no day"),
        ('{"2026-03-29": [1, 2]}', "92 slots of 15 minutes in Europe/Berlin, 2 prices"),
        ('{"2026-03-29": 7}', "92 slots of 15 minutes in Europe/Berlin, 0 prices"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, told: str):
    with pytest.raises(BadPrices, match=told):
        read(text)


def test_a_price_finer_than_any_bill_is_refused():
    with pytest.raises(BadPrices, match="more than 9 decimals a kWh"):
        read(csv_of(starts(USUAL), "0.1234567"), per="mwh")
