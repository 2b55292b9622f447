"""Readings: pages, fields, and thinned out for a chart."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api.models import ReadingPage, SampledReadings

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

T0 = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
URL = "/api/v1/devices/meter/readings"
HOUR = "from=2026-03-01T08:00:00Z&to=2026-03-01T09:00:00Z"


@pytest.fixture
def channels(rows: Any) -> dict[str, int]:
    """A device with three channels; a second one whose readings must never show."""
    device = rows.device("homesync:h1/meter", name="meter")
    other = rows.channel(rows.device("homesync:h1/other"), "total")
    found = {name: rows.channel(device, name) for name in ("total", "l1", "l2")}
    for second in range(20):
        rows.reading(other, T0 + second * SECOND, power_w=-1.0)
    return found


async def walk(client: httpx.AsyncClient, query: str, between: Any = None) -> list[tuple[str, str]]:
    seen, cursor, pages = [], "", 0
    while True:
        answer = await client.get(f"{URL}?{query}{cursor}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        seen += [(one["measured_at"], one["channel"]) for one in page["items"]]
        pages += 1
        if page["next_cursor"] is None:
            return seen
        cursor = f"&cursor={page['next_cursor']}"
        if between is not None:
            between(pages)


async def test_a_reading_shows_what_its_message_said(
    client: httpx.AsyncClient, rows: Any, channels
):
    rows.reading(channels["total"], T0, power_w=1250.5, import_total_wh=15234560.25)
    rows.reading(
        channels["l1"],
        T0 + timedelta(microseconds=250_001),
        voltage_v=231.5,
        received_at=T0 + 9 * SECOND,
        seq=812,
        clock=1,
        source=3,
    )
    answer = await client.get(f"{URL}?{HOUR}")
    ReadingPage.model_validate_json(answer.content)
    assert answer.json() == {
        "device_id": 1,
        "from": "2026-03-01T08:00:00Z",
        "to": "2026-03-01T09:00:00Z",
        "items": [
            {
                "channel": "total",
                "measured_at": "2026-03-01T08:00:00Z",
                "power_w": 1250.5,
                "import_total_wh": 15234560.25,
            },
            {
                "channel": "l1",
                "measured_at": "2026-03-01T08:00:00.250001Z",
                "voltage_v": 231.5,
            },
        ],
        "next_cursor": None,
    }
    answer = await client.get(f"{URL}?{HOUR}&channel=l1&fields=received_at,seq,clock,source")
    ReadingPage.model_validate_json(answer.content)
    assert answer.json()["items"] == [
        {
            "channel": "l1",
            "measured_at": "2026-03-01T08:00:00.250001Z",
            "received_at": "2026-03-01T08:00:09Z",
            "seq": 812,
            "clock": "received_no_clock",
            "source": "import",
        }
    ]


async def test_fields_are_chosen(client: httpx.AsyncClient, rows: Any, channels):
    rows.reading(channels["total"], T0, power_w=5.0, voltage_v=230.0, current_a=0.5)
    rows.reading(channels["total"], T0 + SECOND, current_a=0.25)
    items = (await client.get(f"{URL}?{HOUR}&fields=current_a,%20power_w")).json()["items"]
    assert [sorted(set(one) - {"channel", "measured_at"}) for one in items] == [
        ["current_a", "power_w"],
        ["current_a"],
    ]


async def test_the_range_is_half_open(client: httpx.AsyncClient, rows: Any, channels):
    for second in (-1, 0, 3599, 3600):
        rows.reading(channels["total"], T0 + second * SECOND, power_w=1.0)
    assert await walk(client, HOUR) == [
        ("2026-03-01T08:00:00Z", "total"),
        ("2026-03-01T08:59:59Z", "total"),
    ]
    same = "from=2026-03-01T15:00:00%2B07:00&to=2026-03-01T16:00:00%2B07:00"
    assert len(await walk(client, same)) == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 24, 1000])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_every_reading_once(
    client: httpx.AsyncClient, rows: Any, channels, order: str, limit: int
):
    expected = []
    for second in range(10):
        for name, every in (("total", 1), ("l1", 1), ("l2", 3)):
            if second % every == 0:
                at = T0 + second * SECOND
                rows.reading(channels[name], at, power_w=float(second))
                expected.append((f"{at:%Y-%m-%dT%H:%M:%SZ}", name))
    if order == "desc":
        expected.reverse()
    assert await walk(client, f"{HOUR}&order={order}&limit={limit}") == expected


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_walk_sees_every_reading_once_while_others_arrive(
    client: httpx.AsyncClient, rows: Any, channels, order: str
):
    before = [T0 + second * SECOND for second in range(0, 40, 2)]
    for at in before:
        rows.reading(channels["total"], at, power_w=1.0)

    def arrive(page: int) -> None:
        rows.reading(channels["l2"], T0 + 2 * page * SECOND, power_w=2.0)
        rows.reading(channels["total"], T0 + (41 - 2 * page) * SECOND, power_w=3.0)
        rows.reading(channels["total"], T0 - page * SECOND, power_w=3.0)

    seen = await walk(client, f"{HOUR}&limit=3&order={order}", arrive)

    assert len(seen) == len(set(seen))
    kept = {f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in before}
    found = [at for at, channel in seen if channel == "total" and at in kept]
    assert sorted(found) == sorted(kept)
    assert [at for at, _ in seen] == sorted((at for at, _ in seen), reverse=order == "desc")


async def test_a_walk_without_to_keeps_the_range_of_its_first_page(
    client: httpx.AsyncClient, rows: Any, channels
):
    now = datetime.now(UTC)
    for second in range(6):
        rows.reading(channels["total"], now - (10 - second) * SECOND, power_w=1.0)
    late = timedelta(milliseconds=500)

    def arrive(page: int) -> None:
        rows.reading(channels["total"], datetime.now(UTC) + page * late, power_w=1.0)

    assert len(await walk(client, "limit=2", arrive)) == 6


async def test_a_broken_cursor_is_refused(client: httpx.AsyncClient, rows: Any, channels):
    for second in range(3):
        rows.reading(channels["total"], T0 + second * SECOND, power_w=1.0)
    cursor = (await client.get(f"{URL}?{HOUR}&limit=1")).json()["next_cursor"]
    assert (await client.get(f"{URL}?{HOUR}&limit=9&cursor={cursor}")).status_code == 200
    swapped = [
        cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :]
        for i in range(len(cursor))
    ]
    broken = [*swapped, "", "x", "====", "%00", cursor[:-1], cursor + "A", cursor + "%3D", "é" * 9]
    for text in [*broken, "A" * 5000]:
        answer = await client.get(f"{URL}?{HOUR}", params={**_parsed(HOUR), "cursor": text})
        assert answer.status_code == 400, text
        assert answer.json()["type"] == "urn:meterstream:problem:bad-cursor"
    other = [
        f"{URL}?{HOUR}&order=desc&cursor={cursor}",
        f"{URL}?{HOUR}&channel=total&cursor={cursor}",
        f"{URL}?from=2026-03-01T08:00:00Z&cursor={cursor}",
        f"/api/v1/devices/2/readings?{HOUR}&cursor={cursor}",
        f"/api/v1/devices?cursor={cursor}",
    ]
    for url in other:
        assert (await client.get(url)).status_code == 400, url


def _parsed(query: str) -> dict[str, str]:
    return dict(one.split("=") for one in query.split("&"))


async def test_downsampling_keeps_the_extremes(client: httpx.AsyncClient, rows: Any, channels):
    # Ten spans of 6 min. One reading a minute of 100 W; a spike, a dip, and a span of silence.
    for minute in range(60):
        if 12 <= minute < 18:
            continue
        power = {7: 9000.0, 8: -50.0}.get(minute, 100.0)
        at = T0 + timedelta(minutes=minute)
        rows.reading(channels["total"], at, power_w=power, voltage_v=230.0 + minute)
    rows.reading(channels["l1"], T0 + timedelta(minutes=6), temperature_c=20.0)

    answer = await client.get(f"{URL}?{HOUR}&downsample=10&fields=power_w,voltage_v")

    SampledReadings.model_validate_json(answer.content)
    page = answer.json()
    assert page["width_s"] == 360.0
    assert [(one["channel"], one["start"][11:16], one["readings"]) for one in page["items"]] == [
        ("total", "08:00", 6),
        ("total", "08:06", 6),
        ("l1", "08:06", 1),
        *[("total", f"08:{minute}", 6) for minute in range(18, 60, 6)],
    ]
    second = page["items"][1]
    # 6..11: 100, 9000, -50, 100, 100, 100 W: 9350 / 6; 236 … 241 V
    assert second["power_w"]["min"] == -50.0
    assert second["power_w"]["max"] == 9000.0
    assert second["power_w"]["avg"] == pytest.approx(1558.333333)
    assert second["voltage_v"] == {"min": 236.0, "max": 241.0, "avg": 238.5}
    assert set(page["items"][2]) == {"channel", "start", "readings"}


async def test_downsampling_never_gives_more_points_than_asked(
    client: httpx.AsyncClient, rows: Any, channels
):
    for second in range(100):
        rows.reading(channels["total"], T0 + second * SECOND, power_w=1.0)
    span = "from=2026-03-01T08:00:00Z&to=2026-03-01T08:01:40Z"
    for points in (1, 3, 7, 99, 100):
        items = (await client.get(f"{URL}?{span}&downsample={points}")).json()["items"]
        assert 1 <= len(items) <= points
        assert sum(one["readings"] for one in items) == 100
    assert len((await client.get(f"{URL}?{span}&downsample=5000")).json()["items"]) == 100


@pytest.mark.parametrize(
    ("query", "field", "remedy"),
    [
        ("from=2026-03-01T08:00:00", "from", "add Z or an offset"),
        ("to=2026-03-01", "to", "add Z or an offset"),
        ("from=1772352000", "from", "write it like"),
        ("from=yesterday", "from", "write it like"),
        ("from=2026-03-01T08:00:00%2B7", "from", "write it like"),
        ("from=0001-01-01T00:00:00%2B14:00", "from", "1970"),
        ("to=9999-12-31T23:59:59-14:00", "to", "1970"),
        ("from=2026-03-01T08:00:00Z&to=2026-03-01T08:00:00Z", "from", "before to"),
        ("from=2026-03-02T08:00:00Z&to=2026-03-01T08:00:00Z", "from", "before to"),
        ("limit=0", "limit", "1 or more"),
        ("limit=20001", "limit", "20000 or less"),
        ("limit=ten", "limit", "whole number"),
        ("order=up", "order", "'asc' or 'desc'"),
        ("fields=power", "fields", "power_w"),
        ("fields=", "fields", "power_w"),
        ("fields=power_w;drop", "fields", "power_w"),
        ("fields=seq&downsample=3", "fields", "power_w"),
        ("downsample=0", "downsample", "1 or more"),
        ("downsample=9&order=desc", "order", "leave it out"),
        ("channel=l9", "channel", "total"),
        ("form=2026-03-01T08:00:00Z", "form", "misspelt"),
    ],
)
@pytest.mark.usefixtures("channels")
async def test_a_wrong_query_names_field_and_remedy(
    client: httpx.AsyncClient, query: str, field: str, remedy: str
):
    answer = await client.get(f"{URL}?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert (error["field"], error["location"]) == (field, "query")
    assert remedy in error["remedy"]
