"""How many readings a second one stream worker takes from a full log, beside quixstreams.

Both read the same readings (1,000 devices, one each 5 s) from a full topic of the same Kafka,
with TimescaleDB beside them on the same cores. The worker does all of its job: twelve columns a
reading, segments, state, windows, derived topics. quixstreams does the windows only, power alone.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.local import Stack
from infra.local.parts import Progress
from infra.local.settings import PROJECT_ROOT
from schemas.homesync import telemetry_topic
from schemas.topics import PARTITIONER, RAW, RawHeader
from schemas.units import SECOND_US

STEP_S = 5
PEER_JOB = PROJECT_ROOT.parent / "shared" / "bench" / "quix_job.py"
PEER_ENVIRONMENT = PROJECT_ROOT / ".local" / "bench" / "quix"
PEER_PACKAGES = ("quixstreams==3.28.1", "psycopg[binary]", "msgspec")
PEER_TOPIC = "readings"
PEER_PARTITIONS = 4
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """What one job did: readings/s of wall time, and its own process's CPU a reading."""

    name: str
    readings: int
    seconds: float
    cpu_us_per_reading: float | None

    @property
    def readings_per_s(self) -> float:
        return self.readings / self.seconds


class _Fleet:
    """Seeded readings of many devices, each unlike the one before in every field."""

    def __init__(self, devices: int, seed: int) -> None:
        self.devices = devices
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


def fill(stack: Stack, readings: int, devices: int, progress: Progress) -> int:
    """Fill the raw log, and the peer's topic, with the same readings; returns how many."""
    home = "bench"
    with psycopg.connect(stack.database_url, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO device (address, family, home_id, claimed_at)"
            " VALUES (%s, 'homesync', %s, now()) ON CONFLICT DO NOTHING",
            [(f"homesync:{home}/n{n}", home) for n in range(devices)],
        )
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    made = admin.create_topics([NewTopic(PEER_TOPIC, PEER_PARTITIONS, 1)])
    for future in made.values():
        future.result(30)
    producer = Producer(
        {
            "bootstrap.servers": stack.kafka_bootstrap,
            "linger.ms": 20,
            "enable.idempotence": True,  # or a retry would change the order
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
            "partitioner": PARTITIONER,
        }
    )
    rounds = readings // devices
    start_s = (int(time.time()) - rounds * STEP_S - 3600) // 60 * 60
    topics = [telemetry_topic(home, f"n{n}").encode() for n in range(devices)]
    keys = [f"homesync:{home}/n{n}".encode() for n in range(devices)]
    fleet, encode, number = _Fleet(devices, 1), msgspec.json.encode, 0
    for turn in range(rounds):
        for device in range(devices):
            at_s = start_s + turn * STEP_S + device % STEP_S
            values = fleet.values(device, number)
            number += 1
            _produce(
                producer,
                RAW.name,
                keys[device],
                encode(
                    {
                        "v": 1, "boot": "bench", "seq": turn, "first": turn, "ts": at_s,
                        "channels": {"total": values},
                    }
                ),
                [
                    (RawHeader.TOPIC, topics[device]),
                    (RawHeader.RECEIVED_AT, str(at_s * SECOND_US + number % SECOND_US).encode()),
                    (RawHeader.SOURCE, b"mqtt"),
                    (RawHeader.SHARD, b"0"),
                    (RawHeader.PACKET_ID, str(number % 65_535 + 1).encode()),
                ],
            )  # fmt: skip
            peer = {
                "device_id": f"n{device}",
                "ts": datetime.fromtimestamp(at_s, UTC).isoformat(),
                "seq": turn,
                **values,
            }
            _produce(producer, PEER_TOPIC, f"n{device}".encode(), encode(peer), [])
        for second in range(1, STEP_S + 1):
            _tick(producer, start_s + turn * STEP_S + second)
        producer.poll(0)
        if turn % 50 == 0:
            progress(f"filling the log: {number:,} readings")
    _tick(producer, start_s + rounds * STEP_S + 70)
    producer.flush()
    return number


def _tick(producer: Producer, at_s: int) -> None:
    for partition in range(RAW.partitions):
        headers = [
            (RawHeader.SHARD, b"0"),
            (RawHeader.TICK, str(at_s * SECOND_US).encode()),
        ]
        while True:
            try:
                producer.produce(RAW.name, partition=partition, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)


def _produce(
    producer: Producer, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    while True:
        try:
            producer.produce(topic, key=key, value=value, headers=headers)
            return
        except BufferError:
            producer.poll(0.1)


def measure_workers(stack: Stack, readings: int, workers: int, timeout_s: float) -> Rate:
    """Start workers on the full log; their time runs from the first commit to the last."""
    ends = _log_ends(stack.kafka_bootstrap)
    with (
        psycopg.connect(stack.database_url, autocommit=True) as conn,
        (stack.log_dir / "bench-worker.log").open("wb") as output,
    ):
        for table in _STREAMED:
            conn.execute(f"TRUNCATE {table}")
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "streams"],
                env={
                    **os.environ,
                    **stack.environment(),
                    "METERSTREAM_METRICS_PORT": "0",
                    "METERSTREAM_INSTANCE": str(number),
                },
                stdout=output,
                stderr=output,
            )
            for number in range(workers)
        ]
        try:
            samples = list(_until_done(conn, ends, [one.pid for one in running], timeout_s))
        finally:
            for one in running:
                one.kill()
                one.wait()
    first = next(sample for sample in samples if sample[1] > 0)
    last = samples[-1]
    done = round(readings * (last[1] - first[1]) / last[1])
    name = "meterstream, whole agent, " + ("1 worker" if workers == 1 else f"{workers} workers")
    return Rate(name, done, last[0] - first[0], (last[2] - first[2]) / done * 1e6)


_STREAMED = (
    "readings", "usage_1m", "gap_energy", "channel_state", "window_dirty", "stream_progress",
    "announcement", "refused", "rollup_dirty",
)  # fmt: skip


def _log_ends(bootstrap: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    try:
        return {
            part: consumer.get_watermark_offsets(TopicPartition(RAW.name, part), 30)[1]
            for part in range(RAW.partitions)
        }
    finally:
        consumer.close()


def _until_done(
    conn: psycopg.Connection[tuple[int, int]],
    ends: dict[int, int],
    pids: list[int],
    timeout_s: float,
) -> Iterator[tuple[float, int, float]]:
    """(seconds, records taken, CPU seconds of the workers) until the log's end is reached."""
    deadline = time.monotonic() + timeout_s
    while True:
        rows = conn.execute("SELECT part, next_offset FROM stream_progress").fetchall()
        taken = sum(min(offset, ends[part]) for part, offset in rows)
        yield time.monotonic(), taken, sum(map(cpu_s, pids))
        if taken == sum(ends.values()):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers took {taken} of {sum(ends.values())} records in time")
        time.sleep(0.1)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure_quix(stack: Stack, readings: int, progress: Progress, timeout_s: float) -> Rate | None:
    """The peer's job in its own environment; None where ../shared/bench is missing."""
    if not PEER_JOB.exists():
        progress(f"{PEER_JOB} is missing: quixstreams is left out")
        return None
    python = PEER_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        progress("installing quixstreams into an environment of its own")
        subprocess.run([sys.executable, "-m", "venv", str(PEER_ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    progress("quixstreams, windows only")
    done = subprocess.run(
        [
            *(str(python), str(PEER_JOB), "--brokers", stack.kafka_bootstrap),
            *("--topic", PEER_TOPIC, "--pg", stack.database_url, "--limit", str(readings)),
        ],
        capture_output=True,
        timeout=timeout_s,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return Rate("quixstreams, windows only", told["messages"], told["seconds"], None)
