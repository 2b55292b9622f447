"""A real downlink process on the real Kafka and Mosquitto, and devices that listen."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaException, Producer, TopicPartition
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from infra.local import Stack
from schemas.command import CommandEvent, CommandRequest, CommandState, Kind
from schemas.topics import COMMAND_EVENT, COMMAND_REQUEST, PARTITIONER
from schemas.units import SECOND_US

ROOT = Path(__file__).resolve().parents[3]
LONGEST_S = 150.0


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = LONGEST_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)
    return value


class DownlinkProcess:
    """`python -m ingest.downlink`; its log is a file."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self.environment = {
            **os.environ, **stack.environment(), "METERSTREAM_METRICS_PORT": "0",
        }  # fmt: skip
        self._log = log
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def start(self) -> "DownlinkProcess":
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-m", "ingest.downlink"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        return self

    def wait_ready(self) -> "DownlinkProcess":
        wait_for(lambda: self.metric("connected") == 1, "the downlink is connected")
        return self

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [one for one in said if one["event"] == event]

    def metric(self, name: str) -> float | None:
        started = self.logged("started")
        if not started:
            return None
        url = f"http://127.0.0.1:{started[-1]['metrics_port']}/metrics"
        with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
            found = re.search(rf"^meterstream_downlink_{name} (\S+)$", text, re.MULTILINE)
            return float(found[1]) if found else None
        return None

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._running is not None
        self._running.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        assert self._running is not None
        code = self._running.wait(60)
        self._running = None
        return code

    def close(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def print_log(self) -> None:
        """Shown with a failure."""
        print(self._log.read_text()[-4000:])


class Requests:
    """Puts commands on Kafka, as the command process does."""

    def __init__(self, stack: Stack) -> None:
        self._producer = Producer(
            {"bootstrap.servers": stack.kafka_bootstrap, "partitioner": PARTITIONER,
             "enable.idempotence": True, "linger.ms": 0, "message.timeout.ms": 0,
             "log_level": 0}
        )  # fmt: skip
        self._seqs: dict[str, int] = {}
        self._devices: dict[str, int] = {}

    def make(
        self, address: str, kind: Kind = Kind.ON, channel: str | None = None, lives_s: float = 60,
        **parameters: object,
    ) -> CommandRequest:  # fmt: skip
        seq = self._seqs[address] = self._seqs.get(address, 0) + 1
        now_us = time.time_ns() // 1000
        return CommandRequest(
            command_id=str(uuid.uuid4()),
            command_seq=seq,
            device_id=self._devices.setdefault(address, uuid.uuid4().int % 2**30),
            address=address,
            kind=kind,
            channel=channel,
            parameters=parameters,
            issued_us=now_us,
            expires_us=now_us + int(lives_s * SECOND_US),
            issued_by="user:test",
        )

    def send(self, *requests: CommandRequest) -> None:
        for one in requests:
            self._producer.produce(
                COMMAND_REQUEST.name,
                key=str(one.device_id).encode(),
                value=msgspec.json.encode(one),
            )
        self._producer.flush()

    def ask(self, address: str, kind: Kind = Kind.ON, **more: Any) -> CommandRequest:
        one = self.make(address, kind, **more)
        self.send(one)
        return one

    def say(self, of: CommandRequest, state: CommandState) -> None:
        """What the command process would say."""
        event = CommandEvent(of.command_id, of.device_id, of.address, state, time.time_ns() // 1000)
        self._producer.produce(
            COMMAND_EVENT.name, key=str(of.device_id).encode(), value=msgspec.json.encode(event)
        )
        self._producer.flush()


class Events:
    """What is said on `energy.command.event.v1` from now on."""

    def __init__(self, stack: Stack) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": stack.kafka_bootstrap, "group.id": "test",
             "enable.auto.commit": False, "log_level": 0}
        )  # fmt: skip
        parts = [
            TopicPartition(COMMAND_EVENT.name, part, OFFSET_END)
            for part in range(COMMAND_EVENT.partitions)
        ]
        for part in parts:
            part.offset = wait_for(lambda part=part: self._end(part) + 1, "a leader") - 1
        self._consumer.assign(parts)
        self.all: list[CommandEvent] = []

    def _end(self, part: TopicPartition) -> int:
        try:
            return int(self._consumer.get_watermark_offsets(part, timeout=10)[1])
        except KafkaException:
            return -1

    def of(self, command: CommandRequest) -> list[CommandEvent]:
        for message in self._consumer.consume(1000, 0.1):
            if message.error() is None:
                self.all.append(msgspec.json.decode(message.value(), type=CommandEvent))
        return [one for one in self.all if one.command_id == command.command_id]

    def wait(self, command: CommandRequest, state: CommandState) -> CommandEvent:
        def found() -> list[CommandEvent]:
            return [one for one in self.of(command) if one.state is state]

        return wait_for(found, f"command {command.command_id} is {state}")[0]

    def close(self) -> None:
        self._consumer.close()


class Heard(NamedTuple):
    topic: str
    payload: bytes
    retain: bool
    expiry_s: int | None
    at: float


class Listener:
    """A device's connection: MQTT 5, a clean session, QoS 1."""

    def __init__(self, stack: Stack, *topics: str) -> None:
        self.heard: list[Heard] = []
        self._subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2, f"device-{uuid.uuid4()}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )  # fmt: skip
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", stack.mqtt_port)
        self._client.loop_start()
        self._client.subscribe([(topic, 1) for topic in topics])
        assert self._subscribed.wait(60)

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        expiry_s = getattr(message.properties, "MessageExpiryInterval", None)
        self.heard.append(
            Heard(message.topic, message.payload, message.retain, expiry_s, time.time())
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
