"""Write to the raw log from a command: batches, no work a record, errors told at the end."""

from collections.abc import Sequence
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import PARTITIONER, RAW, RAW_MAX_BYTES, RawHeader

FLUSH_TIMEOUT_S = 60.0
_FULL_WAIT_S = 0.05

Headers = Sequence[tuple[str, str | bytes]]


def raw_headers(topic: str, received_us: int, source: str, shard: str) -> Headers:
    """In the order that `schemas.topics.RawHeader` gives."""
    return (
        (RawHeader.TOPIC, topic.encode()),
        (RawHeader.RECEIVED_AT, str(received_us)),
        (RawHeader.SOURCE, source),
        (RawHeader.SHARD, shard),
    )


class RawLog:
    """A producer to `energy.raw.v1`. As a context manager it is flushed at the end."""

    def __init__(self, bootstrap: str) -> None:
        self._error: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": int(FLUSH_TIMEOUT_S * 1000),
                "message.max.bytes": RAW_MAX_BYTES,
                "linger.ms": 10,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 200_000,
                "delivery.report.only.error": True,
                "partitioner": PARTITIONER,
                "on_delivery": self._report,
                "error_cb": lambda _error: None,
                "log_level": 0,
            }
        )
        self._producer.list_topics(RAW.name, timeout=10)  # raises where nobody answers

    def write(self, key: bytes, value: bytes, headers: Headers) -> None:
        while True:
            try:
                self._producer.produce(RAW.name, value, key, headers=list(headers))
                return
            except BufferError:
                self._producer.poll(_FULL_WAIT_S)

    def flush(self) -> None:
        """Wait until Kafka has all of it. Raises KafkaException where it has not."""
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        if self._error is not None:
            raise KafkaException(self._error)
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} records not written"))

    def _report(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._error is None:
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: Any) -> None:
        if kind is None:
            self.flush()
