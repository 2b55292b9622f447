"""Records of the raw log by their offsets."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.topics import RAW
from sinks.finality import LogUnreachable

_ANSWER_S = 10.0
_PATIENCE_S = 30.0  # without any record
_READ_ON = 5_000  # so many unwanted records are read over rather than jumped over


@dataclass(frozen=True)
class RawRecord:
    """A record as the connector wrote it. `appended_us` is the broker's clock."""

    offset: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    appended_us: int


@dataclass(frozen=True)
class Held:
    """What a partition still holds of the offsets asked for: those of [oldest, end)."""

    part: int
    oldest: int
    end: int
    records: dict[int, RawRecord]

    def missing(self, offset: int) -> str:
        """Why there is no record at an offset."""
        if offset < self.oldest:
            return (
                f"{RAW.name} no longer holds offset {offset} of partition {self.part}: "
                f"its oldest is {self.oldest}"
            )
        if offset >= self.end:
            return (
                f"{RAW.name} has no offset {offset} in partition {self.part} yet, it ends at "
                f"{self.end}: the log was made anew since"
            )
        return f"{RAW.name} has no record at offset {offset} of partition {self.part}"


def fetch(kafka_bootstrap: str, part: int, offsets: Iterable[int]) -> Held:
    """Read these offsets of one partition. Raises LogUnreachable."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": "meterstream-trace",  # never joined, nothing committed
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
    try:
        oldest, end = consumer.get_watermark_offsets(
            TopicPartition(RAW.name, part), timeout=_ANSWER_S, cached=False
        )
        wanted = sorted({offset for offset in offsets if oldest <= offset < end})
        records = {}
        for run in runs(wanted):
            asked = set(run)
            for message in _read(consumer, part, run[0], run[-1]):
                if message.offset() in asked:
                    record = _record(message)
                    records[record.offset] = record
        return Held(part, oldest, end, records)
    except KafkaException as error:
        raise LogUnreachable(
            f"Kafka at {kafka_bootstrap} does not give {RAW.name}, partition {part}: {error}"
        ) from error
    finally:
        consumer.close()


def runs(offsets: list[int]) -> list[list[int]]:
    """Rising offsets in groups that are read in one go."""
    found: list[list[int]] = []
    for offset in offsets:
        if found and offset - found[-1][-1] <= _READ_ON:
            found[-1].append(offset)
        else:
            found.append([offset])
    return found


def _read(consumer: Consumer, part: int, first: int, last: int) -> Iterator[Message]:
    """The records of [first, last]."""
    consumer.assign([TopicPartition(RAW.name, part, first)])
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for message in consumer.consume(min(1000, last - first + 1), 0.5):
            if message.error() is not None:
                raise KafkaException(message.error())
            until = time.monotonic() + _PATIENCE_S
            yield message
            if (message.offset() or 0) >= last:
                return
    raise LogUnreachable(
        f"Kafka gave no record of {RAW.name}, partition {part}, for {_PATIENCE_S:.0f} s; "
        "is it busy? try again"
    )


def _record(message: Message) -> RawRecord:
    offset, (_, appended_ms) = message.offset(), message.timestamp()
    assert offset is not None
    headers = {
        name: value if isinstance(value, bytes) else str(value).encode()
        for name, value in message.headers() or []
    }
    key, value = message.key() or b"", message.value() or b""
    return RawRecord(
        offset,
        key if isinstance(key, bytes) else key.encode(),
        value if isinstance(value, bytes) else value.encode(),
        headers,
        appended_ms * 1000,
    )
