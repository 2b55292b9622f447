"""`meterstream device …`, in a real database."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from infra.cli import device_group, device_owners, device_setup, devices, homes
from infra.local import Stack
from tests.databases import migrated_database

pytestmark = pytest.mark.stack

BAD_INPUT_EXIT = 65
ADDRESS = "homesync:h1/meter"


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "device_command_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # bills are kept by triggers
        connection.execute("TRUNCATE home, device, model, claim_attempt CASCADE")
        connection.execute("RESET session_replication_role")
        connection.execute(
            "INSERT INTO device (address, family) VALUES (%s, 'homesync')", [ADDRESS]
        )
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection[Any]) -> Any:
    """Run a command line; it must end with `code`. Gives its JSON, or its words."""
    app = typer.Typer()
    for module in (homes, devices, device_owners, device_setup, device_group):
        module.register(app)

    def one(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, arguments, env={"METERSTREAM_DATABASE_URL": database_url})
        assert result.exit_code == code, result.output
        if code:
            return result.stderr
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    return one


def test_a_device_from_its_code_to_its_end(run: Any):
    for home in ("h1", "h2"):
        run("home", "set", home)
    made = run("device", "code", ADDRESS, "--json")
    assert "no device waits" in run("device", "claim", "h1", "--code", "AAAAAAAA", code=65)
    claimed = run("device", "claim", "h1", "--code", made["code"], "--name", "Meter", "--json")
    assert (claimed["home_id"], claimed["contract"]) == ("h1", "family:homesync")
    assert "has a home already" in run("device", "claim", "h2", "--device", "Meter", code=1)

    changed = run("device", "set", "Meter", "--location", "Hall", "--gap-limit-s", "90", "--json")
    assert (changed["location"], changed["gap_limit_s"]) == ("Hall", 90)
    assert run("device", "set", "Meter", "--location", "-", "--json")["location"] is None
    assert "no IP address" in run("device", "set", "Meter", "--ip", "1.2.3", code=BAD_INPUT_EXIT)
    assert "whole number" in run("device", "set", "Meter", "--gap-limit-s", "x", code=2)

    held = run("device", "move", "Meter", "h2", "--json")
    assert [one["home_id"] for one in held] == ["h1", "h2"]
    assert run("device", "owners", "Meter", "--json") == held
    (listed,) = run("device", "list", "--home", "h2", "--json")
    assert (listed["address"], listed["name"]) == (ADDRESS, "Meter")
    assert run("device", "show", "Meter", "--json")["owners"] == held
    assert "Meter" in run("device", "show", "Meter")
    assert run("device", "presence", "Meter", "--json")["state"] is None

    run("device", "delete", "Meter", "--yes")
    assert run("device", "list", "--json") == []
    (gone,) = run("device", "list", "--deleted", "--json")
    assert (gone["address"], gone["name"]) == (ADDRESS, None)


def test_configuration_sensors_and_models(run: Any):
    shown = run("device", "config", ADDRESS, "interval_s=10", 'relay={"restore": true}', "--json")
    assert shown["desired"]["config"] == {"interval_s": 10, "relay": {"restore": True}}
    shown = run("device", "config", ADDRESS, "interval_s=30", "--json")
    assert shown["desired"]["version"] == 2
    assert [one["setting"] for one in shown["differences"]] == ["interval_s", "relay.restore"]
    shown = run("device", "config", ADDRESS, "name=node one", "--replace", "--json")
    assert shown["desired"]["config"] == {"name": "node one"}
    assert "NAME=VALUE" in run("device", "config", ADDRESS, "nonsense", code=2)
    assert "node one" in run("device", "config", ADDRESS)

    sensor = ("device", "sensor", ADDRESS, "l1", "CT-clamp")
    (one,) = run(*sensor, "--ct-ratio", "2000", "--calibration", "power_w=1.02", "--json")
    assert (one["ct_ratio"], one["calibration"]) == ("2000", {"power_w": 1.02})
    assert run("device", "sensors", ADDRESS, "--json") == [one]
    assert "factor" in run(*sensor, "--calibration", "power_w=big", code=2)
    assert run(*sensor, "--remove", "--json") == []

    (model,) = run("device", "model", "SPEM-003CEBEU", "--late-s", "90", "--json")
    assert (model["late_after_s"], model["offline_after_s"]) == (90, 300)
    assert model in run("device", "models", "--json")
    bad = run("device", "model", "SPEM-003CEBEU", "--late-s", "900", code=BAD_INPUT_EXIT)
    assert "longer than the one before" in bad
    assert "needs --family" in run("device", "model", "new", code=2)
    (shipped,) = run("device", "model", "SPEM-003CEBEU", "--remove", "--json")
    assert shipped["late_after_s"] == 60
