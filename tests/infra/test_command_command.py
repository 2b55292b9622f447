"""`meterstream command`: given, shown, cancelled; what ends it with which code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from infra.local import Stack
from sinks.migrate import migrate

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE command_command_tests")
    url = stack.database_url.rpartition("/")[0] + "/command_command_tests"
    migrate(url)
    return url


@pytest.fixture(scope="module")
def conn(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO device (address, family, name) VALUES ('tasmota:p', 'tasmota', 'Pump')"
        )
        yield connection


def run(database_url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "METERSTREAM_DATABASE_URL": database_url, "USER": "ann"}
    return subprocess.run(
        [sys.executable, "-c", "import infra.cli; infra.cli.main()", "command", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_command_is_given_once_shown_and_cancelled(database_url: str, conn: Any):
    def told(*words: str) -> Any:
        done = run(database_url, *words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    config = ("send", "Pump", "config", "--parameters", '{"period_s": 10}', "--key", "k1")
    first = told(*config)
    assert (first["kind"], first["state"], first["issued_by"]) == ("config", "accepted", "user:ann")
    assert told(*config)["id"] == first["id"]
    assert [one["id"] for one in told("list", "Pump")] == [first["id"]]
    assert [one["state"] for one in told("show", first["id"])["events"]] == ["accepted"]
    assert told("cancel", first["id"])["state"] == "cancelled"
    assert told("switches", "Pump") == []


def test_what_cannot_be_ends_with_a_line_and_a_code(database_url: str, conn: Any):
    run(database_url, "limit", "Pump", "600")
    conn.execute("INSERT INTO device_state VALUES (1, '', 'relay', %s, now(), 1)", [Jsonb(True)])
    for words, code, line in (
        (("send", "Pump", "reboot"), os.EX_DATAERR, "confirm: true"),
        (("send", "Pump", "on", "--relay", "9"), os.EX_DATAERR, "no relay '9'"),
        (("send", "Nobody", "on"), 1, "no device"),
        (("send", "Pump", "config", "--parameters", "{"), 2, "no JSON"),
        (("send", "Pump", "on", "--wait-s", "0.2"), 1, ""),
        (("send", "Pump", "off"), 1, "between two switchings"),
        (("show", "01930000-0000-7000-8000-000000000000"), 1, "no command has the id"),
    ):
        done = run(database_url, *words)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert line in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
