"""`meterstream home`, `contract`, `meter`, `analyse` and `carbon`, in a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from infra.cli import analyse, homes
from infra.local import Stack
from sinks.registry import claim_device
from tests.databases import emptied, migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack

START = datetime(2026, 2, 5, 17, tzinfo=UTC)  # midnight in Bangkok


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "homes_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    """A database with one device that has two channels."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        emptied(connection, "home", "device", "usage_15m", "emission_factor")
        device_id = claim_device(connection, "homesync:h1/main", "Main", "h1", "Asia/Bangkok")
        for channel in ("total", "l1"):
            connection.execute(
                "INSERT INTO channel (device_id, name) VALUES (%s, %s)", [device_id, channel]
            )
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection) -> Any:
    return CommandLine(database_url, homes, analyse)


def test_a_home_is_set_up_from_the_command_line(run: Any):
    assert "home set" in run("home", "show", "h1", code=65)
    assert run("home", "set", "h1", "--name", "House", "--json") == {
        "home_id": "h1",
        "name": "House",
        "zone": "Asia/Bangkok",
    }
    assert [one["home_id"] for one in run("home", "list", "--json")] == ["h1"]
    contract = ("contract", "set", "h1", "--tariff", "mea-1.2", "--from", "2026-01-01")
    assert "ampere" in run(*contract, code=65)
    (held,) = run(*contract, "--ampere", "15", "--cycle-day", "5", "--json")
    assert held == {
        "valid_from": "2026-01-01",
        "tariff_id": "mea-1.2",
        "cycle_day": 5,
        "ampere_a": "15",
    }
    later = ("contract", "set", "h1", "--tariff", "mea-1.3.1", "--from", "2026-04-01")
    assert run(*later, "--json")[1]["cycle_day"] == 5, "as before"
    assert run(*later, "--cycle-day", "6", "--json")[1]["cycle_day"] == 6
    assert "mea-1.3.1" in run(*later[:-4], "--tariff", "mea-9", "--from", "2026-04-01", code=65)
    run("contract", "remove", "h1", "--from", "2026-01-01")
    assert [one["valid_from"] for one in run("contract", "list", "h1", "--json")] == ["2026-04-01"]
    assert "is no date" in run("contract", "remove", "h1", "--from", "soon", code=2)


def test_meters_and_readings_are_set_from_the_command_line(run: Any, conn: psycopg.Connection):
    run("home", "set", "h1")
    (meter,) = run("meter", "set", "h1", "Main", "--role", "grid", "--json")
    assert (meter["channel"], meter["valid_from"]) == ("total", "1970-01-01T00:00:00+00:00")
    assert "keep either the whole" in run(
        "meter", "set", "h1", "Main/l1", "--role", "grid", code=65
    )
    (ended,) = run(
        "meter", "set", "h1", "Main", "--role", "grid", "--to", "2026-02-06T00:15", "--json"
    )
    assert ended["valid_to"] == "2026-02-05T17:15:00+00:00", "a time without offset is the home's"
    assert "did you mean" in run("meter", "set", "h1", "Mian", "--role", "grid", code=1)
    run("meter", "set", "h1", "Main", "--role", "grid")
    conn.execute(
        "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
        "quality, why, complete, revision) "
        "SELECT channel_id, %s, 2000000000, 0, 1, 0, 0, true, 1 FROM channel WHERE name = 'total'",
        [START],
    )
    run("meter", "read", "h1", "--at", "2026-02-06", "--kwh", "10")
    found = run("meter", "read", "h1", "--at", "2026-02-06T01:00", "--kwh", "11.5", "--json")
    assert found["differences"][0]["import"]["difference_kwh"] == "-0.5"
    assert "ours" in run("meter", "readings", "h1")
    assert "below the 11.5" in run(
        "meter", "read", "h1", "--at", "2026-02-06T02:00", "--kwh", "11", code=65
    )
    assert "--kwh" in run("meter", "read", "h1", "--at", "2026-02-06", code=2)
    found = run("meter", "read", "h1", "--at", "2026-02-06", "--remove", "--json")
    assert [one["import_kwh"] for one in found["items"]] == ["11.5"]
    shown = run("home", "show", "h1", "--json")
    assert [len(shown[part]) for part in ("contracts", "meters", "utility_readings")] == [0, 1, 1]
    run("meter", "remove", "h1", "Main")
    assert run("meter", "list", "h1", "--json") == []


def test_a_home_is_analysed(run: Any, conn: psycopg.Connection):
    run("home", "set", "h1")
    interval = ("--from", "2026-02-06", "--to", "2026-02-07")
    assert "no grid meter" in run("analyse", "h1", *interval, code=65)
    run("meter", "set", "h1", "Main", "--role", "grid")
    conn.execute(
        "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
        "quality, why, complete, revision) "
        "SELECT channel_id, %s, 2000000000, 0, 1, 0, 0, true, 1 FROM channel WHERE name = 'total'",
        [START + timedelta(hours=19)],
    )
    found = run("analyse", "h1", *interval, "--tariff", "mea-1.3.1", "--json")
    assert found["demand"]["whole"]["max_kw"] == "8"
    (day,) = run("home", "usage", "h1", *interval, "--json")
    assert (day["label"], day["energy_kwh"], day["max_kw"]) == ("2026-02-06", "2", "8")
    assert "2026-02-06,2,0,,8,measured,95" in run("home", "usage", "h1", *interval, "--csv")
    assert "set a contract" in run("home", "usage", "h1", *interval, "--bucket", "cycle", code=65)
    assert "2026-02" in run("home", "usage", "h1", *interval, "--bucket", "1mo")
    backward = ("--from", "2026-02-07", "--to", "2026-02-06")
    assert "give a range" in run("home", "usage", "h1", *backward, code=65)
    assert found["peaks"]["busiest_hour"] == "19"
    assert {one["name"]: one["share"] for one in found["peaks"]["periods"]} == {
        "on_peak": "1",
        "off_peak": "0",
    }
    assert "carbon set TH 2026-02" in found["carbon"]["missing"]
    assert "production" in found["solar"]["missing"]
    run("carbon", "set", "TH", "2026-02", "410.5", "--source", "TGO")
    assert run("carbon", "list", "TH", "--json")[0]["g_per_kwh"] == "410.5"
    assert run("analyse", "h1", *interval, "--json")["carbon"]["carbon_g"] == "821"
    assert "410.5 g/kWh" in run("analyse", "h1", *interval)
    assert "is no month" in run("carbon", "set", "TH", "2026", "1", "--source", "TGO", code=2)
