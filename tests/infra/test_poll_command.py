"""`meterstream poll`, in a real database."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from infra.cli import poll
from infra.local import Stack
from schemas.units import HOUR_US, QUARTER_US, SECOND_US
from schemas.usage import Quality
from sinks import backfills
from sinks.backfills import Silence
from sinks.polled_devices import PolledDevice, polled_devices
from sinks.registry import claim_device
from tests.databases import migrated_database

pytestmark = pytest.mark.stack

METER, PLUG = "shelly:shellypro3em-1", "shelly1:shellyplug-s-1"


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    return migrated_database(stack, "poll_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("TRUNCATE device, usage_15m CASCADE")
        connection.execute("RESET session_replication_role")
        connection.execute("UPDATE backfill_progress SET looked_until = 'epoch'")
        yield connection


@pytest.fixture
def run(database_url: str, conn: psycopg.Connection) -> Any:
    app = typer.Typer()
    poll.register(app)

    def one(*arguments: str, code: int = 0) -> Any:
        environment = {"METERSTREAM_DATABASE_URL": database_url}
        result = CliRunner().invoke(app, ["poll", *arguments], env=environment)
        assert result.exit_code == code, result.output
        return result.output if code else json.loads(result.stdout)

    return one


def device(conn: psycopg.Connection, address: str, *channels: str) -> int:
    claim_device(conn, address, address.partition(":")[2], "h", "Asia/Bangkok")
    ((device_id,),) = conn.execute(
        "SELECT device_id FROM device WHERE address = %s", [address]
    ).fetchall()
    for name in channels:
        conn.execute("INSERT INTO channel (device_id, name) VALUES (%s, %s)", [device_id, name])
    return device_id


def test_a_device_is_set_listed_and_dropped(run: Any, conn: psycopg.Connection):
    device_id = device(conn, METER)
    (shown,) = run(
        *("set", METER, "--host", "127.0.0.1:8080", "--secret", "kitchen"),
        *("--every-s", "5", "--silent-after-s", "20", "--json"),
    )
    assert shown == {
        "address": METER, "name": "shellypro3em-1", "host": "127.0.0.1:8080",
        "secret_file": "kitchen", "interval_s": 5, "silent_after_s": 20,
    }  # fmt: skip
    assert polled_devices(conn) == [
        PolledDevice(device_id, METER, "127.0.0.1:8080", "kitchen", 5, 20)
    ]
    assert run("drop", METER, "--json") == run("list", "--json") == []
    assert polled_devices(conn) == []


def test_where_a_device_is_and_when_it_is_late_the_registry_knows(
    run: Any, conn: psycopg.Connection
):
    device_id = device(conn, METER)
    run("set", METER, "--json")
    assert polled_devices(conn) == [], "nobody knows where it is"
    conn.execute(
        "INSERT INTO device_state (device_id, field, value, measured_at, log_offset) "
        "VALUES (%s, 'ip', to_jsonb(%s::text), now(), 1)",
        [device_id, "192.0.2.7"],
    )
    (one,) = polled_devices(conn)
    assert (one.host, one.silent_after_s) == ("192.0.2.7", 180)
    conn.execute("UPDATE device SET ip = '192.0.2.8' WHERE device_id = %s", [device_id])
    assert polled_devices(conn)[0].host == "192.0.2.8"


def test_what_cannot_be_asked_is_refused(run: Any, conn: psycopg.Connection):
    device(conn, METER)
    device(conn, "homesync:h/n")
    run("set", "homesync:h/n", code=2)
    run("set", METER, "--host", "http://x/y", code=2)
    run("set", METER, "--secret", "../passwd", code=2)
    assert run("list", "--json") == []


def quarters(conn: psycopg.Connection, device_id: int, channel: str, *hours: float, **more: Any):
    """Quarter hours of the ledger, so many hours before a whole one not long ago."""
    for hour in hours:
        conn.execute(
            "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
            "quality, why, complete, revision) "
            "SELECT channel_id, date_trunc('hour', now()) - %s * interval '1 hour', 1, 0, 0, %s, 1,"
            " %s, 1 FROM channel WHERE device_id = %s AND name = %s",
            [hour, more.get("quality", Quality.INTERPOLATED), more.get("complete", True),
             device_id, channel],
        )  # fmt: skip


def hour_us(conn: psycopg.Connection, hours: float) -> int:
    row = conn.execute("SELECT to_us(date_trunc('hour', now()))").fetchone()
    assert row is not None
    return int(row[0] - hours * HOUR_US)


def test_silences_are_noted_once_and_those_that_touch_are_one(conn: psycopg.Connection):
    meter = device(conn, METER, "total", "l1", "em1:2")
    other = device(conn, "homesync:h/n", "total", "l1")
    single = device(conn, "shelly:plug", "total", "switch:0")
    quarters(conn, meter, "total", 3, 2.75, 2.5, 1)
    quarters(conn, meter, "l1", 3)
    quarters(conn, meter, "em1:2", 3)
    quarters(conn, meter, "total", 5, quality=Quality.GAP)
    quarters(conn, meter, "total", 6, complete=False)
    quarters(conn, meter, "total", 61 * 24)
    quarters(conn, other, "total", 3)
    quarters(conn, single, "total", 3)
    expected = [
        Silence(meter, "em1data:2", hour_us(conn, 3.25), hour_us(conn, 2.5)),
        Silence(meter, "emdata:0", hour_us(conn, 3.25), hour_us(conn, 2)),
        Silence(meter, "emdata:0", hour_us(conn, 1.25), hour_us(conn, 0.5)),
    ]
    assert backfills.note_silences(conn) == expected
    assert backfills.note_silences(conn) == []


def test_a_silence_is_asked_for_page_by_page(run: Any, conn: psycopg.Connection):
    meter = device(conn, METER, "total", "l1")
    quarters(conn, meter, "total", 3, 2.75)
    (silence,) = backfills.note_silences(conn)
    (due,) = backfills.due_backfills(conn, [], 10)
    assert (due.silence, due.address, due.asked_until_us) == (silence, METER, silence.start_us)
    assert backfills.due_backfills(conn, [meter], 10) == [], "one question a device"

    backfills.postponed(conn, silence, 600, "no answer")
    assert backfills.due_backfills(conn, [], 10) == []
    conn.execute("UPDATE backfill SET next_try_at = now()")
    backfills.answered(conn, silence, silence.start_us + QUARTER_US, 15)
    (due,) = backfills.due_backfills(conn, [], 10)
    assert (due.asked_until_us, due.tries) == (silence.start_us + QUARTER_US, 0)
    backfills.answered(conn, silence, silence.end_us, 15)
    assert backfills.due_backfills(conn, [], 10) == []
    (shown,) = run("silences", METER, "--json")
    assert (shown["records"], shown["tries"], shown["reason"]) == (30, 0, None)
    assert shown["done_at"] is not None


def test_one_that_changed_and_was_not_mended_is_asked_for_once_more(conn: psycopg.Connection):
    meter = device(conn, METER, "total", "l1")
    quarters(conn, meter, "total", 3)
    (silence,) = backfills.note_silences(conn)
    backfills.given_up(conn, silence, "no such component")
    assert backfills.note_silences(conn) == []
    conn.execute("UPDATE usage_15m SET changed_at = clock_timestamp()")
    assert backfills.note_silences(conn) == [], "what was asked for may still be on its way"
    conn.execute("UPDATE backfill SET done_at = now() - interval '3 minutes'")
    conn.execute("UPDATE usage_15m SET changed_at = now() - interval '2 minutes'")
    assert backfills.note_silences(conn) == [silence]
    (due,) = backfills.due_backfills(conn, [], 10)
    assert due.asked_until_us == silence.start_us
    assert silence.start_us % SECOND_US == 0


def test_nothing_is_asked_for_from_before_the_first_reading(conn: psycopg.Connection):
    meter = device(conn, METER, "total", "l1")
    quarters(conn, meter, "total", 3)
    first_us = hour_us(conn, 3) + 90 * SECOND_US
    conn.execute(
        "INSERT INTO readings (channel_id, measured_at, received_at, log_offset, clock, source, "
        "import_total_wh) SELECT channel_id, from_us(%s), now(), 1, 0, 0, 5 FROM channel "
        "WHERE device_id = %s AND name = 'total'",
        [first_us, meter],
    )
    (silence,) = backfills.note_silences(conn)
    assert silence.start_us == hour_us(conn, 3.25)
    (due,) = backfills.due_backfills(conn, [], 10)
    assert due.asked_until_us == hour_us(conn, 3) + 120 * SECOND_US
