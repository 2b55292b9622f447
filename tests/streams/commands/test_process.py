"""`python -m streams.commands` with real Kafka and TimescaleDB, killed with -9 again and again.

The downlink, the device and the worker's rows are played by the test: what it reads from Kafka it
answers as they would.
"""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from psycopg.types.json import Jsonb

from infra.local import Stack
from infra.local.topics import create_topics
from schemas.command import CommandEvent, CommandRequest, CommandState, Kind
from schemas.topics import COMMAND_EVENT, COMMAND_REQUEST, PARTITIONER
from sinks.commands import Ask, CommandRow, accept, find_all, history, set_switch_interval
from tests.databases import migrated_database
from tests.streams.running_process import LONGEST_S, RunningProcess
from tests.whole_topic import read_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

COMMANDS, KILLS = 120, 4


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    create_topics(stack.kafka_bootstrap)
    return migrated_database(stack, "command_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def process(stack: Stack, database_url: str, tmp_path: Path) -> Iterator[RunningProcess]:
    one = RunningProcess(
        "streams.commands", stack, database_url, tmp_path / "commands.log",
        METERSTREAM_COMMANDS_PAUSE_S="0.2",
    )  # fmt: skip
    yield one
    one.close()


class Far:
    """The downlink, a device that runs an id once, and the worker that stores what it says."""

    def __init__(self, stack: Stack, database_url: str) -> None:
        self._bootstrap, self._url = stack.kafka_bootstrap, database_url
        self.ran: list[str] = []
        self.requests: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Far":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        consumer = Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": "far", "enable.auto.commit": False}
        )
        parts = range(COMMAND_REQUEST.partitions)
        consumer.assign(
            [TopicPartition(COMMAND_REQUEST.name, part, OFFSET_BEGINNING) for part in parts]
        )
        producer = Producer(
            {"bootstrap.servers": self._bootstrap, "partitioner": PARTITIONER, "linger.ms": 0}
        )
        offset = 0
        with psycopg.connect(self._url, autocommit=True) as conn:
            while not self._stop.is_set():
                for message in consumer.consume(100, 0.1):
                    if message.error():
                        continue
                    asked = msgspec.json.decode(message.value() or b"", type=CommandRequest)
                    known = conn.execute(
                        "SELECT FROM command WHERE command_id::text = %s", [asked.command_id]
                    ).fetchone()
                    if known is None:
                        continue  # of another test on this stack
                    self.requests[asked.command_id] += 1
                    if self.requests[asked.command_id] > 1:
                        continue
                    self.ran.append(asked.command_id)
                    say(producer, asked, CommandState.SENT)
                    offset += 1
                    conn.execute(
                        "INSERT INTO device_event VALUES "
                        "(0, %s, 0, %s, NULL, 'command_response', clock_timestamp(), %s)",
                        [
                            time.time_ns() // 1000,
                            asked.device_id,
                            Jsonb({"command_seq": asked.command_seq, "outcome": "done"}),
                        ],
                    )
                    relay(conn, asked.device_id, asked.kind is Kind.ON)
                producer.poll(0)
        consumer.close()
        producer.flush()


def say(producer: Producer, asked: CommandRequest, state: CommandState, **more: Any) -> None:
    """As the downlink does."""
    at_us = int(datetime.now(UTC).timestamp() * 1e6)
    event = CommandEvent(asked.command_id, asked.device_id, asked.address, state, at_us, **more)
    producer.produce(
        COMMAND_EVENT.name,
        key=str(asked.device_id).encode(),
        value=msgspec.json.encode(event),
        headers=[("source", b"downlink")],
    )
    producer.poll(0)


def relay(conn: psycopg.Connection[Any], device_id: int, is_on: bool) -> None:
    conn.execute(
        "INSERT INTO device_state VALUES (%s, '', 'relay', %s, clock_timestamp(), 1) "
        "ON CONFLICT (device_id, channel, field) DO UPDATE "
        "SET value = excluded.value, measured_at = excluded.measured_at",
        [device_id, Jsonb(is_on)],
    )


def own_events(stack: Stack) -> dict[str, list[CommandEvent]]:
    """By identity: what the process has told, each as often as it is in Kafka."""
    found: dict[str, list[CommandEvent]] = {}
    for message in read_topic(stack.kafka_bootstrap, COMMAND_EVENT.name):
        headers = dict(message.headers() or [])
        if headers.get("source") == b"commands":
            event = msgspec.json.decode(message.value() or b"", type=CommandEvent)
            assert message.key() == str(event.device_id).encode()
            found.setdefault(headers["ce_id"].decode(), []).append(event)
    return found


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONGEST_S:.0f} s: {what}"
        time.sleep(0.05)


def switches(conn: psycopg.Connection[Any], device_id: int) -> list[Any]:
    return conn.execute(
        "SELECT is_on, by_kind, by_whom FROM switch_event WHERE device_id = %s ORDER BY switch_no",
        [device_id],
    ).fetchall()


def plug(conn: psycopg.Connection[Any], name: str) -> int:
    row = conn.execute(
        "INSERT INTO device (address, family) VALUES (%s, 'homesync') RETURNING device_id",
        [f"homesync:h/{name}"],
    ).fetchone()
    assert row is not None
    set_switch_interval(conn, 0, device_id=row[0])
    return int(row[0])


def ended(conn: psycopg.Connection[Any], rows: list[CommandRow]) -> bool:
    found = find_all(conn, [row.command_id for row in rows])
    return all(row.ended_at is not None for row in found)


def test_killed_at_any_time_no_command_is_lost_and_each_step_is_told(
    stack: Stack, database_url: str, conn: psycopg.Connection[Any], process: RunningProcess
):
    chance = random.Random(7)
    devices = [plug(conn, f"kill-{number}") for number in range(COMMANDS)]
    rows: list[CommandRow] = []
    with Far(stack, database_url) as far:
        process.start()
        for number, device_id in enumerate(devices):
            kind = Kind.ON if chance.random() < 0.5 else Kind.OFF
            rows.append(accept(conn, device_id, Ask(kind, expires_in_s=3600), "user:ann"))
            time.sleep(chance.uniform(0, 0.05))
            if number % (COMMANDS // KILLS) == COMMANDS // KILLS - 1:
                wait_for(lambda: far.ran, "it works")
                assert process.end(signal.SIGKILL) == -signal.SIGKILL
                process.start()
        wait_for(lambda: ended(conn, rows), "all commands have ended")
        wait_for(lambda: outbox(conn) == 0, "Kafka has all")
    assert process.end(signal.SIGTERM) == 0

    found = find_all(conn, [row.command_id for row in rows])
    assert {(row.state, row.confirmed_by) for row in found} == {("done", "answer")}
    assert sorted(far.ran) == sorted(str(row.command_id) for row in rows)
    told: dict[str, list[CommandState]] = {}
    for identity, copies in own_events(stack).items():
        assert all(one == copies[0] for one in copies), "a second time the same"
        assert identity.startswith(copies[0].command_id)
        told.setdefault(copies[0].command_id, []).append(copies[0].state)
    for row in rows:
        steps = told[str(row.command_id)]
        assert (steps[0], steps[-1]) == (CommandState.ACCEPTED, CommandState.DONE)
        assert len(steps) == len(set(steps))
    switched = conn.execute(
        "SELECT device_id, count(*), min(by_whom), count(command_id) FROM switch_event GROUP BY 1"
    ).fetchall()
    assert sorted(switched) == [(device_id, 1, "ann", 1) for device_id in sorted(devices)]


def outbox(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM command_outbox").fetchone()
    assert row is not None
    return int(row[0])


def test_of_two_processes_one_works_and_the_other_takes_over(
    stack: Stack, database_url: str, conn: psycopg.Connection[Any], process: RunningProcess
):
    device_id = plug(conn, "two")
    with Far(stack, database_url) as far:
        process.start()
        process.start()
        first = [accept(conn, device_id, Ask(Kind.ON, expires_in_s=600), "user:ann")]
        wait_for(lambda: ended(conn, first), "one works")
        assert far.requests[str(first[0].command_id)] == 1
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        second = [accept(conn, device_id, Ask(Kind.OFF, expires_in_s=600), "user:ann")]
        wait_for(lambda: ended(conn, second), "the other works")


def test_a_switching_is_taken_back_also_when_nobody_ran_at_its_time(
    stack: Stack, database_url: str, conn: psycopg.Connection[Any], process: RunningProcess
):
    device_id = plug(conn, "shed")
    with Far(stack, database_url):
        process.start()
        shed = accept(
            conn, device_id, Ask(Kind.OFF, expires_in_s=600, revert_after_s=3), "rule:shed"
        )
        wait_for(lambda: ended(conn, [shed]), "it is shed")
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        time.sleep(3.5)
        process.start()
        wait_for(
            lambda: (
                history(conn, device_id, None, 1)[0].state == "done"
                and len(history(conn, device_id, None, 9)) == 2
            ),
            "it is taken back",
        )
        wait_for(lambda: len(switches(conn, device_id)) > 1, "both switchings are attributed")
    back = history(conn, device_id, None, 1)[0]
    assert (back.kind, back.issued_by) == ("on", f"revert:{shed.command_id}")
    assert switches(conn, device_id) == [
        (False, "rule", "shed"),
        (True, "revert", str(shed.command_id)),
    ]


def test_what_is_no_event_is_passed_over_and_a_refusal_fails_the_command(
    stack: Stack, conn: psycopg.Connection[Any], process: RunningProcess
):
    device_id = plug(conn, "odd")
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "partitioner": PARTITIONER})
    for value in (b"", b"{", b"null", b'{"command_id": "x"}', b"\xff" * 100):
        producer.produce(COMMAND_EVENT.name, value, b"1", headers=[("source", b"downlink")])
        producer.produce(COMMAND_EVENT.name, value, b"1")
    row = accept(conn, device_id, Ask(Kind.REBOOT, confirm=True, expires_in_s=600), "user:ann")
    process.start()
    wait_for(lambda: find_all(conn, [row.command_id])[0].requested_at, "it is requested")
    asked = CommandRequest(
        str(row.command_id), 1, device_id, "homesync:h/odd", Kind.REBOOT, None, {}, 0, 0, "user:ann"
    )
    say(producer, asked, CommandState.FAILED, reason="this family has no reboot")
    producer.flush()
    wait_for(lambda: ended(conn, [row]), "it has failed")
    (found,) = find_all(conn, [row.command_id])
    assert (found.state, found.reason) == ("failed", "this family has no reboot")
