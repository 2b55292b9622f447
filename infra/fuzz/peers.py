"""Whom a fuzz speaks to: the broker, a good node's row, and Kafka's topics."""

import json
import time
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from infra.fuzz.oracle import Place, RawRecord
from infra.fuzz.plan import Shot
from infra.local.stack import Stack
from schemas.homesync import telemetry_topic
from schemas.topics import RawHeader
from schemas.units import SECOND_US
from sinks.registry import claim_device

STUCK_S = 60.0


class Stuck(Exception):
    """The pipeline does not go on; the text says where."""


class Publisher:
    """Stock paho. `flush` waits until the broker has confirmed everything."""

    def __init__(self, stack: Stack) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(1_000)
        self._client.connect("127.0.0.1", stack.mqtt_port)
        self._client.loop_start()
        self._waiting: list[MQTTMessageInfo] = []

    def publish(self, shot: Shot) -> None:
        self._waiting.append(self._client.publish(shot.topic, shot.payload, shot.qos, shot.retain))

    def flush(self) -> None:
        for info in self._waiting:
            info.wait_for_publish(STUCK_S)
            if not info.is_published():
                raise Stuck(f"the broker did not confirm a message within {STUCK_S:.0f} s")
        self._waiting.clear()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class GoodNode:
    """A node that says a sound reading and waits for its row."""

    def __init__(self, conn: psycopg.Connection[Any], publisher: Publisher, home: str) -> None:
        self._conn, self._publisher = conn, publisher
        self._topic = telemetry_topic(home, "good")
        self.address = f"homesync:{home}/good"
        self._boot = f"{time.time_ns():x}"
        self._seq = 0
        claim_device(conn, self.address, f"Fuzz {home} good", home, "Asia/Bangkok")

    def be_heard(self) -> None:
        """Speak until a row is there: an uplink that has just started may not listen yet."""
        deadline = time.monotonic() + STUCK_S
        while True:
            try:
                self.say(within_s=2.0)
                return
            except Stuck:
                if time.monotonic() > deadline:
                    raise

    def say(self, within_s: float = STUCK_S) -> tuple[Shot, float]:
        """The message, and the milliseconds until its row was there. Raises Stuck."""
        self._seq += 1
        at_us = time.time_ns() // 1000
        payload = {
            "v": 1, "boot": self._boot, "seq": self._seq, "first": self._seq,
            "ts": at_us / SECOND_US, "channels": {"total": {"power_w": self._seq + 0.25}},
        }  # fmt: skip
        shot = Shot(self._topic, json.dumps(payload).encode(), 1, False)
        begun = time.monotonic()
        self._publisher.publish(shot)
        while not self._conn.execute(
            "SELECT 1 FROM readings JOIN channel USING (channel_id) JOIN device USING (device_id) "
            "WHERE address = %s AND measured_at = from_us(%s)", [self.address, at_us],
        ).fetchone():  # fmt: skip
            if time.monotonic() - begun > within_s:
                raise Stuck(f"a good message is not stored within {within_s:.0f} s")
            time.sleep(0.005)
        return shot, (time.monotonic() - begun) * 1000


class Reader:
    """Reads ranges of a topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "meterstream-fuzz",  # never joined, nothing committed
                "enable.auto.commit": False,
                "fetch.message.max.bytes": 4 * 1024 * 1024,
                "log_level": 0,
            }
        )

    def read(self, begin: dict[int, int], end: dict[int, int]) -> list[KafkaMessage]:
        """The records from `begin` to before `end` of each partition. Raises Stuck."""
        wanted = {part: at for part, at in begin.items() if at < end[part]}
        self._consumer.assign([TopicPartition(self._topic, p, at) for p, at in wanted.items()])
        found: list[KafkaMessage] = []
        deadline = time.monotonic() + STUCK_S
        while wanted:
            if time.monotonic() > deadline:
                raise Stuck(f"{self._topic} cannot be read from {wanted}")
            for message in self._consumer.consume(1_000, 0.05):
                part, offset = message.partition(), message.offset()
                if message.error() or part not in wanted or offset >= end[part]:
                    continue
                found.append(message)
                if offset + 1 >= end[part]:
                    del wanted[part]
        self._consumer.unassign()
        return found


def raw_record(message: KafkaMessage) -> RawRecord | None:
    """None: a tick."""
    headers = dict(message.headers() or [])
    if RawHeader.TOPIC not in headers:
        return None
    return RawRecord(
        (message.partition(), message.offset()),
        headers[RawHeader.TOPIC].decode(),
        message.value() or b"",
        int(headers[RawHeader.RECEIVED_AT]),
        RawHeader.RETAINED in headers,
        RawHeader.DUP in headers,
    )


def dead_letter(message: KafkaMessage) -> RawRecord:
    said = {name: value.decode(errors="replace") for name, value in message.headers() or []}
    prefix = "__connect.errors."
    place: Place = (int(said[f"{prefix}partition"]), int(said[f"{prefix}offset"]))
    return RawRecord(
        place,
        said.get(RawHeader.TOPIC, ""),
        message.value() or b"",
        reason=said[f"{prefix}exception.class.name"],
    )
