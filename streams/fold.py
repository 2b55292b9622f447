"""One transaction's worth of records, folded into the partitions' memory. Pure.

`fold` applies decoded records in the order of the log. Whatever a record holds, it does not raise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import astuple

from schemas.decoded import Reason
from schemas.reading import Clock, Source
from schemas.units import MINUTE_US, MW_PER_W, QUARTER_US, SECOND_US
from sinks.usage_windows import ChannelStateRow, LimitsRow
from streams.merge import merge
from streams.partition import Channel, Partition
from streams.records import Chunk, Message, Refused, Tick, refuse
from streams.samples import Samples
from streams.windows import ChannelWindows, Held, held_of, row_of
from streams.work import (
    Advance,
    ChangedRow,
    Conflict,
    EventRow,
    GapRow,
    MergedRow,
    MinuteRow,
    Redo,
    RepairRow,
    StateChange,
    Work,
)

MOST_NEW_A_MINUTE = 1000
MOST_CHANNELS = 256  # of one device


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
            if not isinstance(item, Message):
                continue
            decoded = item.decoded
            device = devices.get(decoded.address)
            if device is not None and device.is_full:
                continue
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


def fold(chunks: Sequence[Chunk], samples: Samples) -> Work:
    """Apply decoded records to the memory of their partitions; say what is to be stored."""
    work = Work(chunks=chunks, samples=samples)
    started = {partition.part: partition.next_offset for partition, _, _ in chunks}
    for partition, parsed, next_offset in chunks:
        stored_until = partition.next_offset
        for item in parsed:
            if isinstance(item, range):
                _fold_samples(partition, item, stored_until, work)
            elif isinstance(item, Refused):
                work.refused.append(item)
            elif item.offset < stored_until:
                _announce_again(partition, item, work)
            elif isinstance(item, Message):
                _fold_message(partition, item, work)
            else:
                _fold_tick(partition, item, work)
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
        work.limits += [_limits_row(*new) for new in partition.new_limits.items()]
        partition.new_limits = {}
    # Taken now: the next batch is folded while this one is being stored.
    work.channel_states = [_state_row(part, channel) for part, channel in work.touched.values()]
    return work


def _limits_row(channel: Channel, since_us: int | None) -> LimitsRow:
    limits = channel.device.limits
    return LimitsRow(
        channel.channel_id,
        limits.gap_limit_us // SECOND_US,
        limits.max_power_mw // MW_PER_W,
        since_us,
    )


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


def _announce_again(partition: Partition, item: Message | Tick, work: Work) -> None:
    """A record that is stored, but whose announcement Kafka may not have: only announce it."""
    if isinstance(item, Message):
        device = partition.devices.get(item.decoded.address)
        if device is not None:
            work.told_of(device).extend(item.decoded.readings)
            work.states += [StateChange(device, item.offset, s) for s in item.decoded.states]


def _fold_tick(partition: Partition, tick: Tick, work: Work) -> None:
    done = partition.tick(tick.shard, tick.tick_us, tick.appended_us)
    if done is None:
        work.ticks_ahead += 1
        return
    part, offset = partition.part, tick.offset
    work.minutes += [MinuteRow(part, offset, channel, minute) for channel, minute in done.minutes]
    work.gaps += [GapRow(part, offset, channel, gap) for channel, gap in done.gaps]
    work.repairs += [RepairRow(part, offset, *repair) for repair in done.repairs]
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
    if not (decoded.readings or decoded.states or decoded.events):
        return
    device = partition.devices.get(decoded.address)
    if device is None:
        work.refused.append(_too_many(partition.part, message))
        return
    if any(reading.channel not in device.channels for reading in decoded.readings):
        work.refused.append(_too_many_channels(partition.part, message))
        return
    if decoded.readings:
        told = work.told_of(device)
        for reading in decoded.readings:
            channel = device.channels[reading.channel]
            held = held_of(reading.measured_us, reading.seq, astuple(reading.values))
            said = (offset, received_us, reading.clock, source)
            if _fold_reading(partition, channel, held, *said, work):
                told.append(reading)
    for state in decoded.states:
        work.states.append(StateChange(device, offset, state))
    for number, event in enumerate(decoded.events):
        work.events.append(EventRow(device, partition.part, offset, number, event))


def _fold_samples(partition: Partition, run: range, stored_until: int, work: Work) -> None:
    """Usually each is a reading newer than all that its channel holds."""
    samples = work.samples
    new, told, offsets = samples.columns.new, samples.told, samples.columns.log_offset
    start = run.start
    if offsets[start] < stored_until:
        start += int(np.searchsorted(offsets[run.start : run.stop], stored_until))
        told[run.start : start] = bytes([1]) * (start - run.start)
    stream_us = partition.stream_us
    channels, readings = samples.channels[start : run.stop], samples.held[start : run.stop]
    for i, channel, held in zip(range(start, run.stop), channels, readings, strict=True):
        windows = channel.windows
        if windows is None or not windows.held or held[0] <= windows.held[-1][0]:
            told[i] = _fold_sample(partition, channel, held, i, work)
            continue
        span = windows.append(held)
        new[i] = told[i] = 1
        windows.heard_us = stream_us
        if held[0] >= channel.wake_us:
            partition.schedule(channel)
        if span is not None:
            partition.mark_changed(channel, span)


def _fold_sample(
    partition: Partition, channel: Channel, held: Held, place: int, work: Work
) -> bool:
    columns = work.samples.columns
    offset, received_us = int(columns.log_offset[place]), int(columns.received_us[place])
    return _fold_reading(
        partition, channel, held, offset, received_us, Clock.DEVICE, Source.MQTT, work
    )


def _fold_reading(
    partition: Partition,
    channel: Channel,
    held: Held,
    offset: int,
    received_us: int,
    clock: Clock,
    source: Source,
    work: Work,
) -> bool:
    """Take one reading; False when it says nothing new."""
    at, seq, values = held[0], held[6], row_of(held[7])
    windows = channel.windows
    row = (channel.channel_id, at, received_us, offset, seq, clock, source, values)
    if windows is None:
        first = ChannelWindows.first_window(held)
        windows = channel.windows = ChannelWindows(channel.device.limits, first)
        work.touched[channel.channel_id] = (partition.part, channel)
        partition.new_limits[channel] = None
    in_memory = windows.held
    last = in_memory[-1][0] if in_memory else windows.complete_until_us - 1
    if at > last:
        span = windows.append(held)
        work.rows.append(row)
    else:
        known = windows.find(at)
        if known is not None:
            before = row_of(known[7])
            merged = merge(known[6], before, seq, values)
            if merged.loser is not None:
                work.conflicts.append(
                    Conflict(channel.channel_id, at, offset, merged.loser_seq, merged.loser)
                )
            if (merged.seq, merged.values) == (known[6], before):
                work.duplicates += 1
                return False
            work.merged.append(MergedRow(channel.channel_id, at, merged.seq, merged.values))
            span = windows.insert(held_of(at, merged.seq, merged.values))
        else:
            (work.late_rows if windows.is_before_memory(at) else work.rows).append(row)
            span = windows.insert(held)
            if windows.held[0] is held:  # the next owner reads memory from there
                work.touched[channel.channel_id] = (partition.part, channel)
    windows.heard_us = partition.stream_us
    if at >= channel.wake_us:
        partition.schedule(channel)
    if span is not None:
        partition.mark_changed(channel, span)
    return True


def _too_many_channels(part: int, message: Message) -> Refused:
    address = message.decoded.address
    return refuse(
        part,
        message,
        Reason.TOO_MANY_CHANNELS,
        f"{address}: more than {MOST_CHANNELS} channels; let the device give its channels names "
        "that do not change",
    )


def _too_many(part: int, message: Message) -> Refused:
    address = message.decoded.address
    return refuse(
        part,
        message,
        Reason.TOO_MANY_NEW,
        f"{address}: more than {MOST_NEW_A_MINUTE} unknown addresses were first heard of in its "
        "minute; claim the device, or replay this record with `meterstream dlq replay`",
    )
