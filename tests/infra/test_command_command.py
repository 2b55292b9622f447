"""`meterstream command`: given, shown, cancelled; what ends it with which code."""

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from infra.cli import commands
from infra.local import Stack
from tests.databases import migrated_database
from tests.infra.command_line import CommandLine

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "command_command_tests")


@pytest.fixture(scope="module")
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO device (address, family, name) VALUES ('tasmota:p', 'tasmota', 'Pump')"
        )
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection[Any]) -> CommandLine:
    return CommandLine(database_url, commands, environment={"USER": "ann"})


def test_a_command_is_given_once_shown_and_cancelled(run: CommandLine):
    def told(*words: str) -> Any:
        return run("command", *words, "--json")

    config = ("send", "Pump", "config", "--parameters", '{"period_s": 10}', "--key", "k1")
    first = told(*config)
    assert (first["kind"], first["state"], first["issued_by"]) == ("config", "accepted", "user:ann")
    assert told(*config)["id"] == first["id"]
    assert [one["id"] for one in told("list", "Pump")] == [first["id"]]
    assert [one["state"] for one in told("show", first["id"])["events"]] == ["accepted"]
    assert told("cancel", first["id"])["state"] == "cancelled"
    assert told("switches", "Pump") == []


def test_what_cannot_be_ends_with_a_line_and_a_code(
    run: CommandLine, conn: psycopg.Connection[Any]
):
    run("command", "limit", "Pump", "600")
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
        assert line in " ".join(run("command", *words, code=code).split()), words
