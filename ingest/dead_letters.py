"""Messages that Kafka will never take on the raw topic, written to `energy.raw.dlq`."""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ingest.raw_record import Header, Route, record_bytes
from schemas.topics import RAW, RAW_DLQ

DLQ_MAX_BYTES = int(RAW_DLQ.config["max.message.bytes"])
DLQ_CUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused message, and what to do when Kafka has it: only then it may be acknowledged."""

    payload: bytes
    route: Route
    headers: list[Header]
    reason: str
    detail: str
    buried: Callable[["DeadLetter", KafkaError | None], None]


class DeadLetters:
    """A queue in front of Kafka's own: what that has no room for waits here, in order."""

    def __init__(self, producer: Producer, connector_name: str) -> None:
        self._producer = producer
        self._connector_name = connector_name
        self._waiting: deque[DeadLetter] = deque()
        self.partitions = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, letter: DeadLetter) -> None:
        self._waiting.append(letter)

    def feed(self) -> None:
        """Hand them to Kafka's queue until it is full. Raises KafkaException for one it refuses."""
        while self._waiting and self._bury(self._waiting[0]):
            self._waiting.popleft()

    def _bury(self, letter: DeadLetter) -> bool:
        payload, route = letter.payload, letter.route
        headers: list[Header] = [
            *letter.headers,
            ("__connect.errors.topic", RAW.name),
            ("__connect.errors.connector.name", self._connector_name),
            ("__connect.errors.stage", "KAFKA_PRODUCE"),
            ("__connect.errors.class.name", letter.reason),
            ("__connect.errors.exception.message", letter.detail),
            ("x-sha256", hashlib.sha256(payload).hexdigest()),
        ]
        if record_bytes(payload, route) > DLQ_MAX_BYTES:
            headers.append(("x-truncated-from", str(len(payload))))
            payload = payload[:DLQ_CUT_BYTES]
        partition = route.partition % self.partitions
        report = partial(_reported, letter)
        try:
            self._producer.produce(
                RAW_DLQ.name, payload, route.key, partition, report, None, 0, headers
            )
        except BufferError:
            return False
        except KafkaException as error:
            raise KafkaException(
                f"Kafka refuses a dead letter of {len(letter.payload)} bytes: {error}"
            ) from error
        return True


def _reported(letter: DeadLetter, error: KafkaError | None, _message: Message) -> None:
    letter.buried(letter, error)
