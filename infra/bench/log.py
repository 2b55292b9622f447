"""A full raw log of seeded readings, one each 5 s of every device, and the same for the peers."""

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import Stack
from infra.local.parts import Progress
from schemas.homesync import telemetry_topic
from schemas.topics import PARTITIONER, RAW, RawHeader
from schemas.units import DAY_US, SECOND_US
from sinks.finality import log_ends

STEP_S = 5
HOME = "bench"
CHANNEL = "total"
PEER_TOPIC = "readings"
PEER_DEAD_LETTERS = "readings.dlq"
PEER_PARTITIONS = 4


@dataclass(frozen=True)
class Log:
    """What the raw topic holds: `readings` single-reading messages and, second by second, ticks."""

    readings: int
    start_s: int
    ends: dict[int, int]

    @property
    def records(self) -> int:
        return sum(self.ends.values())


class Fleet:
    """Seeded readings of many devices, each unlike the one before in every field."""

    def __init__(self, devices: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._register_uwh = [self._chance.randrange(10**12) for _ in range(devices)]

    def values(self, device: int, number: int) -> dict[str, float]:
        power_mw = self._chance.randrange(50_000, 3_000_000)
        self._register_uwh[device] += power_mw * STEP_S * 1000 // 3600
        return {
            "power_w": power_mw / 1000,
            "voltage_v": 228 + number % 50 / 10,
            "current_a": round(power_mw / 230_000, 3),
            "frequency_hz": 49.9 + number % 20 / 100,
            "power_factor": 0.9 + number % 10 / 100,
            "apparent_va": round(power_mw / 950, 1),
            "reactive_var": round(power_mw / 5000, 1),
            "import_total_wh": self._register_uwh[device] / 1e6,
            "export_total_wh": 0.0,
            "temperature_c": 30 + number % 100 / 10,
            "thd_voltage_percent": 2.5,
            "thd_current_percent": 3.0 + number % 7,
        }


def yesterday_noon_s() -> int:
    """A start that is as far into its day's chunk at whatever hour the benchmark runs."""
    now_us = time.time_ns() // 1000
    return (now_us // DAY_US * DAY_US - DAY_US // 2) // SECOND_US


def claim(conn: psycopg.Connection[object], devices: int) -> None:
    """Register the devices and their channels: making them is no part of any figure."""
    addresses = [f"homesync:{HOME}/n{n}" for n in range(devices)]
    conn.execute(
        "INSERT INTO device (address, family, home_id, claimed_at)"
        " SELECT a, 'homesync', %s, now() FROM unnest(%s::text[]) AS a",
        [HOME, addresses],
    )
    conn.execute(
        "INSERT INTO channel (device_id, name) SELECT device_id, %s FROM device", [CHANNEL]
    )
    conn.execute("ANALYZE device, channel")


def fill(
    stack: Stack, readings: int, devices: int, progress: Progress, *, peers: bool = False
) -> Log:
    """Register the devices and fill the log with whole rounds of theirs, at least two.

    With `peers`, the topic of the peers gets the same readings.
    """
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        claim(conn, devices)
    if peers:
        _make_peer_topics(stack.kafka_bootstrap)
    out = LogWriter(stack.kafka_bootstrap)
    rounds, start_s = max(2, readings // devices), yesterday_noon_s()
    topics = [telemetry_topic(HOME, f"n{n}").encode() for n in range(devices)]
    keys = [f"homesync:{HOME}/n{n}".encode() for n in range(devices)]
    names = [f"n{n}".encode() for n in range(devices)]
    fleet, encode, number = Fleet(devices, 1), msgspec.json.encode, 0
    told_at = 0
    for turn in range(rounds):
        for device in range(devices):
            at_s = start_s + turn * STEP_S + device % STEP_S
            values = fleet.values(device, number)
            number += 1
            message = {
                "v": 1, "boot": "bench", "seq": turn, "first": turn, "ts": at_s,
                "channels": {CHANNEL: values},
            }  # fmt: skip
            headers = [
                (RawHeader.TOPIC, topics[device]),
                (RawHeader.RECEIVED_AT, b"%d" % (at_s * SECOND_US + number % SECOND_US)),
                (RawHeader.SOURCE, b"mqtt"),
                (RawHeader.SHARD, b"0"),
                (RawHeader.PACKET_ID, b"%d" % (number % 65_535 + 1)),
            ]
            out.produce(RAW.name, keys[device], encode(message), headers)
            if peers:
                at = datetime.fromtimestamp(at_s, UTC).isoformat()
                told = {"device_id": f"n{device}", "ts": at, "seq": turn, **values}
                out.produce(PEER_TOPIC, names[device], encode(told), [])
        for second in range(1, STEP_S + 1):
            out.tick(start_s + turn * STEP_S + second)
        if number - told_at >= 100_000:
            told_at = number
            progress(f"filling the log: {number:,} readings")
    out.tick(start_s + rounds * STEP_S + 70)
    out.flush()
    return Log(number, start_s, log_ends(stack.kafka_bootstrap))


def _make_peer_topics(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = [NewTopic(name, PEER_PARTITIONS, 1) for name in (PEER_TOPIC, PEER_DEAD_LETTERS)]
    for made in admin.create_topics(topics).values():
        made.result(30)


class LogWriter:
    """A producer that waits where its queue is full."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 20,
                "enable.idempotence": True,  # or a retry would change the order
                "message.timeout.ms": 0,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": PARTITIONER,
            }
        )

    def produce(
        self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, key=key, value=value, headers=headers)
                return
            except BufferError:
                self._producer.poll(0.1)

    def tick(self, at_s: int) -> None:
        headers = [(RawHeader.SHARD, b"0"), (RawHeader.TICK, b"%d" % (at_s * SECOND_US))]
        for part in range(RAW.partitions):
            while True:
                try:
                    self._producer.produce(RAW.name, partition=part, headers=headers)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)

    def flush(self) -> None:
        self._producer.flush()
