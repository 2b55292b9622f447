"""One transaction's worth of records, folded into the partitions' memory. Pure but for `Resolver`.

`decode_chunk` reads the records; `fold` applies them in the order of the log. Whatever a record
holds, neither raises: a record that cannot be used becomes a `Refused`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ingest.decoders.topic_table import decode
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import Event, State
from schemas.reading import SOURCES, Clock, Reading, Source, Values
from schemas.topics import RawHeader
from schemas.units import DAY_US, MINUTE_US, QUARTER_US
from sinks.copy_block import ReadingRow
from sinks.usage_windows import ChannelStateRow, MinuteRecord
from streams.energy import GapEnergy, Minute
from streams.merge import merge
from streams.partition import Channel, Device, Partition
from streams.windows import ChannelWindows, Span, held_of

OLDEST_US = 90 * DAY_US
MOST_NEW_A_MINUTE = 1000
OLDEST_IMPORT_US = 60 * 366 * DAY_US


class Record(Protocol):
    """What is used of an `aiokafka.ConsumerRecord`."""

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

    part: int
    offset: int
    address: str
    mqtt_topic: str
    source: Source
    received_us: int
    reason: Reason
    error: str
    payload: bytes


Parsed = Tick | Message | Refused


class Chunk(NamedTuple):
    """Decoded records of one partition, in the order of the log."""

    partition: Partition
    parsed: list[Parsed]
    next_offset: int


class StateChange(NamedTuple):
    device: Device
    offset: int
    state: State


class EventRow(NamedTuple):
    device: Device
    part: int
    offset: int
    number: int
    event: Event


class MergedRow(NamedTuple):
    """A stored or just folded reading that a later message with the same key changed."""

    channel_id: int
    measured_us: int
    seq: int | None
    values: Values


class Conflict(NamedTuple):
    """What had to give way to another reading with the same key."""

    channel_id: int
    measured_us: int
    offset: int
    seq: int | None
    values: Values


class MinuteRow(NamedTuple):
    part: int
    offset: int
    channel: Channel
    minute: Minute


class GapRow(NamedTuple):
    part: int
    offset: int
    channel: Channel
    gap: GapEnergy


class Redo(NamedTuple):
    """Complete windows to compute anew from what is stored up to `offset`."""

    part: int
    offset: int
    channel: Channel
    span: Span
    complete_until_us: int


class ChangedRow(NamedTuple):
    """A span that waits for the next tick, stored so that a crash does not forget it."""

    part: int
    offset: int
    channel: Channel
    span: Span


class Advance(NamedTuple):
    """How far a transaction takes a partition."""

    part: int
    epoch: int
    expected: int
    next_offset: int
    stream_us: int
    ticks: dict[str, int]


@dataclass(slots=True)
class Work:
    """Everything that one transaction stores and that is announced after it."""

    advances: list[Advance] = field(default_factory=list)
    rows: list[ReadingRow] = field(default_factory=list)
    late_rows: list[ReadingRow] = field(default_factory=list)
    merged: list[MergedRow] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    states: list[StateChange] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    minutes: list[MinuteRow] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    redo: list[Redo] = field(default_factory=list)
    settled: dict[int, int] = field(default_factory=dict)  # part -> `window_dirty` done up to
    changed: list[ChangedRow] = field(default_factory=list)
    touched: dict[int, tuple[int, Channel]] = field(default_factory=dict)  # with its part
    channel_states: list[ChannelStateRow] = field(default_factory=list)  # of those, as folded
    left_quarters: set[tuple[int, int]] = field(default_factory=set)  # maybe complete only now
    readings: dict[int, tuple[Device, list[Reading]]] = field(default_factory=dict)
    chunks: Sequence[Chunk] = ()
    changed_minutes: list[tuple[MinuteRecord, int]] = field(default_factory=list)  # once stored
    stored_before: bool = False  # the answer to an earlier COMMIT was lost
    stored: int = 0
    stored_duplicates: int = 0
    records: int = 0
    duplicates: int = 0
    ticks_ahead: int = 0
    gaps_in_log: list[tuple[int, int, int]] = field(default_factory=list)  # part, from, to


_TOPIC, _RETAINED, _DEVICE_CLOCK = RawHeader.TOPIC, RawHeader.RETAINED, Clock.DEVICE
_BELIEVED = {
    name.encode(): (source, OLDEST_IMPORT_US if source is Source.IMPORT else OLDEST_US)
    for name, source in SOURCES.items()
}
_message = Message._make  # half the time of a call with seven arguments


def decode_chunk(part: int, records: Iterable[Record]) -> list[Parsed]:
    """Read the records of one partition: ticks, messages, and those to be refused."""
    return [_parse(part, record) for record in records]


_texts: dict[bytes, str] = {}


def _text(raw: bytes) -> str:
    text = _texts.get(raw)
    if text is None:
        if len(_texts) > 200_000:
            _texts.clear()
        text = _texts[raw] = raw.decode(errors="replace")
    return text


def _parse(part: int, record: Record) -> Parsed:
    headers = record.headers
    if len(headers) < 4 or headers[0][0] != _TOPIC:
        return _tick_or_stray(part, record)
    raw_topic = headers[0][1]
    topic = _texts.get(raw_topic) or _text(raw_topic)
    payload = record.value or b""
    try:
        received_us = int(headers[1][1])
        source, oldest_us = _BELIEVED[headers[2][1]]
    except (ValueError, KeyError):
        return _stray(part, record, "its headers received_at or source are not ours")
    retained = headers[-1][0] == _RETAINED
    try:
        decoded = decode(topic, payload, received_us, retained=retained, oldest_us_back=oldest_us)
    except Undecodable as error:
        address = (record.key or b"").decode(errors="replace")
        return Refused(
            part,
            record.offset,
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
    return _message((record.offset, received_us, source, decoded, topic, payload, packet))


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
        part,
        record.offset,
        (record.key or b"").decode(errors="replace"),
        headers.get(RawHeader.TOPIC, ""),
        Source.MQTT,
        record.timestamp * 1000,
        Reason.MALFORMED,
        f"record {part}:{record.offset} of the raw topic was not written by a connector: {why}",
        record.value or b"",
    )


class Missing(NamedTuple):
    """A channel that its partition does not know yet."""

    part: int
    address: str
    channel: str
    received_us: int


def missing_channels(chunks: Sequence[Chunk]) -> list[Missing]:
    """The channels to be resolved before `fold`, in the order of the log."""
    found: dict[tuple[str, str], Missing] = {}
    for partition, parsed, _ in chunks:
        devices = partition.devices
        for item in parsed:
            if type(item) is not Message:
                continue
            decoded = item.decoded
            device = devices.get(decoded.address)
            for reading in decoded.readings:
                if device is None or reading.channel not in device.channels:
                    key = (decoded.address, reading.channel)
                    if key not in found:
                        found[key] = Missing(partition.part, *key, item.received_us)
            if device is None and not decoded.readings and (decoded.states or decoded.events):
                key = (decoded.address, "")
                if key not in found:
                    found[key] = Missing(partition.part, *key, item.received_us)
    return list(found.values())


def fold(chunks: Sequence[Chunk]) -> Work:
    """Apply decoded records to the memory of their partitions; say what is to be stored."""
    work = Work(chunks=chunks)
    started = {partition.part: partition.next_offset for partition, _, _ in chunks}
    for partition, parsed, next_offset in chunks:
        stored_until = partition.next_offset
        work.records += len(parsed)
        for item in parsed:
            kind = type(item)
            if item.offset < stored_until:
                _announce_again(partition, item, work)
            elif kind is Message:
                _fold_message(partition, item, work)  # type: ignore[arg-type]
            elif kind is Tick:
                _fold_tick(partition, item, work)  # type: ignore[arg-type]
            else:
                work.refused.append(item)  # type: ignore[arg-type]
        partition.next_offset = max(stored_until, next_offset)
    for partition in {chunk.partition.part: chunk.partition for chunk in chunks}.values():
        work.advances.append(_advance(partition, started[partition.part]))
        for channel in partition.changed:
            for span in channel.changed[channel.stored_changes :]:
                work.changed.append(
                    ChangedRow(partition.part, partition.next_offset - 1, channel, span)
                )
            channel.stored_changes = len(channel.changed)
            partition.has_stored_changes = True
    # Taken now: the next batch is folded while this one is being stored.
    work.channel_states = [_state_row(part, channel) for part, channel in work.touched.values()]
    return work


def _state_row(part: int, channel: Channel) -> ChannelStateRow:
    windows = channel.windows
    assert windows is not None
    held = windows.held
    return ChannelStateRow(
        channel.channel_id,
        part,
        windows.complete_until_us,
        held[0][0] if held else windows.complete_until_us,
        held[-1][0] if held else windows.complete_until_us - MINUTE_US,
        windows.has_import,
        windows.has_export,
        windows.has_interval,
        windows.context_full,
    )


def _advance(partition: Partition, expected: int) -> Advance:
    return Advance(
        partition.part,
        partition.epoch,
        expected,
        partition.next_offset,
        partition.stream_us,
        dict(partition.ticks),
    )


def _announce_again(partition: Partition, item: Parsed, work: Work) -> None:
    """A record that is stored, but whose announcement Kafka may not have: only announce it."""
    if isinstance(item, Refused):
        work.refused.append(item)
    elif isinstance(item, Message):
        device = partition.devices.get(item.decoded.address)
        if device is not None:
            told = work.readings.setdefault(device.device_id, (device, []))
            told[1].extend(item.decoded.readings)
            work.states += [StateChange(device, item.offset, s) for s in item.decoded.states]


def _fold_tick(partition: Partition, tick: Tick, work: Work) -> None:
    done = partition.tick(tick.shard, tick.tick_us, tick.appended_us)
    if done is None:
        work.ticks_ahead += 1
        return
    part, offset = partition.part, tick.offset
    work.minutes += [MinuteRow(part, offset, channel, minute) for channel, minute in done.minutes]
    work.gaps += [GapRow(part, offset, channel, gap) for channel, gap in done.gaps]
    work.redo += [Redo(part, offset, *redo) for redo in done.redo]
    for channel, before_us in done.touched:
        work.touched[channel.channel_id] = (part, channel)
        work.left_quarters.add((channel.channel_id, (before_us - 1) // QUARTER_US * QUARTER_US))
    if partition.has_stored_changes:
        work.settled[part] = offset
        partition.has_stored_changes = False


def _fold_message(partition: Partition, message: Message, work: Work) -> None:
    offset, received_us, source, decoded, _, _, packet = message
    if packet is not None and partition.seen_before(*packet[:3], redelivered=packet[3]):
        work.duplicates += 1
        return
    device = partition.devices.get(decoded.address)
    if device is None:
        work.refused.append(_too_many(partition.part, message))
        return
    if decoded.readings:
        told = work.readings.get(device.device_id)
        if told is None:
            told = work.readings[device.device_id] = (device, [])
        for reading in decoded.readings:
            if _fold_reading(partition, device, reading, offset, received_us, source, work):
                told[1].append(reading)
    for state in decoded.states:
        work.states.append(StateChange(device, offset, state))
    for number, event in enumerate(decoded.events):
        work.events.append(EventRow(device, partition.part, offset, number, event))


def _fold_reading(
    partition: Partition,
    device: Device,
    reading: Reading,
    offset: int,
    received_us: int,
    source: Source,
    work: Work,
) -> bool:
    """Take one reading; False when it says nothing new."""
    channel = device.channels[reading.channel]
    at, values, seq = reading.measured_us, reading.values, reading.seq
    held = held_of(at, seq, values)
    windows = channel.windows
    row = (channel.channel_id, at, received_us, offset, seq, reading.clock, source, values)
    if windows is None:
        windows = channel.windows = ChannelWindows(device.limits, ChannelWindows.first_window(held))
        work.touched[channel.channel_id] = (partition.part, channel)
    in_memory = windows.held
    last = in_memory[-1][0] if in_memory else windows.complete_until_us - 1
    if at > last:
        span = windows.append(held)
        work.rows.append(row)
    else:
        known = windows.find(at)
        if known is not None:
            merged = merge(known[6], known[7], seq, values)
            if merged.loser is not None:
                work.conflicts.append(
                    Conflict(channel.channel_id, at, offset, merged.loser_seq, merged.loser)
                )
            if (merged.seq, merged.values) == (known[6], known[7]):
                work.duplicates += 1
                return False
            work.merged.append(MergedRow(channel.channel_id, at, merged.seq, merged.values))
            span = windows.insert(held_of(at, merged.seq, merged.values))
        else:
            (work.late_rows if windows.is_before_memory(at) else work.rows).append(row)
            span = windows.insert(held)
    windows.heard_us = partition.stream_us
    if at >= channel.wake_us:
        partition.schedule(channel)
    if span is not None:
        partition.mark_changed(channel, span)
    return True


def _too_many(part: int, message: Message) -> Refused:
    address = message.decoded.address
    return refuse(
        part,
        message,
        Reason.TOO_MANY_NEW,
        f"{address}: more than {MOST_NEW_A_MINUTE} unknown addresses were first heard of in its "
        "minute; claim the device, or replay this record with `meterstream dlq replay`",
    )


def refuse(part: int, message: Message, reason: Reason, error: str) -> Refused:
    """Refuse a message that could be decoded."""
    return Refused(
        part,
        message.offset,
        message.decoded.address,
        message.topic,
        message.source,
        message.received_us,
        reason,
        error,
        message.payload,
    )
