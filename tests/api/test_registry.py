"""Routes of the registry: records, sensors, configuration, claims, moves, presence, models."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

T0 = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
DEVICE = "/api/v1/devices/homesync:h1/a"


async def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def refused(answer: httpx.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:meterstream:problem:{kind}"
    return str(answer.json()["detail"])


@pytest.fixture
async def homes(client: httpx.AsyncClient) -> httpx.AsyncClient:
    for home in ("h1", "h2"):
        await ok(await client.put(f"/api/v1/homes/{home}", json={}))
    return client


async def test_a_record_is_changed_shown_listed_and_deleted(homes: httpx.AsyncClient, rows: Any):
    device = rows.device("homesync:h1/a", name="A", home_id="h1", claimed_at=T0)
    changed = await ok(
        await homes.patch(DEVICE, json={"location": "Hall", "model": "PZEM-004T", "name": None})
    )
    assert (changed["name"], changed["location"], changed["model_set"]) == (
        None, "Hall", "PZEM-004T",
    )  # fmt: skip
    assert changed["contract"]["name"] == "PZEM-004T"
    shown = await ok(await homes.get(DEVICE))
    assert shown["registry"] == changed
    assert (shown["location"], shown["presence"]) == ("Hall", None)
    await refused(await homes.patch(DEVICE, json={"ip": "300.1.1.1"}), 422, "invalid-request")
    await refused(await homes.patch(DEVICE, json={"home_id": "h2"}), 422, "invalid-request")
    await refused(await homes.patch("/api/v1/devices/none", json={}), 404, "not-found")

    await ok(await homes.delete(DEVICE), 204)
    assert (await ok(await homes.get("/api/v1/devices")))["items"] == []
    (gone,) = (await ok(await homes.get("/api/v1/devices?deleted=true")))["items"]
    assert (gone["id"], gone["claimed"], gone["home_id"]) == (device, False, None)
    await refused(await homes.delete(DEVICE), 404, "not-found")


async def test_sensors_lie_beside_the_device_and_their_removal_does_not_remove_it(
    homes: httpx.AsyncClient, rows: Any
):
    rows.device("homesync:h1/a")
    sensor = {"channel": "l1", "type": "CT-clamp", "address": "GPIO34", "ct_ratio": "2000"}
    put = await ok(await homes.put(f"{DEVICE}/sensors", json=sensor))
    assert put == {"items": [sensor | {"calibration": {}}]}
    assert await ok(await homes.get(f"{DEVICE}/sensors")) == put
    bad = sensor | {"ct_ratio": "-1"}
    await refused(await homes.put(f"{DEVICE}/sensors", json=bad), 422, "invalid-request")
    query = {"channel": "l1", "type": "CT-clamp"}
    await ok(await homes.delete(f"{DEVICE}/sensors", params=query), 204)
    await refused(await homes.delete(f"{DEVICE}/sensors", params=query), 404, "not-found")
    assert (await ok(await homes.get(DEVICE)))["address"] == "homesync:h1/a"


async def test_a_configuration_has_versions(homes: httpx.AsyncClient, rows: Any):
    rows.device("homesync:h1/a")
    empty = await ok(await homes.get(f"{DEVICE}/config"))
    assert (empty["desired"], empty["in_step"]) == (None, True)
    for seconds in (10, 10, 30):
        body = {"config": {"interval_s": seconds}}
        shown = await ok(await homes.put(f"{DEVICE}/config", json=body))
    assert (shown["desired"]["version"], shown["in_step"]) == (2, False)
    assert shown["differences"] == [{"setting": "interval_s", "desired": 30, "reported": None}]
    versions = (await ok(await homes.get(f"{DEVICE}/config/versions")))["items"]
    assert [(one["version"], one["config"]["interval_s"]) for one in versions] == [(2, 30), (1, 10)]
    deep: dict[str, Any] = {"config": {"a": {"b": {"c": {"d": {"e": 1}}}}}}
    await refused(await homes.put(f"{DEVICE}/config", json=deep), 422, "invalid-request")


async def test_a_code_claims_and_guessing_is_cut_off(homes: httpx.AsyncClient, rows: Any):
    rows.device("homesync:h1/a")
    made = await ok(await homes.post(f"{DEVICE}/claim-code", json={}), 201)
    wrong = {"code": "AAAAAAAA", "home_id": "h1"}
    for _ in range(10):
        await refused(await homes.post("/api/v1/claims", json=wrong), 409, "bad-claim")
    answer = await homes.post("/api/v1/claims", json=wrong | {"code": made["code"]})
    await refused(answer, 429, "too-many-requests")
    assert int(answer.headers["retry-after"]) == 900
    rows.conn.execute("DELETE FROM claim_attempt")
    claim = {"code": made["code"].lower(), "home_id": "h1", "name": "Meter"}
    claimed = await ok(await homes.post("/api/v1/claims", json=claim))
    assert (claimed["home_id"], claimed["name"]) == ("h1", "Meter")
    await refused(await homes.post(f"{DEVICE}/claim-code", json={}), 409, "already-claimed")
    nowhere = claim | {"home_id": "h9"}
    await refused(await homes.post("/api/v1/claims", json=nowhere), 404, "not-found")


async def test_the_button_claims(homes: httpx.AsyncClient, rows: Any):
    device = rows.device("homesync:h1/a")
    asked = {"device": "homesync:h1/a", "home_id": "h2", "name": "Meter"}
    proof = await ok(await homes.post("/api/v1/claims/proofs", json=asked), 201)
    where = f"/api/v1/claims/proofs/{proof['proof_id']}"
    assert await ok(await homes.post(where)) == {"device": None}
    rows.conn.execute(
        "INSERT INTO device_event VALUES (0, 7, 0, %s, NULL, 'sys_btn_push', now(), '{}')", [device]
    )
    claimed = (await ok(await homes.post(where)))["device"]
    assert (claimed["home_id"], claimed["name"]) == ("h2", "Meter")
    await refused(await homes.post(where), 409, "bad-claim")


async def test_a_device_moves(homes: httpx.AsyncClient, rows: Any):
    rows.device("homesync:h1/a", home_id="h1", claimed_at=T0)
    body = {"home_id": "h2", "at": T0.isoformat()}
    moved = await ok(await homes.post(f"{DEVICE}/move", json=body))
    assert [(one["home_id"], one["valid_to"] is None) for one in moved["items"]] == [
        ("h1", False), ("h2", True),
    ]  # fmt: skip
    assert await ok(await homes.get(f"{DEVICE}/owners")) == moved
    await refused(await homes.post(f"{DEVICE}/move", json=body), 409, "bad-move")
    assert (await ok(await homes.get("/api/v1/devices?home=h2")))["items"][0]["id"] == 1


async def test_presence_has_changes_and_gaps(homes: httpx.AsyncClient, rows: Any):
    device = rows.device("homesync:h1/a", home_id="h1", claimed_at=T0)
    minute = timedelta(minutes=1)
    told = [("online", T0, None), ("late", T0 + 5 * minute, T0 + 4 * minute),
            ("offline", T0 + 9 * minute, T0 + 4 * minute),
            ("online", T0 + 30 * minute, T0 + 4 * minute),
            ("offline", T0 + 50 * minute, T0 + 40 * minute)]  # fmt: skip
    for state, since_at, heard_at in told:
        rows.insert(
            "device_presence",
            device_id=device,
            since_at=since_at,
            state=state,
            reason="silence",
            heard_at=heard_at,
            home_id="h1",
        )
    rows.insert(
        "presence",
        device_id=device,
        part=3,
        state="offline",
        since_at=T0 + 50 * minute,
        heard_at=T0 + 40 * minute,
        folded_at=T0 + 50 * minute,
    )
    shown = await ok(await homes.get(f"{DEVICE}/presence?limit=3"))
    assert (shown["state"], shown["contract"]["late_after_s"]) == ("offline", 60)
    assert [one["state"] for one in shown["items"]] == ["offline", "online", "offline"]
    before = shown["items"][-1]["since_at"]
    older = await ok(await homes.get(f"{DEVICE}/presence", params={"before": before}))
    assert [one["state"] for one in older["items"]] == ["late", "online"]
    assert [
        (datetime.fromisoformat(one["start_at"]), one["end_at"] and one["end_at"][:16])
        for one in shown["gaps"]
    ] == [
        (T0 + 4 * minute, (T0 + 30 * minute).isoformat()[:16]),
        (T0 + 40 * minute, None),
    ]
    (listed,) = (await ok(await homes.get("/api/v1/devices")))["items"]
    assert listed["presence"] == "offline"


async def test_models_are_listed_set_and_removed(homes: httpx.AsyncClient, rows: Any):
    shipped = (await ok(await homes.get("/api/v1/models")))["items"]
    assert "family:homesync" in [one["name"] for one in shipped]
    body = {"family": "shelly", "expected_interval_s": 5, "late_after_s": 20,
            "offline_after_s": 60, "capabilities": ["relay"]}  # fmt: skip
    put = await ok(await homes.put("/api/v1/models/X-1", json=body))
    assert put == body | {"name": "X-1", "longest_gap_s": None}
    assert put in (await ok(await homes.get("/api/v1/models")))["items"]
    bad = body | {"late_after_s": 1}
    await refused(await homes.put("/api/v1/models/X-1", json=bad), 422, "invalid-request")
    await ok(await homes.delete("/api/v1/models/X-1"), 204)
    await refused(await homes.delete("/api/v1/models/X-1"), 404, "not-found")
