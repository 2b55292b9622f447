"""Usage in every bucket, with the part that is not complete yet. Sums are worked out by hand."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.models import UsagePage

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

URL = "/api/v1/devices/meter/usage"
MINUTE = timedelta(minutes=1)


def at(hour: int, minute: int = 0, second: int = 0, day: int = 1) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


async def usage(client: httpx.AsyncClient, query: str) -> dict[str, Any]:
    answer = await client.get(f"{URL}?{query}")
    assert answer.status_code == 200, answer.text
    UsagePage.model_validate_json(answer.content)
    page: dict[str, Any] = answer.json()
    return page


def brief(page: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (one["start"], one["energy_wh"], one["provisional_wh"], one["quality"], one["complete"])
        for one in page["items"]
    ]


@pytest.fixture
def meter(rows: Any) -> int:
    """08:02 and 08:03 are open. A register rises by 12 Wh from 08:02:00 to 08:03:00, and by 6 Wh
    to 08:03:30; export by 1 Wh and 0.5 Wh. 08:00 and 08:01 are complete but not in the ledger,
    which is complete to 08:00."""
    channel: int = rows.channel(rows.device("homesync:h1/meter", name="meter"), "total")
    for second, power, imported, exported in (
        (-10, 600.0, 998.0, 50.0),  # before the open windows: context only
        (0, 600.0, 1000.0, 50.0),
        (60, 840.0, 1012.0, 51.0),
        (90, 720.0, 1018.0, 51.5),
    ):
        rows.reading(
            channel,
            at(8, 2) + timedelta(seconds=second),
            power_w=power,
            import_total_wh=imported,
            export_total_wh=exported,
        )
    rows.progress(channel, until=at(8, 2), since=at(8, 1, 50), last=at(8, 3))
    rows.usage(
        "usage_1m",
        channel,
        at(8, 0),
        16_666_667,
        export_uwh=1_499,
        power_min_w=900.0,
        power_avg_w=1000.0,
        power_max_w=1100.0,
        readings=30,
        quality=1,
        revision=3,
    )
    rows.usage(
        "usage_1m", channel, at(8, 1), 10_000_500, export_uwh=1_500, quality=6, why=1, readings=10
    )
    rows.usage("usage_15m", channel, at(7, 45), 200_000_000, revision=2, readings=180)
    rows.usage("usage_15m", channel, at(8, 0), 1_000_000, complete=False, revision=0)
    rows.usage("usage_1h", channel, at(7), 750_000_000, quality=3)
    rows.usage("usage_1h", channel, at(8), 1_000_000)  # stale: the hour is open
    return channel


async def test_minutes_end_with_provisional_ones(client: httpx.AsyncClient, meter: int):
    page = await usage(client, "bucket=1m&from=2026-03-01T07:30:00Z&to=2026-03-01T08:30:00Z")
    assert {key: page[key] for key in page if key != "items"} == {
        "device_id": 1,
        "channels": ["total"],
        "bucket": "1m",
        "zone": "Asia/Bangkok",
        "from": "2026-03-01T07:30:00Z",
        "to": "2026-03-01T08:30:00Z",
        "materialized_until": "2026-03-01T08:02:00Z",
        "provisional_until": "2026-03-01T08:04:00Z",
        "gaps": [],
    }
    first, second, third, fourth = page["items"]
    assert first == {
        "start": "2026-03-01T08:00:00Z",
        "end": "2026-03-01T08:01:00Z",
        "energy_wh": 16.667,
        "export_wh": 0.001,
        "power_min_w": 900.0,
        "power_avg_w": 1000.0,
        "power_max_w": 1100.0,
        "readings": 30,
        "quality": "integrated",
        "why": "nothing",
        "revision": 3,
        "complete": True,
        "provisional_wh": 0.0,
        "provisional_export_wh": 0.0,
    }
    assert (second["energy_wh"], second["export_wh"]) == (10.001, 0.002)  # half up
    assert (second["quality"], second["why"], second["power_avg_w"]) == ("gap", "silence", None)
    assert third == {
        "start": "2026-03-01T08:02:00Z",
        "end": "2026-03-01T08:03:00Z",
        "energy_wh": 12.0,
        "export_wh": 1.0,
        "power_min_w": 600.0,
        "power_avg_w": 600.0,
        "power_max_w": 600.0,
        "readings": 1,
        "quality": "provisional",
        "why": "not_complete",
        "revision": 0,
        "complete": False,
        "provisional_wh": 12.0,
        "provisional_export_wh": 1.0,
    }
    assert (fourth["start"], fourth["energy_wh"], fourth["export_wh"], fourth["readings"]) == (
        "2026-03-01T08:03:00Z",
        6.0,
        0.5,
        2,
    )
    assert (fourth["power_min_w"], fourth["power_avg_w"], fourth["power_max_w"]) == (720, 780, 840)


async def test_the_range_cuts_the_provisional_minutes(client: httpx.AsyncClient, meter: int):
    page = await usage(client, "bucket=1m&from=2026-03-01T08:03:10Z&to=2026-03-01T08:03:20Z")
    assert (page["from"], page["to"]) == ("2026-03-01T08:03:00Z", "2026-03-01T08:04:00Z")
    assert brief(page) == [("2026-03-01T08:03:00Z", 6.0, 6.0, "provisional", False)]
    page = await usage(client, "bucket=1m&from=2026-03-01T07:00:00Z&to=2026-03-01T08:02:00Z")
    assert len(page["items"]) == 2
    assert page["provisional_until"] is None


async def test_a_channel_without_any_complete_window_is_all_provisional(
    client: httpx.AsyncClient, rows: Any
):
    channel = rows.channel(rows.device("homesync:h1/meter", name="meter"), "total")
    for second in (30, 60, 90):
        rows.reading(channel, at(8) + timedelta(seconds=second), power_w=1200.0)
    rows.reading(channel, at(8, 2), power_w=1200.0)
    page = await usage(client, "bucket=1m&from=2026-03-01T07:00:00Z&to=2026-03-01T09:00:00Z")
    assert page["materialized_until"] is None
    # 1200 W are 20 Wh a minute; the record begins at 08:00:30 and ends at 08:02:00
    assert brief(page) == [
        ("2026-03-01T08:00:00Z", 10.0, 10.0, "provisional", False),
        ("2026-03-01T08:01:00Z", 20.0, 20.0, "provisional", False),
        ("2026-03-01T08:02:00Z", 0.0, 0.0, "provisional", False),
    ]
    page = await usage(client, "bucket=1d&from=2026-03-01T07:00:00Z&to=2026-03-01T09:00:00Z")
    assert brief(page) == [("2026-02-28T17:00:00Z", 30.0, 30.0, "provisional", False)]


async def test_a_quarter_that_is_open_adds_up_complete_and_open_minutes(
    client: httpx.AsyncClient, meter: int
):
    page = await usage(client, "bucket=15m&from=2026-03-01T07:45:00Z&to=2026-03-01T08:30:00Z")
    assert page["materialized_until"] == "2026-03-01T08:00:00Z"
    # 16.666667 + 10.0005 + 12 + 6 = 44.667167
    assert brief(page) == [
        ("2026-03-01T07:45:00Z", 200.0, 0.0, "measured", True),
        ("2026-03-01T08:00:00Z", 44.667, 18.0, "provisional", False),
    ]
    kept, opened = page["items"]
    assert (kept["revision"], opened["revision"], opened["why"]) == (2, 0, "not_complete")
    assert (opened["end"], opened["export_wh"]) == ("2026-03-01T08:15:00Z", 1.503)
    assert opened["provisional_export_wh"] == 1.5
    assert (opened["readings"], opened["power_min_w"], opened["power_max_w"]) == (43, 600.0, 1100.0)
    # means of 30, 1 and 2 readings: (30·1000 + 600 + 2·780) / 33
    assert opened["power_avg_w"] == pytest.approx(974.5454545)


async def test_an_hour_that_is_open(client: httpx.AsyncClient, meter: int):
    page = await usage(client, "bucket=1h&from=2026-03-01T07:10:00Z&to=2026-03-01T08:10:00Z")
    assert (page["from"], page["to"]) == ("2026-03-01T07:00:00Z", "2026-03-01T09:00:00Z")
    assert brief(page) == [
        ("2026-03-01T07:00:00Z", 750.0, 0.0, "interpolated", True),
        ("2026-03-01T08:00:00Z", 44.667, 18.0, "provisional", False),
    ]
    assert [(one["why"], one["revision"]) for one in page["items"]] == [
        (None, None),
        ("not_complete", None),
    ]


@pytest.fixture
def ledger(rows: Any, meter: int) -> int:
    """In Bangkok 1 March 2026, a Sunday, began at 17:00Z of 28 February."""
    for day, hour, wh in ((27, 16, 7), (28, 16, 300), (28, 17, 50)):
        rows.usage("usage_15m", meter, datetime(2026, 2, day, hour, 45, tzinfo=UTC), wh * 1_000_000)
    rows.usage("usage_1d", meter, date(2026, 2, 27), 4_000_000_000)
    rows.usage("usage_1d", meter, date(2026, 2, 28), 5_000_000_000, export_uwh=2_000_000)
    rows.usage("usage_1d", meter, date(2026, 3, 1), 1)  # stale: the day is open
    rows.usage("usage_1w", meter, date(2026, 2, 16), 33_000_000_000)
    rows.usage("usage_1w", meter, date(2026, 2, 23), 1)
    rows.usage("usage_1mo", meter, date(2026, 2, 1), 99_000_000_000)
    rows.usage("usage_1mo", meter, date(2026, 3, 1), 1)
    return meter


async def test_days_are_civil_days(client: httpx.AsyncClient, ledger: int):
    page = await usage(client, "bucket=1d&from=2026-02-28T00:00:00Z&to=2026-03-02T00:00:00Z")
    assert (page["from"], page["to"]) == ("2026-02-27T17:00:00Z", "2026-03-02T17:00:00Z")
    assert page["materialized_until"] == "2026-02-28T17:00:00Z"
    # 50 + 200 + 44.667167
    assert brief(page) == [
        ("2026-02-27T17:00:00Z", 5000.0, 0.0, "measured", True),
        ("2026-02-28T17:00:00Z", 294.667, 18.0, "provisional", False),
    ]
    assert page["items"][0]["export_wh"] == 2.0
    assert page["items"][1]["end"] == "2026-03-01T17:00:00Z"


async def test_weeks_begin_on_monday(client: httpx.AsyncClient, ledger: int):
    page = await usage(client, "bucket=1w&from=2026-02-20T00:00:00Z&to=2026-03-01T09:00:00Z")
    # the week of Monday 23 February: 7 + 300 + 50 + 200 + 44.667167
    assert brief(page) == [
        ("2026-02-15T17:00:00Z", 33000.0, 0.0, "measured", True),
        ("2026-02-22T17:00:00Z", 601.667, 18.0, "provisional", False),
    ]
    assert page["items"][1]["end"] == "2026-03-01T17:00:00Z"


async def test_months_are_civil_months(client: httpx.AsyncClient, ledger: int):
    page = await usage(client, "bucket=1mo&from=2026-02-10T00:00:00Z&to=2026-03-01T09:00:00Z")
    assert brief(page) == [
        ("2026-01-31T17:00:00Z", 99000.0, 0.0, "measured", True),
        ("2026-02-28T17:00:00Z", 294.667, 18.0, "provisional", False),
    ]
    assert page["items"][1]["end"] == "2026-03-31T17:00:00Z"


async def test_days_follow_the_change_of_the_clock(client: httpx.AsyncClient, rows: Any):
    device = rows.device("homesync:h1/meter", name="meter", zone="Europe/Berlin")
    channel = rows.channel(device, "total")
    rows.usage("usage_1d", channel, date(2026, 3, 29), 1_000_000)  # of 23 hours
    rows.usage("usage_1d", channel, date(2026, 3, 30), 2_000_000)
    rows.usage("usage_15m", channel, at(23, 45, day=31), 0)
    page = await usage(client, "bucket=1d&from=2026-03-28T23:00:00Z&to=2026-03-30T22:00:00Z")
    assert [(one["start"], one["end"], one["energy_wh"]) for one in page["items"]] == [
        ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 1.0),
        ("2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z", 2.0),
    ]


async def test_energy_of_a_silence_is_a_gap_of_minutes_and_part_of_larger_buckets(
    client: httpx.AsyncClient, rows: Any, meter: int
):
    # 3 Wh over 180 minutes: 5 of them in the first quarter, then eleven times 15, then 10
    rows.insert(
        "gap_energy",
        channel_id=meter,
        start_at=at(9, 40),
        end_at=at(12, 40),
        energy_uwh=3_000_001,
        export_uwh=180,
        why=1,
        revision=1,
        changed_offset=9,
    )
    page = await usage(client, "bucket=1m&from=2026-03-01T09:00:00Z&to=2026-03-01T10:00:00Z")
    assert page["items"] == []
    assert page["gaps"] == [
        {
            "start": "2026-03-01T09:40:00Z",
            "end": "2026-03-01T12:40:00Z",
            "energy_wh": 3.0,
            "export_wh": 0.0,
            "why": "silence",
        }
    ]
    page = await usage(client, "bucket=15m&from=2026-03-01T09:00:00Z&to=2026-03-01T13:00:00Z")
    assert page["gaps"] == []
    assert [one["energy_wh"] for one in page["items"]] == [0.083, *([0.25] * 11), 0.167]
    page = await usage(client, "bucket=1h&from=2026-03-01T09:00:00Z&to=2026-03-01T13:00:00Z")
    # 20, 60, 60 and 40 of 180 minutes
    assert [one["energy_wh"] for one in page["items"]] == [0.333, 1.0, 1.0, 0.667]


async def test_channels_that_do_not_overlap_are_added_up(client: httpx.AsyncClient, rows: Any):
    device = rows.device("shelly:meter", name="meter")
    first, second = rows.channel(device, "switch:0"), rows.channel(device, "switch:1")
    for number, channel in enumerate((first, second)):
        rows.usage(
            "usage_1m",
            channel,
            at(8),
            (number + 1) * 5_000_000,
            power_min_w=100.0,
            power_avg_w=200.0 + number,
            power_max_w=300.0,
            quality=number,
            revision=1 + number,
        )
        rows.progress(channel, at(8, 5 + number), at(8), at(8))
    rows.usage("usage_1m", second, at(8, 1), 1_000_000, power_min_w=1.0)
    page = await usage(client, "bucket=1m&from=2026-03-01T08:00:00Z&to=2026-03-01T08:10:00Z")
    assert page["channels"] == ["switch:0", "switch:1"]
    assert page["materialized_until"] == "2026-03-01T08:05:00Z"
    both, alone = page["items"]
    assert (both["energy_wh"], both["power_avg_w"], both["readings"]) == (15.0, 401.0, 24)
    assert (both["power_min_w"], both["power_max_w"]) == (None, None)
    assert (both["quality"], both["revision"]) == ("integrated", 2)
    assert (alone["energy_wh"], alone["power_min_w"]) == (1.0, 1.0)
    page = await usage(
        client, "bucket=1m&channel=switch:1&from=2026-03-01T08:00:00Z&to=2026-03-01T08:10:00Z"
    )
    assert [one["energy_wh"] for one in page["items"]] == [10.0, 1.0]


@pytest.mark.parametrize("bucket", ["1m", "15m", "1h", "1d", "1w", "1mo"])
async def test_without_a_range_the_newest_is_shown(
    client: httpx.AsyncClient, rows: Any, bucket: str
):
    channel = rows.channel(rows.device("homesync:h1/meter", name="meter"), "total")
    now = datetime.now(UTC)
    rows.reading(channel, now - timedelta(seconds=5), power_w=3600.0)
    rows.reading(channel, now - timedelta(seconds=4), power_w=3600.0)
    page = await usage(client, f"bucket={bucket}")
    assert sum(one["energy_wh"] for one in page["items"]) == pytest.approx(1.0, abs=0.0011)


async def test_a_device_without_channels_has_no_usage(client: httpx.AsyncClient, rows: Any):
    rows.device("homesync:h1/meter", name="meter")
    page = await usage(client, "bucket=1h")
    assert (page["items"], page["channels"], page["materialized_until"]) == ([], [], None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("bucket=1y", "bucket"),
        ("bucket=1m&from=2026-03-01T00:00:00", "from"),
        ("bucket=1h&from=2026-03-01T00:00:00Z&to=2026-03-01T00:00:00Z", "from"),
        ("bucket=1m&from=2026-03-01T00:00:00Z&to=2026-03-15T00:01:00Z", "from"),
        ("bucket=1h&from=1970-01-01T00:00:00Z&to=2199-01-01T00:00:00Z", "from"),
        ("channel=l1", "channel"),
        ("limit=5", "limit"),
    ],
)
async def test_a_wrong_query_names_the_field(
    client: httpx.AsyncClient, meter: int, query: str, field: str
):
    answer = await client.get(f"{URL}?{query}")
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_the_longest_range_is_two_weeks_of_minutes(client: httpx.AsyncClient, meter: int):
    await usage(client, "bucket=1m&from=2026-03-01T00:00:00Z&to=2026-03-15T00:00:00Z")
    await usage(client, "bucket=1mo&from=1970-01-01T00:00:00Z&to=2199-12-31T00:00:00Z")
