"""Repairs of registers page by page, and registers beside power day by day."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx
import pytest

from api.routes.registers import OutcomeName, Reconciliation, RepairPage
from schemas.usage import Why
from streams.reconcile import Outcome

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

T0 = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
WH = 10**6
URL = "/api/v1/devices/meter"
DAY = "from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z"


def repair(rows: Any, channel: int, at: datetime, **more: object) -> None:
    columns: dict[str, object] = {
        "is_export": False,
        "start_at": at - 5 * SECOND,
        "end_at": at,
        "why": int(Why.REGISTER_RESET),
        "energy_uwh": 5 * WH,
        "before_uwh": 1005 * WH,
        "after_uwh": 1 * WH,
        "changed_offset": 77,
    }
    rows.insert("register_repair", channel_id=channel, at=at, **(columns | more))


@pytest.fixture
def channels(rows: Any) -> dict[str, int]:
    device = rows.device("homesync:h1/meter", name="meter")
    other = rows.channel(rows.device("homesync:h1/other"), "total")
    repair(rows, other, T0)
    return {name: rows.channel(device, name) for name in ("total", "l1")}


async def test_a_repair_says_what_when_why_and_how_much(
    client: httpx.AsyncClient, rows: Any, channels: dict[str, int]
):
    repair(rows, channels["l1"], T0, is_export=True)
    spike = {"why": int(Why.REGISTER_SPIKE), "energy_uwh": 0, "after_uwh": 999_999 * WH}
    repair(rows, channels["total"], T0 + MINUTE, end_at=T0 + MINUTE + 5 * SECOND, **spike)
    answer = await client.get(f"{URL}/repairs?{DAY}")
    assert answer.status_code == 200, answer.text
    RepairPage.model_validate_json(answer.content)
    page = answer.json()
    assert {key: page[key] for key in page if key != "items"} == {
        "device_id": 1,
        "from": "2026-03-01T00:00:00Z",
        "to": "2026-03-02T00:00:00Z",
        "next_cursor": None,
    }
    reset, passed_over = page["items"]
    assert reset == {
        "channel": "l1",
        "register": "export",
        "why": "register_reset",
        "at": "2026-03-01T08:00:00Z",
        "start": "2026-03-01T07:59:55Z",
        "end": "2026-03-01T08:00:00Z",
        "before_wh": 1005.0,
        "after_wh": 1.0,
        "energy_wh": 5.0,
        "added_wh": 1009.0,
        "text": "the export register began anew at 0, from 1,005 Wh to 1 Wh: 5 Wh counted, "
        "4 Wh of it known by power",
    }
    assert (passed_over["why"], passed_over["added_wh"]) == ("register_spike", 0.0)
    assert passed_over["end"] == "2026-03-01T08:01:05Z"


async def test_pages_of_repairs_give_each_once_in_order(
    client: httpx.AsyncClient, rows: Any, channels: dict[str, int]
):
    for k in range(4):
        for channel in channels.values():
            repair(rows, channel, T0 + k * MINUTE)
            repair(rows, channel, T0 + k * MINUTE, is_export=True)
    seen, cursor = [], ""
    for _ in range(6):
        answer = await client.get(f"{URL}/repairs?{DAY}&limit=3{cursor}")
        page = answer.json()
        seen += [(one["at"], one["channel"], one["register"]) for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 16
    assert [at for at, _, _ in seen] == sorted(at for at, _, _ in seen)
    only = await client.get(f"{URL}/repairs?{DAY}&channel=l1")
    assert {one["channel"] for one in only.json()["items"]} == {"l1"}
    early = await client.get(f"{URL}/repairs?from=2026-03-01T08:01:00Z&to=2026-03-01T08:02:00Z")
    assert len(early.json()["items"]) == 4
    assert (await client.get(f"{URL}/repairs?{DAY}&limit=4{cursor}x")).status_code == 400
    assert (await client.get(f"{URL}/repairs?channel=l9")).status_code == 422
    assert (await client.get("/api/v1/devices/nobody/repairs")).status_code == 404


async def test_a_register_beside_power_by_civil_day(
    client: httpx.AsyncClient, rows: Any, channels: dict[str, int]
):
    #  Bangkok's midnight is 17:00 UTC. 600 W: 10 Wh a minute; the register says 10.5
    midnight = datetime(2026, 3, 1, 17, 0, tzinfo=UTC)
    for k in range(-20, 11):
        at = midnight + k * MINUTE
        register_wh = 1000 + 10.5 * k
        rows.reading(channels["total"], at, power_w=600.0, import_total_wh=register_wh)
        rows.reading(channels["l1"], at, power_w=200.0)
    for name, has_import in (("total", True), ("l1", False)):
        rows.progress(channels[name], midnight, midnight, midnight)
        rows.conn.execute(
            "UPDATE channel_state SET has_import = %s WHERE channel_id = %s",
            [has_import, channels[name]],
        )
    query = "from=2026-03-01T16:00:00Z&to=2026-03-01T17:05:00Z"
    answer = await client.get(f"{URL}/reconciliation?{query}")
    assert answer.status_code == 200, answer.text
    Reconciliation.model_validate_json(answer.content)
    page = answer.json()
    assert (page["from"], page["to"], page["zone"]) == (
        "2026-02-28T17:00:00Z", "2026-03-02T17:00:00Z", "Asia/Bangkok",
    )  # fmt: skip
    shown = {(one["day"], one["channel"]): one for one in page["items"]}
    assert len(shown) == len(page["items"]) == 4
    first = shown["2026-03-01", "total"]
    assert first == {
        "channel": "total",
        "register": "import",
        "day": "2026-03-01",
        "start": "2026-02-28T17:00:00Z",
        "end": "2026-03-01T17:00:00Z",
        "outcome": "compared",
        "register_wh": 210.0,
        "power_wh": 200.0,
        "drift_wh": -10.0,
        "drift_percent": -4.762,
        "compared_s": 1200.0,
        "left_out_wh": 0.0,
        "repaired": 0,
        "text": "power says 10 Wh less than the import register's 210 Wh (-4.762 %) in 0.3 h",
    }
    assert shown["2026-03-02", "total"]["register_wh"] == 105.0
    assert shown["2026-03-01", "l1"]["outcome"] == "no_register"
    assert "by power alone" in shown["2026-03-01", "l1"]["text"]
    empty = await client.get(f"{URL}/reconciliation?channel=l1&{DAY.replace('-03-', '-01-')}")
    assert {one["outcome"] for one in empty.json()["items"]} == {"no_readings"}


async def test_more_days_than_can_be_compared_at_once_are_refused(
    client: httpx.AsyncClient, channels: dict[str, int]
):
    answer = await client.get(
        f"{URL}/reconciliation?from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z"
    )
    assert answer.status_code == 422
    assert "60 days of 2 channels are more than 62" in answer.json()["detail"]


def test_every_outcome_is_in_the_contract():
    assert set(get_args(OutcomeName)) == {one.value for one in Outcome}
