"""The list of devices, and one device."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from api.models import DeviceDetail, DevicePage

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

T0 = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


async def addresses(client: httpx.AsyncClient, query: str = "") -> list[str]:
    answer = await client.get(f"/api/v1/devices?{query}")
    assert answer.status_code == 200, answer.text
    page = DevicePage.model_validate_json(answer.content)
    return [one.address for one in page.items]


async def test_a_listed_device_tells_its_newest(client: httpx.AsyncClient, rows: Any):
    device = rows.device("homesync:h1/kitchen", name="Kitchen", home_id="h1", claimed_at=T0)
    total, l1 = rows.channel(device, "total"), rows.channel(device, "l1")
    rows.reading(total, T0, power_w=900.5)
    rows.reading(total, T0 + 10 * SECOND, power_w=1250.25, voltage_v=231.5)
    rows.reading(total, T0 + 15 * SECOND, import_total_wh=1000.0)  # a register alone
    rows.reading(l1, T0 + 20 * SECOND, power_w=77.0)
    rows.progress(total, T0, T0, T0)
    state = {"device_id": device, "measured_at": T0, "log_offset": 1}
    rows.insert("device_state", field="online", value=Jsonb(True), **state)
    rows.insert("device_state", field="online", channel="l1", value=Jsonb(False), **state)

    (item,) = (await client.get("/api/v1/devices")).json()["items"]

    assert item == {
        "id": device,
        "address": "homesync:h1/kitchen",
        "family": "homesync",
        "name": "Kitchen",
        "home_id": "h1",
        "zone": "Asia/Bangkok",
        "claimed": True,
        "channels": ["l1", "total"],
        "last_reading_at": "2026-03-01T08:00:20Z",
        "power_w": 1250.25,
        "power_at": "2026-03-01T08:00:10Z",
        "online": True,
        "location": None,
        "model": None,
        "presence": None,
        "capabilities": {},
    }


async def test_a_device_without_total_has_the_sum_of_what_does_not_overlap(
    client: httpx.AsyncClient, rows: Any
):
    device = rows.device("shelly:strip")
    for number, power in enumerate((40.0, 2.5)):
        channel = rows.channel(device, f"switch:{number}")
        rows.reading(channel, T0 + number * SECOND, power_w=power)
    rows.reading(rows.channel(device, "temperature:0"), T0, temperature_c=21.0)
    (item,) = (await client.get("/api/v1/devices")).json()["items"]
    assert item["power_w"] == 42.5
    assert item["power_at"] == "2026-03-01T08:00:00Z"


async def test_an_old_power_is_not_the_power_of_now(client: httpx.AsyncClient, rows: Any):
    device = rows.device("shelly:plug")
    channel = rows.channel(device, "total")
    rows.reading(channel, T0, power_w=40.0)
    rows.reading(channel, T0 + timedelta(minutes=15), temperature_c=21.0)
    (item,) = (await client.get("/api/v1/devices")).json()["items"]
    assert (item["power_w"], item["last_reading_at"]) == (None, "2026-03-01T08:15:00Z")


async def test_a_device_that_never_spoke_is_listed(client: httpx.AsyncClient, rows: Any):
    rows.device("tasmota:new")
    (item,) = (await client.get("/api/v1/devices")).json()["items"]
    assert (item["claimed"], item["channels"], item["last_reading_at"]) == (False, [], None)
    assert (item["power_w"], item["online"]) == (None, None)


@pytest.fixture
def fleet(rows: Any) -> None:
    rows.device("homesync:h1/a", name="Küche 100%", home_id="h1", claimed_at=T0)
    rows.device("homesync:h2/b", name="Boiler", home_id="h2", claimed_at=T0)
    rows.device("shelly:c", home_id="h1", claimed_at=T0)
    rows.device("shelly:d_1")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["homesync:h1/a", "homesync:h2/b", "shelly:c", "shelly:d_1"]),
        ("home=h1", ["homesync:h1/a", "shelly:c"]),
        ("family=shelly", ["shelly:c", "shelly:d_1"]),
        ("claimed=false", ["shelly:d_1"]),
        ("claimed=true&family=shelly", ["shelly:c"]),
        ("q=boil", ["homesync:h2/b"]),
        ("q=KÜCHE", ["homesync:h1/a"]),
        ("q=%25", ["homesync:h1/a"]),  # a sign of LIKE is only a sign
        ("q=_", ["shelly:d_1"]),
        ("q=H2/", ["homesync:h2/b"]),
        ("home=h%001", []),
        ("home=nobody", []),
    ],
)
@pytest.mark.usefixtures("fleet")
async def test_filters(client: httpx.AsyncClient, query: str, expected: list[str]):
    assert await addresses(client, query) == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
@pytest.mark.usefixtures("fleet")
async def test_pages_hold_every_device_once(client: httpx.AsyncClient, limit: int):
    seen, cursor = [], ""
    while True:
        page = (await client.get(f"/api/v1/devices?limit={limit}{cursor}")).json()
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == limit
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [1, 2, 3, 4]


@pytest.mark.usefixtures("fleet")
async def test_a_cursor_belongs_to_its_filters(client: httpx.AsyncClient):
    cursor = (await client.get("/api/v1/devices?limit=1&home=h1")).json()["next_cursor"]
    assert (await client.get(f"/api/v1/devices?home=h1&cursor={cursor}")).status_code == 200
    answer = await client.get(f"/api/v1/devices?home=h2&cursor={cursor}")
    assert (answer.status_code, answer.json()["type"]) == (
        400,
        "urn:meterstream:problem:bad-cursor",
    )


@pytest.mark.parametrize(
    "text",
    ["2", "Boiler", "boiler", "homesync:h2/b", "homesync:h2%2Fb", "h2/b", "b"],
)
@pytest.mark.usefixtures("fleet")
async def test_a_device_is_found_by_id_name_and_address(client: httpx.AsyncClient, text: str):
    answer = await client.get(f"/api/v1/devices/{text}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["address"] == "homesync:h2/b"


@pytest.mark.parametrize("text", ["9", "99999999999999999999", "nobody", "%00", "x" * 2000, "%FF"])
@pytest.mark.usefixtures("fleet")
async def test_an_unknown_device_is_404(client: httpx.AsyncClient, text: str):
    for path in (text, f"{text}/readings", f"{text}/usage"):
        answer = await client.get(f"/api/v1/devices/{path}")
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:meterstream:problem:not-found"


@pytest.mark.usefixtures("fleet")
async def test_a_nul_is_in_no_name(client: httpx.AsyncClient):
    for path in ("sensors", "config", "presence", "owners", "commands", "switches"):
        answer = await client.get(f"/api/v1/devices/%00/{path}")
        assert answer.status_code == 404, path
        assert answer.json()["type"] == "urn:meterstream:problem:not-found"


async def test_an_ambiguous_name_is_409_with_candidates(client: httpx.AsyncClient, rows: Any):
    rows.device("homesync:h1/a", name="2")
    rows.device("homesync:h2/b", name="other")
    answer = await client.get("/api/v1/devices/2")
    assert answer.status_code == 409
    assert answer.json()["candidates"] == [
        {"id": 1, "address": "homesync:h1/a"},
        {"id": 2, "address": "homesync:h2/b"},
    ]


async def test_a_device_in_detail(client: httpx.AsyncClient, rows: Any):
    device = rows.device("shelly:em", name="Main", first_seen_at=T0)
    total, empty = rows.channel(device, "total"), rows.channel(device, "x")
    assert empty
    rows.reading(total, T0, power_w=1.0, voltage_v=230.0)
    rows.reading(
        total, T0 + SECOND, import_total_wh=7.25, power_w=-3.5, received_at=T0 + 2 * SECOND
    )
    state = {"device_id": device, "log_offset": 1}
    rows.insert("device_state", field="firmware", value=Jsonb("1.4"), measured_at=T0, **state)
    rows.insert(
        "device_state", field="relay", channel="total", value=Jsonb(False), measured_at=T0, **state
    )

    answer = await client.get("/api/v1/devices/Main")

    DeviceDetail.model_validate_json(answer.content)
    detail = answer.json()
    assert detail["first_seen_at"] == "2026-03-01T08:00:00Z"
    assert detail["claimed_at"] is None
    assert detail["channel_details"] == [
        {
            "name": "total",
            "capabilities": ["power_w", "voltage_v", "import_total_wh"],
            "measured_at": "2026-03-01T08:00:01Z",
            "received_at": "2026-03-01T08:00:02Z",
            "values": {"power_w": -3.5, "import_total_wh": 7.25},
        },
        {
            "name": "x",
            "capabilities": [],
            "measured_at": None,
            "received_at": None,
            "values": {},
        },
    ]
    at = "2026-03-01T08:00:00Z"
    assert detail["state"] == [
        {"channel": None, "field": "firmware", "value": "1.4", "measured_at": at},
        {"channel": "total", "field": "relay", "value": False, "measured_at": at},
    ]
