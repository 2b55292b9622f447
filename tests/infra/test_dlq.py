"""`meterstream dlq`: refused records, shown and put back as they were, with real servers."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import typer
from click.testing import Result
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from typer.testing import CliRunner

from infra.cli import dlq
from infra.local import Stack
from ingest.partitioner import partition_of
from schemas.topics import RAW

pytestmark = pytest.mark.stack
AT = datetime(2026, 2, 6, 14, 30, 0, 123456, tzinfo=UTC)
ROWS = [
    (3, 1042, "homesync:h/n", "homesync/h/nodes/n/telemetry/power", 0, "malformed", b"\xff\x00{"),
    (3, 1043, "homesync:h/n", "homesync/h/nodes/n/telemetry/power", 0, "too_old", b'{"ts":1}'),
    (7, 9, "wattaway:ไฟ", "devices/ไฟ/data", 1, "malformed", b""),
]


@pytest.fixture(scope="module")
def ready(stack: Stack) -> Stack:
    stack.prepare()
    return stack


@pytest.fixture
def conn(ready: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(ready.database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE refused")
        for i, (part, offset, address, topic, source, reason, payload) in enumerate(ROWS):
            connection.execute(
                "INSERT INTO refused VALUES (%s, %s, %s, %s, %s, %s, %s, 'because', %s)",
                [part, offset, address, topic, source, AT + timedelta(hours=i), reason, payload],
            )
        yield connection


def run(stack: Stack, *arguments: str) -> Result:
    app = typer.Typer()
    dlq.register(app)
    return CliRunner().invoke(app, ["dlq", *arguments], env=stack.environment())


class Log:
    """What comes onto the raw log from now on."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-dlq"})
        parts = [TopicPartition(RAW.name, part) for part in range(RAW.partitions)]
        for part in parts:
            part.offset = self._end(part)
        self._consumer.assign(parts)

    def _end(self, part: TopicPartition) -> int:
        """New partitions have no leader for a moment."""
        for _ in range(50):
            try:
                return int(self._consumer.get_watermark_offsets(part, timeout=10)[1])
            except KafkaException:
                time.sleep(0.2)
        raise AssertionError(f"{part} has no leader")

    def read(self, count: int) -> list[Message]:
        """That many, however long they take, and what comes within a second more."""
        found: list[Message] = []
        deadline = time.monotonic() + 60
        while len(found) < count and time.monotonic() < deadline:
            found += self._consumer.consume(count - len(found), timeout=1)
        return [*found, *self._consumer.consume(1, timeout=1)]

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def log(ready: Stack) -> Iterator[Log]:
    log = Log(ready.kafka_bootstrap)
    yield log
    log.close()


def test_the_list_shows_the_newest_first_and_can_be_narrowed(ready: Stack, conn):
    def places(*arguments: str) -> list[str]:
        return [one["place"] for one in json.loads(run(ready, "list", "--json", *arguments).stdout)]

    assert places() == ["7:9", "3:1043", "3:1042"]
    assert places("--reason", "malformed") == ["7:9", "3:1042"]
    assert places("--since", "2026-02-06T15:00:00Z", "--limit", "1") == ["7:9"]
    assert places("--since", "2026-02-07") == []
    assert "3:1042" in run(ready, "list").stdout


def test_show_gives_reason_headers_and_the_original_bytes(ready: Stack, conn):
    result = run(ready, "show", "3:1042")
    assert "malformed: because" in result.stdout
    assert "\\xff" in result.stdout
    assert run(ready, "show", "3:1042", "--raw").stdout_bytes == b"\xff\x00{"
    shown = json.loads(run(ready, "show", "3:1042", "--json").stdout)
    assert shown["headers"] == {
        "mqtt_topic": "homesync/h/nodes/n/telemetry/power",
        "received_at": str(int(AT.timestamp()) * 1_000_000 + 123456),
        "source": "mqtt",
    }
    assert run(ready, "show", "3:1").exit_code == 1
    assert run(ready, "show", "three").exit_code == 2


def test_a_replayed_record_is_the_original_once(ready: Stack, conn, log: Log):
    assert run(ready, "replay", "--dry-run").stdout.startswith("3 refused")
    assert log.read(0) == []
    assert json.loads(run(ready, "replay", "--json").stdout) == {"replayed": 3, "chosen": 3}
    came = {message.value(): message for message in log.read(3)}
    assert came.keys() == {row[-1] for row in ROWS} or None in came  # an empty value may be None
    message = came[b"\xff\x00{"]
    assert message.key() == b"homesync:h/n"
    assert message.partition() == partition_of(b"homesync:h/n", RAW.partitions)
    assert message.headers() == [
        ("mqtt_topic", b"homesync/h/nodes/n/telemetry/power"),
        ("received_at", str(int(AT.timestamp()) * 1_000_000 + 123456).encode()),
        ("source", b"mqtt"),
        ("shard", b"replay"),
    ]
    replayed = conn.execute("SELECT count(*) FROM refused WHERE replayed_at IS NOT NULL")
    assert replayed.fetchone() == (3,)
    assert json.loads(run(ready, "replay", "--json").stdout)["replayed"] == 0
    assert log.read(0) == []


def test_single_records_and_reasons_can_be_replayed_and_again(ready: Stack, conn, log: Log):
    assert json.loads(run(ready, "replay", "3:1042", "--json").stdout)["replayed"] == 1
    result = run(ready, "replay", "--reason", "too_old", "--any-age", "--json")
    assert json.loads(result.stdout)["replayed"] == 1
    sources = {message.value(): dict(message.headers())["source"] for message in log.read(2)}
    assert sources == {b"\xff\x00{": b"mqtt", b'{"ts":1}': b"import"}
    again = run(ready, "replay", "3:1042", "--again", "--json")
    assert json.loads(again.stdout)["replayed"] == 1
    assert [message.value() for message in log.read(1)] == [b"\xff\x00{"]


def test_an_absent_kafka_notes_nothing_as_replayed(ready: Stack, conn):
    app = typer.Typer()
    dlq.register(app)
    environment = ready.environment() | {"METERSTREAM_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    result = CliRunner().invoke(app, ["dlq", "replay"], env=environment)
    assert result.exit_code == 1
    assert "meterstream up" in result.stderr
    replayed = conn.execute("SELECT count(*) FROM refused WHERE replayed_at IS NOT NULL")
    assert replayed.fetchone() == (0,)
