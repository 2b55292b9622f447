"""The outbox of commands on its way to Kafka: at least once, in the order of each device."""

from typing import Any

import msgspec
import psycopg
from confluent_kafka import KafkaError, Message, Producer
from prometheus_client import Counter

from schemas.command import CommandRequest
from schemas.topics import COMMAND_EVENT, COMMAND_REQUEST, PARTITIONER
from sinks.command_work import Outgoing, take_outbox

PUBLISHED = Counter("meterstream_commands_published", "Records that Kafka has", ["topic"])

SOURCE = b"commands"
_MOST = 1_000
_MOST_IN_FLIGHT = 5_000
_encode = msgspec.json.encode


class OutboxRelay:
    """Publishes rows of the outbox and deletes those that Kafka has confirmed.

    After a crash in between they are published again, with the same identity.
    """

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 2,  # what a round publishes goes together
                "partitioner": PARTITIONER,
            }
        )
        self.in_flight: set[int] = set()
        self._delivered: list[int] = []
        self._refused: str | None = None

    def run(self, conn: psycopg.Connection[Any]) -> None:
        """Publish what waits, and forget what has arrived. Never waits for Kafka.

        Raises RuntimeError if Kafka refuses a record.
        """
        while True:
            self._producer.poll(0)
            if self._refused is not None:
                raise RuntimeError(f"Kafka refused a record: {self._refused}")
            arrived = self._delivered.copy()
            room = min(_MOST, _MOST_IN_FLIGHT - len(self.in_flight))
            taken = take_outbox(conn, self.in_flight, max(room, 0), arrived)
            self.in_flight.difference_update(arrived)
            del self._delivered[: len(arrived)]
            for one in taken:
                self._publish(one)
            if len(taken) < _MOST:
                return

    def wait(self, seconds: float) -> None:
        """Until Kafka has all, or so long."""
        self._producer.flush(seconds)

    def _publish(self, one: Outgoing) -> None:
        self.in_flight.add(one.outbox_no)
        if one.said is None:
            self._delivered.append(one.outbox_no)
            return
        topic = COMMAND_REQUEST if isinstance(one.said, CommandRequest) else COMMAND_EVENT

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                self._refused = str(error)
                return
            self._delivered.append(one.outbox_no)
            PUBLISHED.labels(topic.name).inc()

        while True:
            try:
                self._producer.produce(
                    topic.name,
                    key=str(one.said.device_id).encode(),
                    value=_encode(one.said),
                    headers=[
                        ("ce_id", one.identity.encode()),
                        ("ce_type", topic.name.encode()),
                        ("ce_source", b"/meterstream/commands"),
                        ("content-type", b"application/json"),
                        ("source", SOURCE),
                    ],
                    on_delivery=delivered,
                )
                return
            except BufferError:
                self._producer.poll(0.1)
