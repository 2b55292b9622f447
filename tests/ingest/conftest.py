"""A real connector process, a publisher and a reader of the raw log, for the uplink's tests."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from infra.local import Stack
from infra.local.topics import create_topics
from schemas.topics import RAW, RAW_DLQ

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The condition's value as soon as it is neither None nor False."""
    deadline = time.monotonic() + timeout_s
    while (value := condition()) is None or value is False:
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return value


class Uplink:
    """`python -m ingest`, its log and its metrics."""

    def __init__(self, stack: Stack, log_file: Path, **settings: str) -> None:
        self.log_file = log_file
        environment = {
            **os.environ,
            **stack.environment(),
            "METERSTREAM_METRICS_PORT": "0",
            **{f"METERSTREAM_UPLINK_{name.upper()}": value for name, value in settings.items()},
        }
        with log_file.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ingest"],
                cwd=PROJECT_ROOT,
                env=environment,
                stdout=out,
                stderr=out,
            )

    def events(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events() if entry["event"] == event]

    @property
    def url(self) -> str:
        started = wait_for(lambda: self.logged("started") or None, "the start line")
        return f"http://127.0.0.1:{started[-1]['metrics_port']}"

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found[1])

    def count(self, name: str) -> float:
        return self.metric(f"meterstream_uplink_{name}")

    def health(self) -> tuple[int, list[str]]:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
                return answer.status, json.load(answer)["reasons"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["reasons"]

    def wait_ready(self) -> "Uplink":
        url = self.url

        def connected() -> bool:
            assert self.process.poll() is None, self.log_file.read_text()[-3000:]
            with suppress(OSError):
                return self.count("connected") == 1 and bool(url)
            return False

        wait_for(connected, "the uplink is connected and subscribed")
        return self

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self, timeout_s: float = 12) -> int:
        self.process.terminate()
        return self.process.wait(timeout=timeout_s)


@dataclass(frozen=True)
class Record:
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]

    @property
    def topic(self) -> str | None:
        return self.header("mqtt_topic")

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.headers if key == name), None)

    @property
    def at(self) -> int:
        """`received_at`, or the tick's time."""
        return int(self.header("received_at") or self.header("tick") or 0)


class RawLog:
    """A Kafka topic from now on."""

    def __init__(self, stack: Stack, topic: str = RAW.name) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": stack.kafka_bootstrap,
                "group.id": "test",
                "enable.auto.commit": False,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
                "log_level": 0,
            }
        )
        count = len(self._consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        starts = []
        for partition in range(count):
            at = TopicPartition(topic, partition)
            at.offset = wait_for(lambda at=at: self._end(at), "the partition has a leader")
            starts.append(at)
        self._consumer.assign(starts)
        self.partitions = count
        self.records: list[Record] = []

    def _end(self, at: TopicPartition) -> int | None:
        """The end offset; None while the new topic has no leader yet."""
        try:
            return self._consumer.get_watermark_offsets(at, timeout=10)[1]
        except KafkaException:
            return None

    def poll(self, timeout_s: float = 0.2) -> None:
        for message in self._consumer.consume(5000, timeout_s):
            if message.error():
                continue
            self.records.append(
                Record(
                    message.partition(),
                    message.offset(),
                    message.key(),
                    message.value(),
                    message.headers() or [],
                )
            )

    def of(self, prefix: str) -> list[Record]:
        return [record for record in self.records if (record.topic or "").startswith(prefix)]

    def ticks(self) -> list[Record]:
        return [record for record in self.records if record.header("tick")]

    def wait(self, prefix: str, count: int, timeout_s: float = 60.0) -> list[Record]:
        """The records of MQTT topics with this prefix, once there are `count` of them."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.of(prefix)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records of {prefix}"
            self.poll()
        return found

    def close(self) -> None:
        self._consumer.close()


class Publisher:
    """Stock paho with QoS 1; `flush` waits until the broker has confirmed everything."""

    def __init__(self, stack: Stack) -> None:
        self.client = Client(
            CallbackAPIVersion.VERSION2, "test-publisher", protocol=MQTTProtocolVersion.MQTTv5
        )
        self.client.max_inflight_messages_set(1000)
        self.client.connect("127.0.0.1", stack.mqtt_port)
        self.client.loop_start()
        self._last: list[Any] = []

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        self._last.append(self.client.publish(topic, payload, qos=qos, retain=retain))

    def flush(self) -> None:
        for info in self._last:
            info.wait_for_publish(30)
            assert info.is_published()
        self._last.clear()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="session")
def servers(stack: Stack) -> Stack:
    """The stack with its topics."""
    create_topics(stack.kafka_bootstrap)
    return stack


@pytest.fixture
def start_uplink(servers: Stack, tmp_path: Path) -> Iterator[Callable[..., Uplink]]:
    """Starts connectors, connected and subscribed; what still runs in the end is killed."""
    started: list[Uplink] = []

    def start(**settings: str) -> Uplink:
        one = Uplink(servers, tmp_path / f"uplink-{len(started)}.log", **settings)
        started.append(one)
        return one.wait_ready()

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture
def raw_log(servers: Stack) -> Iterator[RawLog]:
    log = RawLog(servers)
    yield log
    log.close()


@pytest.fixture
def dead_letters(servers: Stack) -> Iterator[RawLog]:
    log = RawLog(servers, RAW_DLQ.name)
    yield log
    log.close()


@pytest.fixture
def publisher(servers: Stack) -> Iterator[Publisher]:
    one = Publisher(servers)
    yield one
    one.close()
