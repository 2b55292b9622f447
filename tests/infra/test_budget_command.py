"""`meterstream budget` and `meterstream cost`, in a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from infra.cli import budget, homes
from infra.local import Stack
from sinks.registry import claim_device
from streams.cost.job import CostJob
from streams.tariffs.loading import known_tariffs
from tests.databases import emptied, migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack

FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
BAD_INPUT_EXIT = 65


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "budget_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        emptied(connection, "home", "device", "usage_15m", "cost_dirty")
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection) -> Any:
    return CommandLine(database_url, homes, budget)


@pytest.fixture
def home(conn: psycopg.Connection, run: Any) -> str:
    """Four quarter hours of 1 kWh on 1 February, under mea-1.2."""
    device_id = claim_device(conn, "homesync:h1/main", "Main", "h1", "Asia/Bangkok")
    row = conn.execute(
        "INSERT INTO channel (device_id, name) VALUES (%s, 'total') RETURNING channel_id",
        [device_id],
    ).fetchone()
    for number in range(4):
        conn.execute(
            "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
            "quality, why, complete, revision) VALUES (%s, %s, 1000000000, 0, 9, 0, 0, true, 1)",
            [row[0], FEBRUARY + number * timedelta(minutes=15)],
        )
    run("home", "set", "h1")
    run("meter", "set", "h1", "Main", "--role", "grid")
    run("contract", "set", "h1", "--tariff", "mea-1.2", "--from", "2026-01-01", "--ampere", "30")
    return "h1"


def work_off(conn: psycopg.Connection) -> None:
    job = CostJob(conn, known_tariffs())
    while job.terms_changed():
        pass


def test_a_budget_is_set_listed_and_removed(conn: psycopg.Connection, run: Any, home: str):
    given = ("--per", "day", "--kwh", "5", "--from", "2026-01-01", "--json")
    (made,) = run("budget", "set", "h1", "day", *given)
    assert made | {"budget_id": 0} == {
        "budget_id": 0,
        "name": "day",
        "period": "day",
        "amount": None,
        "energy_kwh": "5",
        "valid_from": "2026-01-01",
        "valid_to": None,
    }
    assert run("budget", "set", "h1", "day", *given) == [made]
    work_off(conn)
    (shown,) = run("budget", "list", "h1", "--json")
    assert shown == made | {"unit": "kWh", "used": "4", "projected": "96", "warned": True}
    assert "day" in run("budget", "list", "h1")
    assert run("budget", "remove", "h1", "day", "--json") == []


def test_the_cost_of_a_home(conn: psycopg.Connection, run: Any, home: str):
    unseen = run("cost", "h1", "--json")
    assert (unseen["home_id"], unseen["state"]) == ("h1", "no_energy")
    assert "has not seen the home yet; ask again" in run("cost", "h1")
    work_off(conn)
    shown = run("cost", "h1", "--json")
    assert (shown["state"], shown["at"]) == ("running", "2026-01-31T18:00:00Z")
    assert shown["cycle"]["with_service"] == "40.66"
    table = run("cost", "h1")
    assert "mea-1.2 THB" in table
    assert "40.66" in table


def test_what_cannot_be_is_told_with_its_remedy(run: Any, home: str):
    assert "one of them" in run("budget", "set", "h1", "b", "--per", "day", code=BAD_INPUT_EXIT)
    bad_day = ("--kwh", "1", "--from", "soon")
    assert "2026-02-01" in run("budget", "set", "h1", "b", "--per", "day", *bad_day, code=2)
    assert "budget list" in run("budget", "remove", "h1", "b", code=BAD_INPUT_EXIT)
    assert "home set" in run("cost", "nobody", code=BAD_INPUT_EXIT)
    assert "home set" in run("budget", "list", "nobody", code=BAD_INPUT_EXIT)
