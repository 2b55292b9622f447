"""Who is let in, what errors look like, and what is said about requests."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import BaseRoute

from api.app import create_app
from api.problems import ProblemDocument
from api.settings import ApiSettings
from schemas.reading import VALUE_NAMES
from schemas.usage import Quality, Why
from sinks.queries import newest_revision

pytestmark = [pytest.mark.anyio]

NOWHERE = "postgresql://meterstream@127.0.0.1:1/nowhere"
APP = create_app(ApiSettings.model_validate({"token": "a-token"}), NOWHERE)


def every_route(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from every_route(included.routes)
            continue
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield method, getattr(route, "path_format", "?")


ROUTES = list(every_route(APP.routes))
OPEN = {"/health", "/ready", "/metrics", "/docs", "/firmware/{sha256}"}
OPERATIONS = {
    "getHealth": "/health",
    "getReady": "/ready",
    "getMetrics": "/metrics",
    "listDevices": "/api/v1/devices",
    "getDevice": "/api/v1/devices/{device}",
    "changeDevice": "/api/v1/devices/{device}",
    "deleteDevice": "/api/v1/devices/{device}",
    "listSensors": "/api/v1/devices/{device}/sensors",
    "setSensor": "/api/v1/devices/{device}/sensors",
    "removeSensor": "/api/v1/devices/{device}/sensors",
    "getConfig": "/api/v1/devices/{device}/config",
    "setConfig": "/api/v1/devices/{device}/config",
    "listConfigVersions": "/api/v1/devices/{device}/config/versions",
    "listPresence": "/api/v1/devices/{device}/presence",
    "makeClaimCode": "/api/v1/devices/{device}/claim-code",
    "moveDevice": "/api/v1/devices/{device}/move",
    "listOwners": "/api/v1/devices/{device}/owners",
    "claimByCode": "/api/v1/claims",
    "askForProof": "/api/v1/claims/proofs",
    "claimByProof": "/api/v1/claims/proofs/{proof_id}",
    "listModels": "/api/v1/models",
    "setModel": "/api/v1/models/{model}",
    "removeModel": "/api/v1/models/{model}",
    "provisionDevice": "/api/v1/devices",
    "listAccounts": "/api/v1/accounts",
    "rotateToken": "/api/v1/devices/{device}/token",
    "revokeAccount": "/api/v1/devices/{device}/account",
    "listReadings": "/api/v1/devices/{device}/readings",
    "listUsage": "/api/v1/devices/{device}/usage",
    "listRepairs": "/api/v1/devices/{device}/repairs",
    "listReconciliation": "/api/v1/devices/{device}/reconciliation",
    "listHomes": "/api/v1/homes",
    "getHome": "/api/v1/homes/{home_id}",
    "setHome": "/api/v1/homes/{home_id}",
    "listContracts": "/api/v1/homes/{home_id}/contracts",
    "setContract": "/api/v1/homes/{home_id}/contracts",
    "removeContract": "/api/v1/homes/{home_id}/contracts",
    "listMeters": "/api/v1/homes/{home_id}/meters",
    "setMeter": "/api/v1/homes/{home_id}/meters",
    "removeMeter": "/api/v1/homes/{home_id}/meters",
    "listUtilityReadings": "/api/v1/homes/{home_id}/utility-readings",
    "enterUtilityReading": "/api/v1/homes/{home_id}/utility-readings",
    "removeUtilityReading": "/api/v1/homes/{home_id}/utility-readings",
    "listHomeUsage": "/api/v1/homes/{home_id}/usage",
    "analyseDemand": "/api/v1/homes/{home_id}/demand",
    "analysePeaks": "/api/v1/homes/{home_id}/peaks",
    "compareCircuits": "/api/v1/homes/{home_id}/circuits",
    "analyseCarbon": "/api/v1/homes/{home_id}/carbon",
    "analyseSolar": "/api/v1/homes/{home_id}/solar",
    "getCost": "/api/v1/homes/{home_id}/cost",
    "listBudgets": "/api/v1/homes/{home_id}/budgets",
    "setBudget": "/api/v1/homes/{home_id}/budgets",
    "removeBudget": "/api/v1/homes/{home_id}/budgets",
    "listBills": "/api/v1/homes/{home_id}/bills",
    "getBill": "/api/v1/homes/{home_id}/bills/{month}",
    "setUtilityBill": "/api/v1/homes/{home_id}/bills/{month}/utility",
    "compareUtilityBill": "/api/v1/homes/{home_id}/bills/{month}/utility",
    "compareTariffs": "/api/v1/homes/{home_id}/what-if",
    "listTariffs": "/api/v1/tariffs",
    "getTariff": "/api/v1/tariffs/{tariff_id}",
    "listSpotPrices": "/api/v1/spot-prices/{market}",
    "setSpotPrices": "/api/v1/spot-prices/{market}",
    "listEmissionFactors": "/api/v1/emission-factors",
    "setEmissionFactor": "/api/v1/emission-factors",
    "giveCommand": "/api/v1/devices/{device}/commands",
    "listCommands": "/api/v1/devices/{device}/commands",
    "giveOldCommand": "/api/v1/devices/{device}/command",
    "giveCommands": "/api/v1/commands",
    "getCommand": "/api/v1/commands/{command_id}",
    "cancelCommand": "/api/v1/commands/{command_id}/cancel",
    "listSwitches": "/api/v1/devices/{device}/switches",
    "setCommandLimit": "/api/v1/devices/{device}/command-limit",
    "addFirmwareRoot": "/api/v1/firmware-roots",
    "listFirmware": "/api/v1/firmware",
    "addFirmware": "/api/v1/firmware",
    "addFirmwareImage": "/api/v1/firmware/{firmware_id}/image",
    "fetchFirmware": "/firmware/{sha256}",
    "startRollout": "/api/v1/firmware/{firmware_id}/rollouts",
    "listRollouts": "/api/v1/rollouts",
    "getRollout": "/api/v1/rollouts/{rollout_id}",
    "changeRollout": "/api/v1/rollouts/{rollout_id}",
    "listRolloutDevices": "/api/v1/rollouts/{rollout_id}/devices",
}
"""Each operation's id and path."""
GUARDED = [(method, path) for method, path in ROUTES if path not in OPEN]


def as_url(path: str) -> str:
    return re.sub(r"\{\w+\}", "1", path)


@pytest.fixture
async def visitor() -> Any:
    """A client without a token, of an API whose database is away."""
    settings = ApiSettings.model_validate({"token": "a-token", "pool_timeout_s": 0.2})
    app = create_app(settings, NOWHERE)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost"
        ) as client,
    ):
        yield client


def problem_of(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, f"{answer.request.method} {answer.url}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    ProblemDocument.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:meterstream:problem:{kind}"
    assert document["status"] == status
    assert document["request_id"] == answer.headers["x-request-id"]
    for leak in ("Traceback", "psycopg", "SELECT", "File "):
        assert leak not in answer.text
    return document


# ---- who is let in ----


def test_every_route_is_known():
    undescribed = {"/docs", "/api/v1/openapi.json"}
    assert {path for _, path in ROUTES} == undescribed | set(OPERATIONS.values())
    assert all(path.startswith("/api/v1/") for _, path in GUARDED)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer a-toke",
        "Bearer a-tokenn",
        "Bearer A-TOKEN",
        "Bearer a-token a-token",
        "Basic a-token",
        "Bearer tökén",
        "a-token",
    ],
)
async def test_nobody_enters_any_route_without_the_token(visitor, header: str | None):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for method, path in GUARDED:
        url = as_url(path) + "?limit=nonsense"
        answer = await visitor.request(method, url, headers=headers)
        problem_of(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "a b", "", "*", "/"],
)
async def test_other_hosts_are_not_answered_by_any_route(visitor, host: str):
    headers = {"Host": host, "Authorization": "Bearer a-token"}
    for method, path in ROUTES:
        problem_of(await visitor.request(method, as_url(path), headers=headers), 400, "bad-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
async def test_own_hosts_are_answered(visitor, host: str):
    assert (await visitor.get("/health", headers={"Host": host})).status_code == 200


async def test_the_open_routes_need_no_token(visitor):
    assert (await visitor.get("/health")).json() == {"status": "ok"}
    assert (await visitor.get("/metrics")).status_code == 200
    assert (await visitor.get("/docs")).status_code == 200
    assert (await visitor.get("/ready")).status_code == 503


# ---- errors ----


async def test_an_unknown_path_is_a_problem(visitor):
    for path in ("/", "/nope", "/api/v1", "/api/v1/nope", "/docs/", "/openapi.json", "//health"):
        problem_of(await visitor.get(path), 404, "not-found")


async def test_a_method_that_is_not_there_is_a_problem(visitor):
    for path in ("/health", "/api/v1/devices/1/readings", "/api/v1/devices/1/usage"):
        answer = await visitor.post(path)
        problem_of(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "GET"


async def test_a_database_that_is_away_is_a_problem(visitor):
    headers = {"Authorization": "Bearer a-token"}
    for path in ("/api/v1/devices", "/api/v1/devices/1", "/api/v1/devices/1/readings"):
        answer = await visitor.get(path, headers=headers)
        problem_of(answer, 503, "database-away")
        assert int(answer.headers["retry-after"]) > 0
    document = problem_of(await visitor.get("/ready"), 503, "not-ready")
    assert document["reasons"] == ["database: does not answer"]


@pytest.mark.stack
async def test_several_errors_are_told_at_once(client):
    answer = await client.get("/api/v1/devices?limit=0&claimed=perhaps")
    document = problem_of(answer, 422, "invalid-request")
    assert [one["field"] for one in document["errors"]] == ["limit", "claimed"]


@pytest.mark.stack
async def test_an_error_of_ours_tells_nothing_of_itself(client, rows, capsys):
    rows.conn.execute("ALTER TABLE channel RENAME COLUMN name TO called")
    try:
        rows.device("homesync:h1/a")
        answer = await client.get("/api/v1/devices")
    finally:
        rows.conn.execute("ALTER TABLE channel RENAME COLUMN called TO name")
    problem_of(answer, 500, "internal-error")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["request_id"] in capsys.readouterr().out


@pytest.mark.stack
async def test_a_database_without_our_tables_is_a_problem(stack, serve):
    empty = stack.database_url.rpartition("/")[0] + "/postgres"
    async with serve(empty) as client:
        answer = await client.get("/api/v1/devices")
        problem_of(answer, 503, "schema-missing")
        (reason,) = problem_of(await client.get("/ready"), 503, "not-ready")["reasons"]
        assert reason.startswith("schema: revision is none, expected ")


@pytest.mark.stack
async def test_a_query_that_takes_too_long_is_cut(serve, rows, migrated):
    async with serve(statement_timeout_s=0.1) as client:
        with psycopg.connect(migrated) as locker:
            locker.execute("LOCK TABLE device")
            problem_of(await client.get("/api/v1/devices"), 503, "too-slow")
        assert (await client.get("/api/v1/devices")).status_code == 200


@pytest.mark.stack
async def test_the_api_cannot_write(serve, rows):
    async with serve() as client:
        app: Any = client._transport.app  # type: ignore[attr-defined]
        async with app.state.pool.connection() as conn:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await conn.execute("DELETE FROM device")


# ---- what is said about requests ----


async def test_every_answer_has_an_id_and_security_headers(visitor):
    answer = await visitor.get("/health", headers={"X-Request-ID": "mine-12345678"})
    assert answer.headers["x-request-id"] == "mine-12345678"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers
    for bad in ("short", "with space in", "x" * 65, 'a"b"c"d"e'):
        other = await visitor.get("/health", headers={"X-Request-ID": bad})
        assert re.fullmatch(r"[0-9a-f]{32}", other.headers["x-request-id"])


async def test_counts_name_the_template_of_a_route_and_nothing_else(visitor):
    headers = {"Authorization": "Bearer a-token"}
    await visitor.get("/api/v1/devices/secret-name/usage", headers=headers)
    await visitor.get("/nope/secret-path")
    await visitor.request("SECRET", "/health")
    text = (await visitor.get("/metrics")).text
    assert "secret" not in text.lower()
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "meterstream_api_requests_total"
    }
    assert counted == {
        ("GET", "/api/v1/devices/{device}/usage", "503"),
        ("GET", "unmatched", "404"),
        ("other", "/health", "405"),
    }


# ---- is it ready? ----


@pytest.mark.stack
@pytest.mark.parametrize(
    ("partitions", "age_s", "reason"),
    [
        (12, 2, None),
        (11, 2, "stream: 11 of 12 partitions have progress"),
        (0, 2, "stream: 0 of 12 partitions have progress"),
        (12, None, "stream: 12 partitions know no time yet"),
        (12, 100, r"stream: 1\d\d s behind, more than 60 s"),
    ],
)
async def test_ready(serve, rows, partitions: int, age_s: float | None, reason: str | None):
    rows.stream(partitions, None)
    if age_s is not None:
        rows.conn.execute(
            "UPDATE stream_progress SET stream_time = now() - make_interval(secs => %s)", [age_s]
        )
    async with serve() as client:
        answer = await client.get("/ready")
    if reason is None:
        assert answer.status_code == 200
        document = answer.json()
        assert document["schema_revision"] == newest_revision()
        assert document["stream_lag_s"] >= age_s
    else:
        (told,) = problem_of(answer, 503, "not-ready")["reasons"]
        assert re.fullmatch(reason, told)


@pytest.mark.stack
async def test_ready_expects_the_newest_revision(serve, rows):
    rows.stream(12, None)
    newest = newest_revision()
    (stored,) = rows.conn.execute("SELECT version_num FROM alembic_version").fetchone()
    assert stored == newest
    rows.conn.execute("UPDATE alembic_version SET version_num = 'older'")
    try:
        async with serve() as client:
            (reason,) = problem_of(await client.get("/ready"), 503, "not-ready")["reasons"]
    finally:
        rows.conn.execute("UPDATE alembic_version SET version_num = %s", [newest])
    assert reason == f"schema: revision is older, expected {newest}; run meterstream migrate"


# ---- OpenAPI ----


async def test_openapi_describes_the_routes(visitor):
    answer = await visitor.get("/api/v1/openapi.json", headers={"Authorization": "Bearer a-token"})
    document = answer.json()
    operations = {
        one["operationId"]: (path, one)
        for path, methods in document["paths"].items()
        for one in methods.values()
    }
    assert {name: path for name, (path, _) in operations.items()} == OPERATIONS
    for name, (path, operation) in operations.items():
        assert ("security" in operation) == path.startswith("/api/v1"), name
        for status, response in operation["responses"].items():
            if status >= "400" and path.startswith("/api/v1"):
                assert list(response["content"]) == ["application/problem+json"], (name, status)
    shapes = document["components"]["schemas"]
    assert set(VALUE_NAMES) < set(shapes["Reading"]["properties"])
    assert shapes["Usage"]["properties"]["quality"]["enum"] == [q.name.lower() for q in Quality]
    assert [w.name.lower() for w in Why] in [
        one.get("enum") for one in shapes["Usage"]["properties"]["why"]["anyOf"]
    ]


def test_the_app_is_made_without_a_database():
    assert isinstance(APP, FastAPI)
