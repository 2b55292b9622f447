"""Records of the raw log, read: ticks, messages, samples, and what has to be refused. Pure.

Nothing raises here: a record that cannot be used becomes a `Refused`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ingest.decoders.homesync import read_envelope
from ingest.decoders.json_bounds import FAULTS
from ingest.decoders.topic_table import address_of, brings_envelopes, decode
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.reading import SOURCES, Clock, Source
from schemas.topics import RawHeader
from schemas.units import DAY_US
from streams.partition import REMEMBERED_TOPICS, Partition
from streams.samples import Samples, Usual, no_samples, samples_of

OLDEST_US = 90 * DAY_US
OLDEST_IMPORT_US = 60 * 366 * DAY_US


class Record(Protocol):
    """What is used of a record of aiokafka's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Tick(NamedTuple):
    offset: int
    shard: str
    tick_us: int
    appended_us: int


class Message(NamedTuple):
    """A record that could be decoded."""

    offset: int
    received_us: int
    source: Source
    decoded: Decoded
    topic: str
    payload: bytes
    packet: tuple[str, str, int, bool] | None  # shard, id, content and redelivered, if clockless


class Refused(NamedTuple):
    """A record that cannot be used, as it goes to the dead letter topic and the table."""

    offset: int
    part: int
    address: str
    mqtt_topic: str
    source: Source
    received_us: int
    reason: Reason
    error: str
    payload: bytes


Parsed = Tick | Message | Refused | range
"""A range: so many samples, by their places among the transaction's."""


class Chunk(NamedTuple):
    """Decoded records of one partition, in the order of the log."""

    partition: Partition
    parsed: list[Parsed]
    next_offset: int


_TOPIC, _RETAINED, _DEVICE_CLOCK = RawHeader.TOPIC, RawHeader.RETAINED, Clock.DEVICE
_MQTT = Source.MQTT.name.lower().encode()
_HEADERS = 4  # that every message has
_END_US = 1 << 52  # year 2112
_BELIEVED = {
    name.encode(): (source, OLDEST_IMPORT_US if source is Source.IMPORT else OLDEST_US)
    for name, source in SOURCES.items()
}

Fetched = tuple[Partition, Sequence[Record]]
"""A partition, and some of its records."""


def strangers(fetched: Sequence[Fetched]) -> list[Fetched]:
    """The first record of each topic that its partition has not met, in the order of the log: to
    be decoded, and their channels resolved, before all of the records are read.
    """
    found: list[Fetched] = []
    for partition, records in fetched:
        unknown = {r.headers[0][1] for r in records if r.headers} - partition.by_topic.keys()
        if unknown:
            firsts: dict[bytes, Record] = {}
            for record in records:
                if record.headers and record.headers[0][1] in unknown:
                    firsts.setdefault(record.headers[0][1], record)
            found.append((partition, list(firsts.values())))
    return found


def meet(fetched: Sequence[Fetched]) -> None:
    """Remember the topics of strangers, and whose envelopes come on them."""
    for partition, records in fetched:
        by_topic = partition.by_topic
        if len(by_topic) > REMEMBERED_TOPICS:
            by_topic.clear()
        for record in records:
            topic = record.headers[0][1]
            name = topic.decode(errors="replace")
            if not brings_envelopes(name):
                by_topic[topic] = None
                continue
            device = partition.devices.get(address_of(name, record.value or b""))
            if device is not None:
                by_topic[topic] = device


def decode_chunks(fetched: Sequence[Fetched]) -> tuple[list[Chunk], Samples]:
    """Read the records of a transaction: the usual ones become samples of its `Samples`."""
    usual: list[Usual] = []
    chunks = [
        Chunk(partition, _read(partition, records, usual), records[-1].offset + 1)
        for partition, records in fetched
    ]
    if not usual:
        return chunks, no_samples()
    samples, begins, odd = samples_of(usual, OLDEST_US)
    if odd.any() or begins[-1] != len(usual):
        for partition, parsed, _ in chunks:
            parsed[:] = _placed(partition, parsed, usual, begins, odd)
    return chunks, samples


def _read(partition: Partition, records: Sequence[Record], usual: list[Usual]) -> list[Parsed]:
    """Read all but the usual ones: where they are goes a range of their places in `usual`."""
    parsed: list[Parsed] = []
    devices, start = partition.by_topic, len(usual)
    for record in records:
        headers = record.headers
        device = devices.get(headers[0][1]) if len(headers) >= _HEADERS else None
        if device is not None and headers[2][1] == _MQTT and headers[0][0] == _TOPIC:
            try:
                said = read_envelope(record.value or b"")
                if said.boot.isalnum():
                    usual.append((said, device.channels, headers[1][1], record))
                    continue
            except FAULTS:
                pass
        if len(usual) > start:
            parsed.append(range(start, len(usual)))
            start = len(usual)
        parsed.append(_parse(partition, record))
    if len(usual) > start:
        parsed.append(range(start, len(usual)))
    return parsed


def _placed(
    partition: Partition,
    parsed: list[Parsed],
    usual: Sequence[Usual],
    begins: NDArray[np.int64],
    odd: NDArray[np.bool_],
) -> Iterator[Parsed]:
    """The same with ranges of samples for ranges of messages, and the odd ones read."""
    for item in parsed:
        if not isinstance(item, range):
            yield item
            continue
        start = item.start
        for number in [item.start + int(i) for i in odd[item.start : item.stop].nonzero()[0]]:
            if number > start:
                yield range(int(begins[start]), int(begins[number]))
            yield _parse(partition, usual[number][3])
            start = number + 1
        if start < item.stop:
            yield range(int(begins[start]), int(begins[item.stop]))


_texts: dict[bytes, str] = {}


def _text(raw: bytes) -> str:
    text = _texts.get(raw)
    if text is None:
        if len(_texts) > 200_000:
            _texts.clear()
        text = _texts[raw] = raw.decode(errors="replace")
    return text


def _parse(partition: Partition, record: Record) -> Parsed:
    part, headers = partition.part, record.headers
    if len(headers) < _HEADERS or headers[0][0] != _TOPIC:
        return _tick_or_stray(part, record)
    raw_topic = headers[0][1]
    topic = _texts.get(raw_topic) or _text(raw_topic)
    payload = record.value or b""
    try:
        received_us = int(headers[1][1])
        source, oldest_us = _BELIEVED[headers[2][1]]
        if not 0 <= received_us < _END_US:
            raise ValueError(received_us)
    except (ValueError, KeyError):
        return _stray(part, record, "its headers received_at or source are not ours")
    retained = headers[-1][0] == _RETAINED
    try:
        decoded = decode(topic, payload, received_us, retained=retained, oldest_us_back=oldest_us)
    except Undecodable as error:
        address = (record.key or b"").decode(errors="replace")
        return Refused(
            record.offset,
            part,
            address,
            topic,
            source,
            received_us,
            error.reason,
            str(error),
            payload,
        )
    packet = None
    readings = decoded.readings
    if (not readings or readings[0].clock is not _DEVICE_CLOCK) and len(headers) > 4:
        packet = _packet(headers, hash((topic, payload)))
    return Message(record.offset, received_us, source, decoded, topic, payload, packet)


def _packet(
    headers: Sequence[tuple[str, bytes]], content: int
) -> tuple[str, str, int, bool] | None:
    """What a message without a clock of its own is known again by."""
    name, packet_id = headers[4]
    if name == _RETAINED:
        return None
    return _text(headers[3][1]), _text(packet_id), content, name == RawHeader.DUP


def _tick_or_stray(part: int, record: Record) -> Parsed:
    headers = dict(record.headers)
    try:
        return Tick(
            record.offset,
            _text(headers[RawHeader.SHARD]),
            int(headers[RawHeader.TICK]),
            record.timestamp * 1000,
        )
    except (KeyError, ValueError):
        return _stray(part, record, "it has neither a message's headers nor a tick's")


def _stray(part: int, record: Record, why: str) -> Refused:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return Refused(
        record.offset,
        part,
        (record.key or b"").decode(errors="replace"),
        headers.get(RawHeader.TOPIC, ""),
        Source.MQTT,
        record.timestamp * 1000,
        Reason.MALFORMED,
        f"record {part}:{record.offset} of the raw topic was not written by a connector: {why}",
        record.value or b"",
    )


def refuse(part: int, message: Message, reason: Reason, error: str) -> Refused:
    """Refuse a message that could be decoded."""
    return Refused(
        message.offset,
        part,
        message.decoded.address,
        message.topic,
        message.source,
        message.received_us,
        reason,
        error,
        message.payload,
    )


def refuse_sample(part: int, samples: Samples, place: int, reason: Reason, error: str) -> Refused:
    record, channel = samples.records[place], samples.channels[place]
    return Refused(
        record.offset,
        part,
        channel.device.address,
        _text(record.headers[0][1]),
        Source.MQTT,
        int(record.headers[1][1]),
        reason,
        error,
        record.value,
    )
