"""Homes over the API: set up, billed by, counted from, compared, analysed."""

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from api import home_models as models
from schemas.usage import Quality
from tests.api.conftest import Rows, Serve

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

URL = "/api/v1/homes/h1"
QUARTER = timedelta(minutes=15)
START = datetime(2026, 2, 5, 17, tzinfo=UTC)  # midnight in Bangkok
DAY = "from=2026-02-05T17:00:00Z&to=2026-02-06T17:00:00Z"
KWH = 10**9


async def put(client: httpx.AsyncClient, path: str, status: int = 200, **body: object) -> Any:
    answer = await client.put(f"{URL}{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    answer = await client.get(f"{URL}{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
async def main(client: httpx.AsyncClient, rows: Rows) -> int:
    """A home with a meter whose first three quarter hours are 1, 2 and 3 kWh."""
    device_id = rows.device("homesync:h1/main", name="Main", home_id="h1")
    channel_id = rows.channel(device_id, "total")
    for number, quality in enumerate((Quality.MEASURED, Quality.INTERPOLATED, Quality.MEASURED)):
        rows.usage(
            "usage_15m",
            channel_id,
            START + number * QUARTER,
            (number + 1) * KWH,
            export_uwh=KWH // 4,
            quality=quality,
        )
    await put(client, "", name="House")
    await put(client, "/meters", device="Main", role="grid")
    return channel_id


async def test_a_home_is_set_up_once_and_changed_by_what_is_said(client: httpx.AsyncClient):
    assert (await get(client, "", 404))["detail"].startswith("no home 'h1' is set up")
    made = await put(client, "", name="บ้าน")
    assert made == {"home_id": "h1", "name": "บ้าน", "zone": "Asia/Bangkok"}
    assert await put(client, "", zone="Europe/Berlin") == made | {"zone": "Europe/Berlin"}
    assert await get(client, "") == made | {"zone": "Europe/Berlin"}
    assert (await client.get("/api/v1/homes")).json() == {
        "items": [made | {"zone": "Europe/Berlin"}]
    }
    refused = await put(client, "", 422, zone="Asia/Bangkog")
    assert "did you mean Asia/Bangkok" in refused["detail"]
    await put(client, "", 422, name="a\0b")
    await put(client, "", 422, owner="me")


async def test_a_contract_that_does_not_fit_is_refused_and_nothing_is_kept(
    client: httpx.AsyncClient,
):
    await put(client, "/contracts", 404, tariff_id="mea-1.2", valid_from="2026-01-01", ampere_a=15)
    await put(client, "")
    for wanted, kind, body in (
        ("known are mea-1.1", "unknown-tariff", {"tariff_id": "mea-7"}),
        ("give its ampere", "invalid-request", {"tariff_id": "mea-1.2"}),
        ("32", "invalid-request", {"tariff_id": "mea-1.3.1", "cycle_day": 32}),
    ):
        refused = await put(client, "/contracts", 422, valid_from="2026-01-01", **body)
        assert refused["type"].endswith(kind)
        assert wanted in refused["detail"] or kind == "invalid-request"
    for strange in ({"valid_from": "0001-01-01"}, {"ampere_a": "1e-9999"}, {"ampere_a": "NaN"}):
        body = {"tariff_id": "mea-1.2", "valid_from": "2026-01-01", "ampere_a": "15"} | strange
        await put(client, "/contracts", 422, **body)
    assert await get(client, "/contracts") == {"items": []}


async def test_contracts_are_set_replaced_and_removed(client: httpx.AsyncClient):
    await put(client, "")
    first = {"tariff_id": "mea-1.2", "valid_from": "2026-01-01", "cycle_day": 5, "ampere_a": "15"}
    second = first | {"tariff_id": "mea-1.3.2", "valid_from": "2026-06-01", "ampere_a": None}
    assert await put(client, "/contracts", **first) == {"items": [first]}
    assert await put(client, "/contracts", **second) == {"items": [first, second]}
    assert await put(client, "/contracts", **second) == {"items": [first, second]}
    assert "contracts" in (await put(client, "", 422, zone="Europe/Berlin"))["detail"]
    gone = await client.delete(f"{URL}/contracts?valid_from=2026-01-01")
    assert (gone.status_code, gone.content) == (204, b"")
    assert await get(client, "/contracts") == {"items": [second]}
    again = await client.delete(f"{URL}/contracts?valid_from=2026-01-01")
    assert again.status_code == 422


async def test_meters_are_set_ended_and_removed(client: httpx.AsyncClient, main: int, rows: Rows):
    rows.channel(1, "l1")
    (only,) = (await get(client, "/meters"))["items"]
    assert models.Meter.model_validate(only).valid_from == datetime(1970, 1, 1, tzinfo=UTC)
    again = await put(client, "/meters", device="homesync:h1/main", channel="total", role="grid")
    assert again == {"items": [only]}
    refused = await put(client, "/meters", 409, device="Main", channel="l1", role="grid")
    assert refused["type"].endswith("ambiguous-meters")
    assert (await get(client, "/meters"))["items"] == [only], "the refused one is not kept"
    refused = await put(client, "/meters", 404, device="Nobody", role="grid")
    assert "did you mean" in refused["detail"] or "list of devices" in refused["detail"]
    until = "2026-02-05T17:30:00Z"
    ended = await put(client, "/meters", device="Main", role="grid", valid_to=until)
    assert ended["items"][0]["valid_to"] == until
    after = await put(client, "/meters", device="Main", channel="l1", role="grid", valid_from=until)
    assert len(after["items"]) == 2
    for channel in ("total", "l1"):
        gone = await client.delete(f"{URL}/meters?device=Main&channel={channel}")
        assert gone.status_code == 204, gone.text
    missing = await get(client, f"/usage?{DAY}", 409)
    assert missing["type"].endswith("no-meter")


async def test_requests_at_once_do_not_make_a_home_contradict_itself(
    client: httpx.AsyncClient, rows: Rows
):
    device_id = rows.device("homesync:h1/main", name="Main", home_id="h1")
    for name in ("total", "l1", "l2", "l3"):
        rows.channel(device_id, name)
    await put(client, "")
    answers = await asyncio.gather(
        *(
            client.put(f"{URL}/meters", json={"device": "Main", "channel": name, "role": "grid"})
            for name in ("l1", "total", "l2", "l3")
        )
    )
    kept = {one["channel"] for one in (await get(client, "/meters"))["items"]}
    assert kept == {"total"} or (kept and kept <= {"l1", "l2", "l3"})
    assert sum(answer.status_code == 200 for answer in answers) == len(kept)


async def test_the_utilitys_readings_stand_beside_ours(client: httpx.AsyncClient, main: int):
    for hour, kwh in ((17, "100"), (18, "106.5")):
        body = {"read_at": f"2026-02-05T{hour}:00:00Z", "import_kwh": kwh}
        for _ in "twice":
            answer = await client.post(f"{URL}/utility-readings", json=body)
            assert answer.status_code == 201, answer.text
    low = await client.post(
        f"{URL}/utility-readings",
        json={"read_at": "2026-02-05T19:00:00Z", "import_kwh": "106.4"},
    )
    assert (low.status_code, "new one" in low.json()["detail"]) == (422, True)
    for strange in ("1e400", "-1", "Infinity", "1e-10"):
        body = {"read_at": "2026-02-05T19:00:00Z", "import_kwh": strange}
        answer = await client.post(f"{URL}/utility-readings", json=body)
        assert answer.status_code == 422, strange
    found = await get(client, "/utility-readings")
    models.UtilityReadings.model_validate(found)
    assert [one["import_kwh"] for one in found["items"]] == ["100", "106.5"]
    (row,) = found["differences"]
    assert row["import"] == {
        "utility_kwh": "6.5",
        "ours_kwh": "6",
        "difference_kwh": "0.5",
        "higher": "utility",
        "percent": "7.69",
    }
    page = await get(client, f"/usage?{DAY}")
    assert page["utility"] == found["differences"]
    gone = await client.delete(f"{URL}/utility-readings?read_at=2026-02-05T17:00:00Z")
    assert gone.status_code == 204
    assert (await get(client, "/utility-readings"))["differences"] == []


async def test_usage_of_a_home_in_each_bucket(client: httpx.AsyncClient, main: int):
    for bucket, label in (("15m", "2026-02-06T00:00:00+07:00"), ("1d", "2026-02-06"),
                          ("1mo", "2026-02"), ("1y", "2026")):  # fmt: skip
        page = await get(client, f"/usage?{DAY}&bucket={bucket}")
        models.HomeUsagePage.model_validate(page)
        assert page["items"][0]["label"] == label
        assert sum(float(one["energy_kwh"]) for one in page["items"]) == 6
    first, second, third, silent = (await get(client, f"/usage?{DAY}&bucket=15m"))["items"][:4]
    assert (first["energy_kwh"], first["export_kwh"], first["max_kw"]) == ("1", "0.25", "4")
    assert second["quality"] == "interpolated"
    assert (third["energy_kwh"], third["incomplete_quarters"]) == ("3", 0)
    assert (silent["quality"], silent["incomplete_quarters"]) == ("provisional", 1)
    none = await get(client, f"/usage?{DAY}&bucket=cycle", 409)
    assert "set a contract" in none["detail"]
    await put(client, "/contracts", tariff_id="mea-1.3.1", valid_from="2026-01-01", cycle_day=5)
    page = await get(client, f"/usage?{DAY}&bucket=cycle")
    assert [(one["label"], one["energy_kwh"]) for one in page["items"]] == [("2026-03", "6")]


async def test_usage_as_csv_holds_the_same_rows(client: httpx.AsyncClient, main: int):
    answer = await client.get(f"{URL}/usage?{DAY}&bucket=15m&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    told = list(csv.DictReader(io.StringIO(answer.text)))
    rows = (await get(client, f"/usage?{DAY}&bucket=15m"))["items"]
    assert [one["energy_kwh"] for one in told] == [one["energy_kwh"] for one in rows]
    assert told[1]["start"] == "2026-02-06T00:15:00+07:00"
    assert len(told) == 96


@pytest.mark.parametrize("home_id", ["%00", "%0A", "%ED%A0%80", "x" * 201, "' OR true --"])
async def test_a_strange_home_is_not_found_nor_set_up(client: httpx.AsyncClient, home_id: str):
    for path in ("", "/contracts", "/usage", "/demand"):
        answer = await client.get(f"/api/v1/homes/{home_id}{path}")
        assert answer.status_code in (404, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    if home_id in ("%00", "%0A", "x" * 201):
        assert (await client.put(f"/api/v1/homes/{home_id}", json={})).status_code == 422


async def test_a_range_too_long_is_refused(client: httpx.AsyncClient, main: int):
    for query in ("from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
                  "bucket=15m&from=2025-01-01T00:00:00Z&to=2026-01-01T00:00:00Z"):  # fmt: skip
        assert "from" in (await get(client, f"/usage?{query}", 422))["detail"]


async def test_analyses_answer_as_they_are_described(client: httpx.AsyncClient, main: int):
    found = await get(client, f"/demand?{DAY}")
    models.DemandAnalysis.model_validate(found)
    assert (found["whole"]["max_kw"], found["whole"]["max_at"]) == ("12", "2026-02-05T17:30:00Z")
    await put(client, "/contracts", tariff_id="mea-1.3.1", valid_from="2026-01-01")
    found = await get(client, f"/peaks?{DAY}")
    models.PeakAnalysis.model_validate(found)
    assert [(part["name"], part["energy_kwh"]) for part in found["periods"]] == [
        ("off_peak", "6"),
        ("on_peak", "0"),
    ]
    found = await get(client, f"/circuits?{DAY}")
    models.CircuitAnalysis.model_validate(found)
    assert found["circuits"][0]["share"] == "1"
    missing = await get(client, f"/carbon?{DAY}", 409)
    assert "TH for 2026-02 is not known" in missing["detail"]
    assert "--role production" in (await get(client, f"/solar?{DAY}", 422))["detail"]
    await put(
        client, "/meters", 422, device="Main", role="production", valid_from="2026-02-05T17:01:00Z"
    )


async def test_carbon_and_sun(client: httpx.AsyncClient, main: int, rows: Rows):
    rows.insert("emission_factor", region="TH", month="2026-02-01", g_per_kwh="410.5", source="TGO")
    found = await get(client, f"/carbon?{DAY}")
    models.CarbonAnalysis.model_validate(found)
    assert found["carbon_g"] == "2463"
    roof = rows.channel(rows.device("homesync:h1/roof", name="Roof", home_id="h1"), "total")
    rows.usage("usage_15m", roof, START, KWH)
    await put(client, "/meters", device="Roof", role="production")
    found = await get(client, f"/solar?{DAY}")
    models.SolarAnalysis.model_validate(found)
    assert (found["self_use_kwh"], found["self_sufficiency"]) == ("0.75", "0.1111")


async def test_homes_are_away_while_the_database_is(serve: Serve):
    nowhere = "postgresql://meterstream@127.0.0.1:1/nowhere"
    async with serve(nowhere, pool_timeout_s=0.2) as client:
        answer = await client.put(URL, json={"name": "House"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
