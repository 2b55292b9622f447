"""Devices get their accounts through the API, on the real broker."""

from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest

from api.app import create_app
from api.settings import ApiSettings
from infra.local import Stack
from infra.local.broker import accounts_connection
from tests.infra.broker_clients import NOT_AUTHORIZED, connected, is_refused

pytestmark = [pytest.mark.anyio, pytest.mark.stack, pytest.mark.timeout(600)]

TOKEN = "open-sesame-0123456789"
KITCHEN = {"node_id": "kitchen", "name": "Kitchen", "home_id": "home-1", "location": "1st floor"}


@pytest.fixture
async def client(stack: Stack, migrated: str, rows: object) -> AsyncIterator[httpx.AsyncClient]:
    settings = ApiSettings.model_validate({"token": TOKEN})
    app = create_app(settings, migrated, accounts_connection(stack.settings))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://127.0.0.1:8080",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        ) as one,
    ):
        yield one


def account_of(config: dict[str, str]) -> dict[str, str]:
    return {"user": config["user"], "password": config["token"], "client_id": config["clientId"]}


async def test_a_device_is_provisioned_and_connects_with_what_it_was_told(client, stack, migrated):
    answer = await client.post("/api/v1/devices", json=KITCHEN)
    assert answer.status_code == 201, answer.text
    document = answer.json()
    device_id = document["device"]["id"]
    assert document["device"] == {
        "id": device_id,
        "address": "homesync:home-1/kitchen",
        "name": "Kitchen",
        "home_id": "home-1",
        "location": "1st floor",
    }
    config = document["mqttConfig"]
    assert len(config["token"]) == 64
    assert (config["host"], config["port"], config["tls"]) == (
        "127.0.0.1",
        stack.settings.mqtt_tls_port,
        True,
    )
    assert config["caPem"].startswith("-----BEGIN CERTIFICATE-----")
    base = "homesync/home-1/nodes/kitchen"
    assert f"{base}/telemetry/#" in config["topics"]["publish"]
    assert config["topics"]["subscribe"][:2] == [f"{base}/command/#", f"{base}/ack"]

    with connected(stack, **account_of(config)) as device:
        assert device.publish(f"{base}/telemetry/main") in (0, 16)
        assert device.publish("homesync/home-1/nodes/bath/telemetry/main") == NOT_AUTHORIZED

    with psycopg.connect(migrated) as conn:
        stored = conn.execute("SELECT mqtt_account::text FROM mqtt_account").fetchall()
    assert config["token"] not in str(stored)
    shown = (await client.get("/api/v1/accounts")).text
    assert config["token"] not in shown


async def test_the_list_tells_what_became_of_accounts(client, stack):
    config = (await client.post("/api/v1/devices", json=KITCHEN)).json()["mqttConfig"]
    other = KITCHEN | {"node_id": "w1", "name": "Socket", "family": "wattaway"}
    assert (await client.post("/api/v1/devices", json=other)).status_code == 201
    assert (await client.delete("/api/v1/devices/Kitchen/account")).status_code == 204
    listed = (await client.get("/api/v1/accounts")).json()["items"]
    assert [(one["address"], one["state"]) for one in listed] == [
        ("homesync:home-1/kitchen", "revoked"),
        ("wattaway:w1", "active"),
    ]
    assert is_refused(stack, **account_of(config))

    answer = await client.delete("/api/v1/devices/Kitchen/account")
    assert (answer.status_code, answer.json()["status"]) == (404, 404)
    again = await client.post("/api/v1/devices", json=KITCHEN)
    assert again.status_code == 201
    assert again.json()["mqttConfig"]["user"] == config["user"]
    assert not is_refused(stack, **account_of(again.json()["mqttConfig"]))


async def test_a_new_token_replaces_the_old(client, stack):
    old = (await client.post("/api/v1/devices", json=KITCHEN)).json()["mqttConfig"]
    answer = await client.post("/api/v1/devices/homesync:home-1/kitchen/token")
    assert answer.status_code == 200, answer.text
    new = answer.json()["mqttConfig"]
    assert {**new, "token": ""} == {**old, "token": ""}
    assert is_refused(stack, **account_of(old))
    assert not is_refused(stack, **account_of(new))


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"node_id": "a/b"}, 422, "invalid-request"),
        ({"node_id": "+"}, 422, "invalid-request"),
        ({"node_id": "A"}, 422, "invalid-request"),
        ({"home_id": "#"}, 422, "invalid-request"),
        ({"home_id": "%u"}, 422, "invalid-request"),
        ({"family": "http"}, 422, "not-provisionable"),
        ({"family": "shelly", "node_id": "homesync"}, 422, "not-provisionable"),
        ({"colour": "red"}, 422, "invalid-request"),
        ({}, 409, "already-provisioned"),
        ({"node_id": "bath"}, 409, "name-taken"),
        ({"family": "wattaway", "name": "Plug", "node_id": "w1"}, 201, None),
        ({"family": "home", "name": "Thai", "node_id": "t1", "home_id": "home-2"}, 409,
         "name-taken"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_with_a_reason(client, change, status, kind):
    assert (await client.post("/api/v1/devices", json=KITCHEN)).status_code == 201
    thai = {"node_id": "t1", "name": "T", "home_id": "home-1", "family": "home"}
    assert (await client.post("/api/v1/devices", json=thai)).status_code == 201
    before = (await client.get("/api/v1/accounts")).json()
    answer = await client.post("/api/v1/devices", json=KITCHEN | change)
    assert answer.status_code == status, answer.text
    if kind is not None:
        assert answer.json()["type"] == f"urn:meterstream:problem:{kind}"
        assert (await client.get("/api/v1/accounts")).json() == before


async def test_a_device_of_another_home_is_not_taken(client):
    socket = {"node_id": "w1", "name": "Socket", "home_id": "home-1", "family": "wattaway"}
    assert (await client.post("/api/v1/devices", json=socket)).status_code == 201
    assert (await client.delete("/api/v1/devices/Socket/account")).status_code == 204
    answer = await client.post("/api/v1/devices", json=socket | {"home_id": "home-2"})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        409,
        "already-provisioned",
    )


async def test_without_the_broker_it_says_when_to_come_back_and_changes_nothing(client, stack):
    config = (await client.post("/api/v1/devices", json=KITCHEN)).json()["mqttConfig"]
    before = (await client.get("/api/v1/accounts")).json()
    devices = (await client.get("/api/v1/devices")).json()
    stack.stop_process("mosquitto")
    try:
        for answer in (
            await client.post("/api/v1/devices", json=KITCHEN | {"node_id": "b", "name": "B"}),
            await client.post("/api/v1/devices/Kitchen/token"),
            await client.delete("/api/v1/devices/Kitchen/account"),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.json()["type"] == "urn:meterstream:problem:broker-away"
            assert int(answer.headers["retry-after"]) > 0
    finally:
        stack.start_process("mosquitto")
    assert (await client.get("/api/v1/accounts")).json() == before
    assert (await client.get("/api/v1/devices")).json() == devices
    assert not is_refused(stack, **account_of(config))


async def test_a_devices_token_opens_what_is_its_own_over_http(client):
    kitchen = (await client.post("/api/v1/devices", json=KITCHEN)).json()
    attic = {**KITCHEN, "node_id": "attic", "name": "Attic"}
    other = (await client.post("/api/v1/devices", json=attic)).json()
    own, others = (f"/api/v1/devices/{one['device']['id']}" for one in (kitchen, other))
    token = {"Authorization": f"Bearer {kitchen['mqttConfig']['token']}"}

    async def status(method: str, path: str) -> int:
        return int((await client.request(method, path, headers=token)).status_code)

    assert [await status("GET", own + path) for path in ("", "/config", "/commands")] == [200] * 3
    for path in (
        *(f"{own}/readings?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", f"{own}/switches"),
        *(others, f"{others}/commands", "/api/v1/devices", "/api/v1/devices/nobody"),
        *("/api/v1/homes", "/api/v1/accounts", "/api/v1/openapi.json"),
    ):
        assert await status("GET", path) == 403, path
    assert await status("POST", f"{own}/commands") == 403
    assert await status("PATCH", own) == 403
    refused = await client.get(others, headers=token)
    assert refused.json()["detail"].startswith(
        "a device's token opens GET /api/v1/devices/<itself>"
    )

    assert (await client.delete(f"{own}/account")).status_code in (200, 204)
    assert await status("GET", own) == 401
