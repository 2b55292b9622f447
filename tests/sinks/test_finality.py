"""`wait_final` returns when nothing is missing, and says what is missing when it gives up."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from infra.local import Stack
from infra.local.topics import create_topics
from schemas.topics import RAW
from sinks.finality import LogUnreachable, Missing, NotFinal, log_ends, wait_final
from tests.databases import migrated_database

pytestmark = pytest.mark.stack

ADDRESS = "homesync:h/n1"
MINUTE = datetime(2026, 2, 6, 3, 14, tzinfo=UTC)


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    create_topics(stack.kafka_bootstrap)
    return migrated_database(stack, "finality_tests")


@pytest.fixture
def conn(stack: Stack, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A device whose last reading is at 03:14:30, everything until 03:14 being final."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE device, channel, readings, usage_15m, rollup_dirty, channel_state, "
            "window_dirty, stream_progress RESTART IDENTITY CASCADE"
        )
        connection.execute(
            "INSERT INTO device (address, family) VALUES (%s, 'homesync')", [ADDRESS]
        )
        connection.execute("INSERT INTO channel (device_id, name) VALUES (1, 'total')")
        connection.execute(
            "INSERT INTO readings (channel_id, measured_at, received_at, log_offset, clock, source)"
            " VALUES (1, %(at)s, %(at)s, 1, 0, 0)",
            {"at": MINUTE + timedelta(seconds=30)},
        )
        connection.execute(
            "INSERT INTO channel_state VALUES (1, 0, %(at)s, %(at)s, %(at)s, true, false, false, "
            "true)",
            {"at": MINUTE},
        )
        catch_up(connection, stack)
        yield connection


def catch_up(conn: psycopg.Connection[Any], stack: Stack) -> None:
    conn.execute("DELETE FROM stream_progress")
    for part, end in log_ends(stack.kafka_bootstrap).items():
        conn.execute(
            "INSERT INTO stream_progress (topic, part, epoch, pid, next_offset, published_offset) "
            "VALUES (%s, %s, 1, 1, %s, 0)",
            [RAW.name, part, end],
        )


def missing(stack: Stack, database_url: str) -> Missing:
    with pytest.raises(NotFinal) as caught:
        wait_final(database_url, stack.kafka_bootstrap, [ADDRESS], timeout_s=0)
    assert "not final after 0 s" in str(caught.value)
    return caught.value.missing


def test_nothing_missing_is_final(stack: Stack, database_url: str, conn: object):
    seen: list[Missing] = []
    wait_final(database_url, stack.kafka_bootstrap, [ADDRESS], timeout_s=0, progress=seen.append)
    assert seen == [Missing()]
    assert str(seen[0]) == "nothing"


def test_a_device_without_readings_is_final(stack: Stack, database_url: str, conn: object):
    wait_final(database_url, stack.kafka_bootstrap, ["homesync:h/unknown"], timeout_s=0)


def test_a_record_that_is_not_stored_is_missing(
    stack: Stack, database_url: str, conn: psycopg.Connection[Any]
):
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
    for _ in range(3):
        producer.produce(RAW.name, b"", partition=2)
    producer.flush(10)
    assert missing(stack, database_url) == Missing(records=3)
    conn.execute("DELETE FROM stream_progress WHERE part = 2")
    assert missing(stack, database_url).records >= 3
    catch_up(conn, stack)
    wait_final(database_url, stack.kafka_bootstrap, [ADDRESS], timeout_s=0)


PLANTED = [
    (
        "INSERT INTO window_dirty VALUES (0, 1, 1, '2026-02-06 01:00Z', '2026-02-06 01:00Z')",
        Missing(late_windows=1),
    ),
    ("DELETE FROM channel_state", Missing(open_channels=1)),
    (
        "UPDATE channel_state SET complete_until = '2026-02-06 03:13Z', "
        "last_reading_at = '2026-02-06 03:13:10Z'",
        Missing(open_channels=1),
    ),
    ("INSERT INTO rollup_dirty VALUES (1, '2026-02-06 03:00Z')", Missing(dirty_quarters=1)),
    (
        "INSERT INTO usage_15m VALUES (1, '2026-02-06 02:45Z', 1, 0, NULL, NULL, NULL, 1, 0, 0, "
        "false, 0)",
        Missing(open_quarters=1),
    ),
]


@pytest.mark.parametrize(("change", "expected"), PLANTED)
def test_what_is_not_final_is_said(
    stack: Stack,
    database_url: str,
    conn: psycopg.Connection[Any],
    change: str,
    expected: Missing,
):
    conn.execute(change.encode())
    assert missing(stack, database_url) == expected
    wait_final(database_url, stack.kafka_bootstrap, ["homesync:h/other"], timeout_s=0)


def test_the_quarter_that_is_still_running_does_not_count(
    stack: Stack, database_url: str, conn: psycopg.Connection[Any]
):
    conn.execute(
        "INSERT INTO usage_15m VALUES (1, '2026-02-06 03:00Z', 1, 0, NULL, NULL, NULL, 1, 0, 0, "
        "false, 0)"
    )
    wait_final(database_url, stack.kafka_bootstrap, [ADDRESS], timeout_s=0)


def test_it_waits_for_what_comes(stack: Stack, database_url: str, conn: psycopg.Connection[Any]):
    conn.execute("INSERT INTO rollup_dirty VALUES (1, '2026-02-06 03:00Z')")

    def roll_up() -> None:
        time.sleep(0.6)
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("DELETE FROM rollup_dirty")

    worker = threading.Thread(target=roll_up)
    worker.start()
    begun = time.monotonic()
    wait_final(database_url, stack.kafka_bootstrap, [ADDRESS], timeout_s=20)
    worker.join()
    assert 0.5 < time.monotonic() - begun < 15


def test_an_absent_kafka_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sinks.finality._KAFKA_TIMEOUT_S", 0.5)
    with pytest.raises(LogUnreachable, match=r"127\.0\.0\.1:1 does not say where energy"):
        wait_final(database_url, "127.0.0.1:1", [ADDRESS], timeout_s=0)
