"""The two topics of commands, as the downlink reads and writes them.

Every partition is read by one process, without a group's membership: offsets are committed under
the group's name. Two downlinks cannot run: the broker knows one client id, and the one that loses
its session to another ends.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from structlog.typing import FilteringBoundLogger

from ingest.downlink.book import Position
from schemas.command import CommandEvent, CommandRequest
from schemas.topics import COMMAND_EVENT, COMMAND_REQUEST, PARTITIONER, Topic

SOURCE = b"downlink"
MOST_AT_ONCE = 500
TOLD_EVERY_S = 10.0
_TIMEOUT_S = 10.0

_decode_request = msgspec.json.Decoder(CommandRequest).decode
_decode_event = msgspec.json.Decoder(CommandEvent).decode


class Read(NamedTuple):
    """A record of one of the topics; `said` is None where it could not be read."""

    said: CommandRequest | CommandEvent | None
    is_request: bool
    partition: int
    offset: int


class CommandLog:
    """While Kafka is away `say` waits, `read` gives nothing, and all else raises KafkaException."""

    def __init__(self, bootstrap: str, group: str, log: FilteringBoundLogger) -> None:
        self._log = log
        self._told_s = float("-inf")
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 20,
                "fetch.error.backoff.ms": 100,
                "reconnect.backoff.max.ms": 2000,
                "log_level": 0,  # `_on_error` tells, and not each attempt
                "error_cb": self._on_error,
            }
        )
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,  # acks=all, in order
                "message.timeout.ms": 0,  # never gives up
                "linger.ms": 0,
                "socket.timeout.ms": 15_000,
                "partitioner": PARTITIONER,
                "reconnect.backoff.max.ms": 2000,
                "log_level": 0,  # `_on_error` tells, and not each attempt
                "error_cb": self._on_error,
            }
        )
        self._committed: dict[tuple[str, int], int] = {}
        self._held = False

    def begin(self) -> dict[int, int]:
        """Read on from where everything before was settled; returns where, by event partition."""
        events = self._starts(COMMAND_EVENT)
        self._consumer.assign(self._starts(COMMAND_REQUEST) + events)
        return {part.partition: max(0, part.offset) for part in events}

    def event_ends(self) -> dict[int, int]:
        """By partition: the offset after the last event that is there now."""
        ends = {}
        for partition in range(COMMAND_EVENT.partitions):
            part = TopicPartition(COMMAND_EVENT.name, partition)
            low, high = self._consumer.get_watermark_offsets(part, timeout=_TIMEOUT_S)
            if high > low:
                ends[partition] = high
        return ends

    def read(self, timeout_s: float) -> Iterator[Read]:
        """What has come; the first record is waited for, the others are not."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return
        rest: list[Message] = self._consumer.consume(MOST_AT_ONCE, 0)
        for message in (first, *rest):
            if message.error() is not None:
                self._log.warning("kafka_says", error=str(message.error()))
                continue
            yield self._read(message)

    def say(self, events: Sequence[CommandEvent]) -> None:
        """Returns when Kafka has them all, however long that takes. Raises KafkaException."""
        failed: list[KafkaError] = []

        def reported(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        for event in events:
            self._producer.produce(
                COMMAND_EVENT.name,
                key=str(event.device_id).encode(),
                value=msgspec.json.encode(event),
                headers=[
                    ("ce_id", f"{event.command_id}/{event.state.value}".encode()),
                    ("ce_type", COMMAND_EVENT.name.encode()),
                    ("ce_source", b"/meterstream/downlink"),
                    ("source", SOURCE),
                    ("content-type", b"application/json"),
                ],
                on_delivery=reported,
            )
        self._producer.flush()
        if failed:
            raise KafkaException(failed[0])

    def hold(self, held: bool) -> None:
        """Read no requests for a while, or again; events are always read."""
        if held is self._held:
            return
        self._held = held
        parts = [
            TopicPartition(COMMAND_REQUEST.name, partition)
            for partition in range(COMMAND_REQUEST.partitions)
        ]
        (self._consumer.pause if held else self._consumer.resume)(parts)

    def commit(self, positions: Sequence[Position]) -> None:
        """In one request to Kafka, and without waiting for it: what is behind is read again."""
        moved = [
            TopicPartition(topic.name, position.partition, offset)
            for position in positions
            for topic, offset in (
                (COMMAND_REQUEST, position.request_offset),
                (COMMAND_EVENT, position.event_offset),
            )
            if offset >= 0
        ]
        known = self._committed
        new = [part for part in moved if known.get((part.topic, part.partition)) != part.offset]
        if new:
            self._consumer.commit(offsets=new, asynchronous=True)
            known |= {(part.topic, part.partition): part.offset for part in new}

    def close(self) -> None:
        self._consumer.close()

    def _on_error(self, error: KafkaError) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s > TOLD_EVERY_S:
            self._told_s = now_s
            self._log.warning("kafka_trouble", error=error.str())

    def _read(self, message: Message) -> Read:
        is_request = message.topic() == COMMAND_REQUEST.name
        decode = _decode_request if is_request else _decode_event
        said: CommandRequest | CommandEvent | None
        try:
            said = decode(message.value() or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._log.error("unreadable", topic=message.topic(), offset=message.offset(),
                            error=str(error))  # fmt: skip
            said = None
        return Read(said, is_request, message.partition(), message.offset())

    def _starts(self, topic: Topic) -> list[TopicPartition]:
        """After what was committed. Asked for here: `assign` alone stands still for good when the
        coordinator does not answer just then.
        """
        parts = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        found = self._consumer.committed(parts, timeout=_TIMEOUT_S)
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
        return [
            TopicPartition(
                one.topic, one.partition, one.offset if one.offset >= 0 else OFFSET_BEGINNING
            )
            for one in found
        ]


def now_us() -> int:
    """The clock by which commands expire, in µs since the epoch."""
    return time.time_ns() // 1000
