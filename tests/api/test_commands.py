"""Commands over the API: accepted once, refused with a reason, looked at, cancelled."""

import asyncio
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from api.problems import ProblemDocument
from sinks.commands import set_switch_interval

pytestmark = [pytest.mark.anyio, pytest.mark.stack]


@pytest.fixture
def plug(rows) -> int:
    """A device with one relay that is off, and no interlock."""
    device_id: int = rows.device("shelly:plug", name="Plug")
    set_switch_interval(rows.conn, 0, device_id=device_id)
    relay(rows, device_id, False)
    return device_id


def said(rows, device_id: int, field: str, value: object, channel: str = "") -> None:
    rows.conn.execute(
        "INSERT INTO device_state VALUES (%s, %s, %s, %s, clock_timestamp(), 1) "
        "ON CONFLICT (device_id, channel, field) DO UPDATE "
        "SET value = excluded.value, measured_at = excluded.measured_at",
        [device_id, channel, field, Jsonb(value)],
    )


def relay(rows, device_id: int, is_on: bool, channel: str = "switch:0") -> None:
    said(rows, device_id, "relay", is_on, channel)


async def give(client, device: object = "Plug", key: str | None = None, **body: Any):
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(f"/api/v1/devices/{device}/commands", json=body, headers=headers)


def refused(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    ProblemDocument.model_validate_json(answer.content)
    assert answer.json()["type"] == f"urn:meterstream:problem:{kind}"
    document: dict[str, Any] = answer.json()
    return document


async def test_a_command_is_accepted_and_can_be_looked_at(client, rows, plug):
    answer = await give(client, kind="on", revert_after_s=60)
    assert answer.status_code == 202
    command = answer.json()
    assert (command["kind"], command["channel"], command["seq"]) == ("on", "switch:0", 1)
    assert (command["state"], command["issued_by"]) == ("accepted", "user:operator")
    looked = (await client.get(f"/api/v1/commands/{command['id']}")).json()
    assert [one["state"] for one in looked.pop("events")] == ["accepted"]
    assert looked == command
    (waiting,) = rows.conn.execute("SELECT count(*) FROM command_outbox").fetchone()
    assert waiting == 2


async def test_the_same_key_is_the_same_command(client, rows, plug):
    first = await give(client, key="k-1", kind="toggle")
    again = await give(client, key="k-1", kind="toggle")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    refused(await give(client, key="k-1", kind="on"), 409, "key-reused")
    assert len((await client.get("/api/v1/devices/Plug/commands")).json()["items"]) == 1


async def test_the_same_key_at_once_is_one_command(client, rows, plug):
    answers = await asyncio.gather(*(give(client, key="k-1", kind="on") for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [200, 200, 200, 202]
    assert len({one.json()["id"] for one in answers}) == 1


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"kind": "explode"}, 422, "invalid-request"),
        ({}, 422, "invalid-request"),
        ({"kind": "on", "expires_in_s": -1}, 422, "invalid-request"),
        ({"kind": "on", "expires_in_s": 1e300}, 422, "invalid-request"),
        ({"kind": "on", "nonsense": 1}, 422, "invalid-request"),
        ({"kind": "on", "parameters": {"x": 1}}, 422, "invalid-request"),
        ({"kind": "config", "parameters": {"x": "a\0b"}}, 422, "invalid-request"),
        ({"kind": "on", "channel": "a\0b"}, 422, "invalid-request"),
        ({"kind": "on", "channel": "switch:9"}, 422, "unknown-relay"),
        ({"kind": "reboot"}, 422, "not-confirmed"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    client, rows, plug, body, status, kind
):
    refused(await give(client, **body), status, kind)
    assert rows.conn.execute("SELECT count(*) FROM command").fetchone() == (0,)


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b'"on"', b"\xff", b'{"kind": "config", "parameters": {"x": NaN}}']
)
async def test_what_is_no_command_is_refused(client, rows, plug, raw):
    answer = await client.post(
        "/api/v1/devices/Plug/commands", content=raw, headers={"Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert rows.conn.execute("SELECT count(*) FROM command").fetchone() == (0,)


async def test_a_device_that_is_not_there_or_offline(client, rows, plug):
    refused(await give(client, "nobody", kind="on"), 404, "not-found")
    said(rows, plug, "online", False)
    refused(await give(client, kind="on"), 409, "device-offline")
    answer = await give(client, kind="on", queue_while_offline=True)
    assert answer.status_code == 202
    cancelled = await client.post(f"/api/v1/commands/{answer.json()['id']}/cancel")
    assert cancelled.json()["state"] == "cancelled"


async def test_too_soon_says_when(client, rows, plug):
    set_switch_interval(rows.conn, 60, device_id=plug)
    await give(client, kind="on")
    answer = await give(client, kind="off")
    refused(answer, 429, "too-soon")
    assert 50 < int(answer.headers["retry-after"]) <= 60
    limit = await client.put("/api/v1/devices/Plug/command-limit", json={"switch_interval_s": 0})
    assert limit.json() == {"switch_interval_s": 0}
    assert (await give(client, kind="off")).status_code == 202


async def test_a_toggle_of_an_unknown_relay_is_refused(client, rows):
    rows.device("tasmota:new", name="New")
    refused(await give(client, "New", kind="toggle"), 409, "unknown-state")


async def test_what_is_on_its_way_is_not_cancelled(client, rows, plug):
    command = (await give(client, kind="on")).json()
    rows.conn.execute("UPDATE command SET requested_at = now()")
    refused(await client.post(f"/api/v1/commands/{command['id']}/cancel"), 409, "not-cancellable")
    unknown = "01930000-0000-7000-8000-000000000000"
    refused(await client.post(f"/api/v1/commands/{unknown}/cancel"), 404, "not-found")
    refused(await client.get(f"/api/v1/commands/{unknown}"), 404, "not-found")
    refused(await client.get("/api/v1/commands/7"), 422, "invalid-request")


async def test_powertrack_s_own_call(client, rows, plug):
    async def old(**body: object) -> httpx.Response:
        return await client.post("/api/v1/devices/Plug/command", json=body)

    answer = (await old(command="toggle")).json()
    assert (answer["success"], answer["newState"]) == (True, "on")
    assert (await old(command="off", relay=0)).json()["newState"] == "off"
    refused(await old(command="off", relay=5), 422, "unknown-relay")
    refused(await old(command="reboot"), 422, "invalid-request")
    history = (await client.get("/api/v1/devices/Plug/commands")).json()["items"]
    assert [(one["kind"], one["asked"]) for one in history] == [("off", "off"), ("on", "toggle")]


async def test_several_devices_need_a_confirmation_and_answer_one_by_one(client, rows, plug):
    away = rows.device("shelly:away", name="Away")
    said(rows, away, "online", False)
    body = {"kind": "off", "devices": ["Plug", "Away", "nobody", str(plug)]}
    refused(await client.post("/api/v1/commands", json=body), 422, "not-confirmed")
    body["confirm"] = True
    answer = await client.post(
        "/api/v1/commands", json=body, headers={"Idempotency-Key": "all-off"}
    )
    assert answer.status_code == 202
    document = answer.json()
    assert [one["device_id"] for one in document["items"]] == [plug]
    assert {one["device"]: one["problem"] for one in document["refused"]} == {
        "Away": "device-offline",
        "nobody": "not-found",
    }
    again = await client.post("/api/v1/commands", json=body, headers={"Idempotency-Key": "all-off"})
    assert again.json()["items"] == document["items"]
    body["devices"] = ["Away"]
    none = refused(await client.post("/api/v1/commands", json=body), 409, "none-accepted")
    assert none["refused"][0]["problem"] == "device-offline"


async def test_history_comes_in_pages(client, rows, plug):
    for _ in range(5):
        await give(client, kind="on")
    seen, cursor = [], None
    while True:
        query = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = (await client.get("/api/v1/devices/Plug/commands", params=query)).json()
        seen += [one["seq"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1]
    refused(await client.get("/api/v1/devices/Plug/commands?cursor=x"), 400, "bad-cursor")


async def test_who_switched_is_told(client, rows, plug):
    for number in range(3):
        rows.insert(
            "switch_event",
            device_id=plug,
            channel="switch:0",
            at=f"2026-11-21T0{number}:00:00Z",
            was_on=bool(number % 2),
            is_on=not number % 2,
            by_kind="wall switch",
            by_whom="button",
        )
    page = (await client.get("/api/v1/devices/Plug/switches?limit=2")).json()
    assert [one["is_on"] for one in page["items"]] == [True, False]
    assert page["items"][0]["by"] == "wall switch"
    cursor = page["next_cursor"]
    rest = (await client.get("/api/v1/devices/Plug/switches", params={"cursor": cursor})).json()
    assert [one["was_on"] for one in rest["items"]] == [False]
