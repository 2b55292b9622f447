"""What the database has is told to Kafka, record by record, and waited for."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaError, Producer

from schemas.topics import PARTITIONER, Topic

_encode = msgspec.json.encode


class Record(NamedTuple):
    """One record: `identity` is the same however often it is sent; `kind` None is the topic's."""

    topic: Topic
    key: str
    identity: str
    said: msgspec.Struct
    kind: str | None = None


def make_producer(bootstrap: str) -> Producer:
    """An idempotent producer that waits for Kafka as long as it takes."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": 0,
            "compression.type": "lz4",
            "partitioner": PARTITIONER,
        }
    )


def publish(producer: Producer, records: Iterable[Record], source: str) -> None:
    """Send the records and wait until Kafka has them all. Raises RuntimeError if it refuses.

    Who marks them as announced afterwards sends them again after a crash in between: at least
    once, with the same identity.
    """
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    for one in records:
        producer.produce(
            one.topic.name,
            key=one.key.encode(),
            value=_encode(one.said),
            headers=[
                ("ce_id", one.identity.encode()),
                ("ce_type", (one.kind or one.topic.name).encode()),
                ("ce_source", source.encode()),
                ("content-type", b"application/json"),
            ],
            on_delivery=delivered,
        )
        producer.poll(0)
    producer.flush()
    if failed:
        raise RuntimeError(f"Kafka refused {len(failed)} records: {failed[0]}")
