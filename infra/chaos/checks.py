"""After a run: are the stored offsets the log's end, and do the topics say what the tables hold?"""

import time
from typing import Any

import msgspec
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.local import Stack
from schemas.topics import RAW, USAGE_1M, USAGE_15M
from schemas.usage import UsageWindow
from sinks.finality import log_ends

EQUAL_WITHIN_S = 120.0
READ_WITHIN_S = 300.0
LOOK_S = 0.2

_KEPT = ("energy_uwh", "export_uwh", "readings", "quality", "why", "revision")
_STORED = f"""
SELECT channel_id, to_us(window_start), {", ".join("t." + name for name in _KEPT)}
FROM {{}} AS t JOIN channel USING (channel_id) JOIN device USING (device_id)
WHERE home_id = %s AND revision > 0
"""
Window = tuple[int, ...]


def offsets_differ(stack: Stack) -> str:
    """Why the stored offsets are not the ends of the raw log; empty when they are.

    The uplink is stopped for it, and runs again afterwards.
    """
    stack.stop_process("uplink")
    try:
        ends = log_ends(stack.kafka_bootstrap)
        until = time.monotonic() + EQUAL_WITHIN_S
        while True:
            with psycopg.connect(stack.database_url, autocommit=True) as conn:
                rows = conn.execute(
                    "SELECT part, next_offset FROM stream_progress WHERE topic = %s", [RAW.name]
                ).fetchall()
                gaps = conn.execute("SELECT count(*) FROM log_gap").fetchone()
            stored: dict[int, int] = dict(rows)
            if stored == ends or time.monotonic() > until:
                break
            time.sleep(LOOK_S)
    finally:
        stack.start_process("uplink")
    wrong = [f"{part}: {stored.get(part)} of {end}" for part, end in ends.items()
             if stored.get(part) != end]  # fmt: skip
    if wrong:
        return f"offsets are not the log's end: {', '.join(wrong)}"
    if gaps and gaps[0]:
        return f"{gaps[0]} gaps in the log"
    return ""


def announced_differ(stack: Stack, home: str) -> str:
    """How what a reader of the usage topics keeps differs from the tables; empty when it does not.

    Waits until everything is announced.
    """
    until = time.monotonic() + EQUAL_WITHIN_S
    while waiting := _unannounced(stack):
        if time.monotonic() > until:
            return f"{waiting} rows are not announced"
        time.sleep(LOOK_S)
    for topic, table in ((USAGE_1M.name, "usage_1m"), (USAGE_15M.name, "usage_15m")):
        announced = highest_revisions(stack.kafka_bootstrap, topic, home)
        with psycopg.connect(stack.database_url, autocommit=True) as conn:
            rows = conn.execute(_STORED.format(table).encode(), [home]).fetchall()
        stored = {(row[0], row[1]): tuple(row[2:]) for row in rows}
        if announced == stored:
            continue
        keys = sorted(key for key in announced.keys() | stored.keys()
                      if announced.get(key) != stored.get(key))  # fmt: skip
        first = keys[0]
        return (
            f"{topic}: {len(keys)} of {len(stored)} windows differ; channel {first[0]} at "
            f"{first[1]} is announced as {announced.get(first)} and stored as "
            f"{stored.get(first)} ({', '.join(_KEPT)})"
        )
    return ""


def _unannounced(stack: Stack) -> int:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM announcement) + "
            "(SELECT count(*) FROM usage_15m WHERE complete AND NOT announced)"
        ).fetchone()
    assert row is not None
    return int(row[0])


def highest_revisions(bootstrap: str, topic: str, home: str) -> dict[tuple[int, int], Window]:
    """What a reader keeps of a home's windows: (channel, start in µs) → `_KEPT`."""
    decode = msgspec.json.Decoder(UsageWindow).decode
    left = {part for part, end in log_ends(bootstrap, topic).items() if end}
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": "meterstream-chaos",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "log_level": 0,
    }
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, part, OFFSET_BEGINNING) for part in left])
    kept: dict[tuple[int, int], Window] = {}
    until = time.monotonic() + READ_WITHIN_S
    try:
        while left:
            if time.monotonic() > until:
                raise TimeoutError(f"{topic}: partitions {sorted(left)} are not read to their end")
            for message in consumer.consume(5000, 0.2):
                if message.error():
                    left.discard(message.partition())
                    continue
                if message.key() != home.encode():
                    continue
                said = decode(message.value() or b"")
                key = (said.channel_id, said.window_start_us)
                window = tuple(int(getattr(said, name)) for name in _KEPT)
                if key not in kept or kept[key][-1] <= window[-1]:
                    kept[key] = window
    finally:
        consumer.close()
    return kept
