"""Running cost and budgets over the API; the cost process is called by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from api import cost_models as models
from schemas import cost as schemas
from streams.cost.job import CostJob
from streams.tariffs.loading import known_tariffs
from tests.api.conftest import Rows

pytestmark = [pytest.mark.stack, pytest.mark.anyio]

URL = "/api/v1/homes/h1"
QUARTER = timedelta(minutes=15)
FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
KWH = 10**9


async def ask(
    client: httpx.AsyncClient, method: str, path: str, status: int = 200, **more: Any
) -> Any:
    answer = await client.request(method, f"{URL}{path}", **more)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


@pytest.fixture
async def home(client: httpx.AsyncClient, rows: Rows) -> str:
    """Four quarter hours of 1 kWh on 1 February, under mea-1.2."""
    channel_id = rows.channel(rows.device("homesync:h1/main", name="Main", home_id="h1"), "total")
    for number in range(4):
        rows.usage("usage_15m", channel_id, FEBRUARY + number * QUARTER, KWH)
    await ask(client, "PUT", "", json={})
    await ask(client, "PUT", "/meters", json={"device": "Main", "role": "grid"})
    terms = {"valid_from": "2026-01-01", "tariff_id": "mea-1.2", "ampere_a": "30"}
    await ask(client, "PUT", "/contracts", json=terms)
    return "h1"


def work_off(conn: psycopg.Connection[Any]) -> None:
    """What the cost process does when it has heard of changed terms."""
    job = CostJob(conn, known_tariffs())
    while job.terms_changed():
        pass


async def test_the_running_cost_is_that_of_the_newest_quarter_hour(
    client: httpx.AsyncClient, rows: Rows, home: str
):
    unseen = await ask(client, "GET", "/cost")
    assert (unseen["state"], unseen["cycle"]) == ("no_energy", None)
    assert "not seen" in unseen["problem"]
    work_off(rows.conn)
    shown = await ask(client, "GET", "/cost")
    assert (shown["state"], shown["at"]) == ("running", "2026-01-31T18:00:00Z")
    assert (shown["tariff_id"], shown["currency"], shown["month"]) == ("mea-1.2", "THB", "2026-02")
    #  4 × 3.2484 = 12.99, 4 × 0.0972 = 0.39, service 24.62; (13.38 + 24.62) × 1.07 = 40.66
    assert shown["cycle"]["with_service"] == "40.66"
    assert shown["cycle"]["cost"] == "14.32"
    assert shown["cycle"]["energy_kwh"] == "4"
    assert shown["today"] == shown["cycle"]
    assert shown["quarter"]["energy_kwh"] == "1"
    assert shown["projected"]["method"] == "mean"
    assert shown["projected"]["end_at"] == "2026-02-28T17:00:00Z"
    assert (await ask(client, "GET", "/cost"))["revision"] == 1


async def test_budgets_are_set_stand_and_go(client: httpx.AsyncClient, rows: Rows, home: str):
    day = {"name": "day", "period": "day", "energy_kwh": "5", "valid_from": "2026-01-01"}
    month = {"name": "month", "period": "month", "amount": 1000, "valid_from": "2026-01-01"}
    await ask(client, "PUT", "/budgets", json=day)
    both = await ask(client, "PUT", "/budgets", json=month)
    assert [one["status"] for one in both["items"]] == [None, None]
    assert both["items"][1]["amount"] == "1000"
    assert both == await ask(client, "PUT", "/budgets", json=month), "idempotent"
    work_off(rows.conn)
    shown = await ask(client, "GET", "/budgets")
    status = shown["items"][0]["status"]
    assert (status["used"], status["limit"], status["unit"]) == ("4", "5", "kWh")
    assert (status["warned"], status["exceeded"], status["projected_to_exceed"]) == (
        True,
        False,
        True,
    )
    assert shown["items"][1]["status"]["used"] == "40.66"
    raised = {(one["name"], one["level"]) for one in shown["alerts"]}
    assert raised == {("day", "warned"), ("day", "projected"), ("month", "projected")}
    assert (await ask(client, "GET", "/cost"))["budgets"] == [
        one["status"] for one in shown["items"]
    ]
    await ask(client, "DELETE", "/budgets", 204, params={"name": "day"})
    gone = await ask(client, "DELETE", "/budgets", 404, params={"name": "day"})
    assert "budget list" in gone["detail"]
    left = await ask(client, "GET", "/budgets")
    assert [one["name"] for one in left["items"]] == ["month"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "b", "period": "day"}, "one of them"),
        ({"name": "b", "period": "day", "amount": "0"}, "above 0"),
        ({"name": "b", "period": "week", "amount": "5"}, "period"),
        ({"name": "", "period": "day", "amount": "5"}, "name"),
        ({"name": "b", "period": "day", "amount": "NaN"}, "amount"),
        ({"name": "b", "period": "day", "amount": "5", "per": "x"}, "leave it out"),
    ],
)
async def test_a_budget_that_cannot_be_is_refused(
    client: httpx.AsyncClient, home: str, body: dict[str, Any], said: str
):
    refused = await ask(client, "PUT", "/budgets", 422, json=body)
    assert said in refused["detail"]
    assert (await ask(client, "GET", "/budgets"))["items"] == []


async def test_a_home_that_is_not_set_up_is_not_found(client: httpx.AsyncClient, rows: Rows):
    budget = {"name": "b", "period": "day", "amount": "5"}
    for method, path, more in (
        ("GET", "/cost", {}),
        ("GET", "/budgets", {}),
        ("PUT", "/budgets", {"json": budget}),
        ("DELETE", "/budgets", {"params": {"name": "b"}}),
    ):
        refused = await ask(client, method, path, 404, **more)
        assert "home set" in refused["detail"]


def test_the_answers_have_the_fields_of_the_messages():
    for name in ("HomeCost", "Amount", "Projected", "BudgetStatus", "BudgetAlert"):
        struct, model = getattr(schemas, name), getattr(models, name)
        assert {one.name for one in msgspec.structs.fields(struct)} == set(model.model_fields)
