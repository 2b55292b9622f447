"""The whole pipeline, once for all system tests: servers, uplink, worker and roll-up, wiped after.

Every test uses devices of its own, so none needs an empty database. A test that kills or stops a
process leaves it running again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from infra.local import Stack, StackSettings, start
from infra.local.programs import OWN, SERVERS
from schemas.homesync import ack_topic, telemetry_topic
from schemas.topics import RAW
from schemas.units import MINUTE_US, SECOND_US
from sinks.finality import log_ends, records_behind, wait_final
from tests.whole_topic import read_topic

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DATA = PROJECT_ROOT.parent / "shared" / "data" / "household"
LONGEST_S = 240.0  # for what takes a second on a quiet machine

# `meterstream`, also while another room's commands are not in its table yet.
_COMMAND = """
import infra.cli as cli
wanted = [f"infra.cli.{name}" for name in ("load", "import_", "replay", "usage", "verify", "dlq")]
cli.MODULES = tuple(dict.fromkeys([*cli.MODULES, *wanted]))
cli.main()
"""


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = LONGEST_S) -> Any:
    """The condition's value as soon as it is true; an outage of a server is no value."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if value := condition():
                return value
        except (OSError, psycopg.OperationalError):
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)


def health_at(url: str) -> int:
    """The status of `/health` there; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


class Pipeline:
    """A running stack, and questions to its database, its processes and its command."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._connection: psycopg.Connection[Any] | None = None

    # ---- the database ----

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement; a connection that an outage has cut is opened anew."""
        for attempt in (1, 2):
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(
                    self.stack.database_url, autocommit=True, connect_timeout=5
                )
            try:
                return self._connection.execute(text.encode(), values).fetchall()
            except psycopg.OperationalError:
                self._connection.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def value(self, text: str, *values: object) -> Any:
        ((value,),) = self.query(text, *values)
        return value

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def final(self, *addresses: str, timeout_s: float = LONGEST_S) -> None:
        """Wait until the usage of these devices is final."""
        wait_final(
            self.stack.database_url, self.stack.kafka_bootstrap, addresses, timeout_s=timeout_s
        )

    def caught_up(self, timeout_s: float = LONGEST_S) -> None:
        """Wait until all that the log holds now is stored."""
        ends = log_ends(self.stack.kafka_bootstrap)

        def stored() -> bool:
            with psycopg.connect(self.stack.database_url, autocommit=True) as conn:
                return records_behind(conn, ends) == 0

        wait_for(stored, "what the log holds is stored", timeout_s)

    def minutes(self, address: str, channel: str = "total") -> list["Window"]:
        return self._windows("usage_1m", address, channel)

    def quarters(self, address: str, channel: str = "total") -> list["Window"]:
        return self._windows("usage_15m", address, channel)

    def _windows(self, table: str, address: str, channel: str) -> list["Window"]:
        rows = self.query(
            f"""
            SELECT to_us(window_start), energy_uwh, export_uwh, power_min_w, power_avg_w,
                   power_max_w, readings, quality, why, revision
            FROM {table} JOIN channel USING (channel_id) JOIN device USING (device_id)
            WHERE address = %s AND channel.name = %s ORDER BY 1""",
            address,
            channel,
        )
        return [Window(*row) for row in rows]

    def refused(self, address: str) -> list[tuple[str, bytes]]:
        """Reason and bytes of what was refused of a device, in the log's order."""
        return self.query(
            "SELECT reason, payload FROM refused WHERE address = %s ORDER BY log_offset", address
        )

    # ---- processes ----

    def pid(self, name: str) -> int:
        return wait_for(lambda: self._pid(name), f"{name} runs")

    def _pid(self, name: str) -> int | None:
        for one in self.stack.status():
            if one.name == name:
                return one.pid
        return None

    def kill(self, name: str) -> float:
        """`kill -9` of one process. Returns the instant, as `time.time()`."""
        pid = self.pid(name)
        at = time.time()
        os.kill(pid, signal.SIGKILL)
        return at

    def health(self, name: str) -> int:
        """The status of a process's `/health`; 0 when nobody answers."""
        return health_at(self._served_at(name))

    def metric(self, name: str, metric: str) -> float:
        """A number that a process tells Prometheus; 0 where it has not told it yet."""
        with urllib.request.urlopen(f"{self._served_at(name)}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                told, _, number = line.rpartition(" ")
                if told == metric:
                    return float(number)
        return 0.0

    def _served_at(self, name: str) -> str:
        port = getattr(self.stack.settings, f"{name}_metrics_port")
        return f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process in this stack finds its servers by, without a port for metrics."""
        return {**os.environ, **self.stack.environment(), "METERSTREAM_METRICS_PORT": "0"}

    def spawn(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """A Python process beside the supervised ones; its output is read at its end."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=PROJECT_ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_meterstream(self, *arguments: object) -> "subprocess.Popen[str]":
        return self.spawn("-c", _COMMAND, *map(str, arguments))

    def meterstream(self, *arguments: object, exit_code: int = 0) -> Any:
        """Run `meterstream … --json`; returns its document."""
        process = self.start_meterstream(*arguments, "--json")
        output, errors = process.communicate(timeout=280)
        assert process.returncode == exit_code, f"{process.returncode}: {errors}\n{output}"
        return json.loads(output)


@dataclass(frozen=True)
class Window:
    """A row of `usage_1m` or `usage_15m`, without its channel."""

    start_us: int
    energy_uwh: int
    export_uwh: int
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    readings: int
    quality: int
    why: int
    revision: int

    @property
    def content(self) -> tuple[object, ...]:
        """All but how often it changed."""
        return tuple(vars(self).values())[:-1]


class Publisher:
    """Stock paho with QoS 1, which also listens to the acknowledgements of homesync nodes.

    `flush` waits until the broker has confirmed everything.
    """

    def __init__(self, stack: Stack) -> None:
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            f"test-{random.randrange(10**12)}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        self.acked: dict[str, int] = {}  # topic of a node's acknowledgements -> seq
        self._sent: list[Any] = []
        self._client.on_message = self._heard
        self._client.max_inflight_messages_set(1000)
        self._client.connect("127.0.0.1", stack.mqtt_port)
        self._client.subscribe("homesync/+/nodes/+/ack")
        self._client.loop_start()

    def _heard(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.acked[message.topic] = json.loads(message.payload)["seq"]

    def publish(self, topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        self._sent.append(self._client.publish(topic, payload, qos=1, retain=retain))

    def flush(self) -> None:
        for info in self._sent:
            info.wait_for_publish(60)
            assert info.is_published()
        self._sent.clear()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Node:
    """A homesync node that says what it is told to, with a `seq` of its own."""

    publisher: Publisher
    home: str
    name: str = "meter"
    boot: str = "b0"
    seq: int = field(default=0, init=False)

    @property
    def address(self) -> str:
        return f"homesync:{self.home}/{self.name}"

    @property
    def topic(self) -> str:
        return telemetry_topic(self.home, self.name)

    def payload(self, at_us: int | None, **channels: dict[str, float]) -> bytes:
        self.seq += 1
        said = {
            "v": 1,
            "boot": self.boot,
            "seq": self.seq,
            "first": 1,
            "ts": None if at_us is None else at_us / SECOND_US,
            "channels": channels,
        }
        return json.dumps(said).encode()

    def say(self, at_us: int | None, **total: float) -> bytes:
        """Publish a reading of the channel `total`."""
        payload = self.payload(at_us, total=total)
        self.publisher.publish(self.topic, payload)
        return payload

    def safe(self) -> None:
        """Wait until Kafka has everything that was said, and the node was told so."""
        self.publisher.flush()
        topic = ack_topic(self.home, self.name)
        wait_for(lambda: self.publisher.acked.get(topic, 0) >= self.seq, f"{topic} {self.seq}")


@dataclass(frozen=True)
class Record:
    key: str
    value: bytes
    headers: dict[str, bytes]

    @property
    def document(self) -> Any:
        return json.loads(self.value)


class TopicReader:
    """Reads topics from their begin, each call to the end they have then."""

    def __init__(self, stack: Stack) -> None:
        self._bootstrap = stack.kafka_bootstrap

    def read(self, topic: str) -> list[Record]:
        return [
            Record(
                (message.key() or b"").decode(),
                message.value() or b"",
                dict(message.headers() or []),
            )
            for message in read_topic(self._bootstrap, topic)
        ]

    def of(self, topic: str, what: Callable[[Record], bool], count: int = 1) -> list[Record]:
        """The records that are `what`, as soon as there are so many."""

        def found() -> list[Record] | None:
            records = [record for record in self.read(topic) if what(record)]
            return records if len(records) >= count else None

        return wait_for(found, f"{count} records in {topic}")


def minute_ago(minutes: int, align: int = 15) -> int:
    """A whole quarter of an hour (or other `align`) some minutes back, in µs."""
    at_us = time.time_ns() // 1000 - minutes * MINUTE_US
    return at_us - at_us % (align * MINUTE_US)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    settings = StackSettings.free(tmp_path_factory.mktemp("pipeline"))
    programs = [*SERVERS, *(one for one in OWN if one.name in ("uplink", "worker", "rollup"))]
    running = Stack(settings, programs)
    try:
        one = Pipeline(start(settings, programs))
        wait_for(lambda: one.health("uplink") == 200, "the uplink is healthy")
        parts = "SELECT count(*) FROM stream_progress WHERE topic = %s"
        wait_for(lambda: one.value(parts, RAW.name) == RAW.partitions, "the worker has it all")
        yield one
        one.close()
    finally:
        running.wipe()


@pytest.fixture
def publisher(pipeline: Pipeline) -> Iterator[Publisher]:
    one = Publisher(pipeline.stack)
    yield one
    one.close()


@pytest.fixture
def home() -> str:
    """The name of a home that no other test has."""
    return f"h{random.randrange(10**12)}"


@pytest.fixture
def topics(pipeline: Pipeline) -> TopicReader:
    return TopicReader(pipeline.stack)


def household_file(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path
