"""Taking a partition over: its progress, its channels and the readings of its open windows."""

from collections.abc import Sequence
from typing import Any

import psycopg

from schemas.families import FAMILIES
from schemas.reading import VALUE_NAMES
from schemas.topics import RAW
from sinks import device_registry, progress
from sinks.device_registry import KnownDevice
from streams.fold import MOST_CHANNELS, MOST_NEW_A_MINUTE, Missing
from streams.partition import Channel, Device, Partition, limits_of
from streams.registry_changes import device_of
from streams.windows import ChannelWindows, Held, Span, held_of

_CHANNELS = f"""
SELECT {device_registry.KNOWN},
       c.channel_id, c.name, to_us(s.complete_until), s.context_full, l.gap_limit_s, l.max_power_w
FROM channel_state s JOIN channel c USING (channel_id) JOIN device d USING (device_id)
LEFT JOIN channel_limits l USING (channel_id)
WHERE s.part = %s ORDER BY c.channel_id
"""
_HELD = f"""
SELECT s.channel_id, to_us(r.measured_at), r.seq, {", ".join("r." + name for name in VALUE_NAMES)}
FROM channel_state s
JOIN readings r ON r.channel_id = s.channel_id AND r.measured_at >= s.context_from
WHERE s.part = %s AND r.measured_at >= (SELECT min(context_from) FROM channel_state WHERE part = %s)
ORDER BY s.channel_id, r.measured_at
"""
_DIRTY = """
SELECT channel_id, to_us(start_at), to_us(end_at) FROM window_dirty WHERE part = %s
"""


def take_over(conn: psycopg.Connection[Any], part: int) -> Partition:
    """Become the writer of a partition and remember what its last one did."""
    taken = progress.take_over(conn, RAW.name, part)
    partition = Partition(
        part, taken.epoch, taken.next_offset, taken.published_offset, taken.stream_us, taken.ticks
    )
    with conn.transaction():
        held = _held(conn, part)
        channels: dict[int, Channel] = {}
        for row in conn.execute(_CHANNELS, [part]):
            *device_row, channel_id, name, complete_until_us, context_full, gap_s, power_w = row
            known = KnownDevice(*device_row)
            device = _device(partition, known)
            windows = ChannelWindows(
                device.limits,
                complete_until_us,
                held.get(channel_id),
                context_full=context_full,
            )
            windows.heard_us = partition.stream_us
            channel = Channel(channel_id, name, device, windows)
            device.channels[name] = channels[channel_id] = channel
            if device.limits != limits_of(FAMILIES[known.family], gap_s, power_w):
                partition.new_limits[channel] = complete_until_us
        for channel_id, start_us, end_us in conn.execute(_DIRTY, [part]):
            channel = channels[channel_id]
            partition.mark_changed(channel, Span(start_us, end_us))
            channel.stored_changes = len(channel.changed)
            partition.has_stored_changes = True
    for channel in channels.values():
        partition.schedule(channel)
    return partition


def _held(conn: psycopg.Connection[Any], part: int) -> dict[int, list[Held]]:
    held: dict[int, list[Held]] = {}
    for channel_id, at_us, seq, *values in conn.execute(_HELD, [part, part]):
        held.setdefault(channel_id, []).append(held_of(at_us, seq, tuple(values)))
    return held


def _device(partition: Partition, known: KnownDevice) -> Device:
    device = partition.devices.get(known.address)
    if device is None:
        device = partition.devices[known.address] = device_of(known)
    return device


def resolve(
    conn: psycopg.Connection[Any], missing: Sequence[Missing], partitions: dict[int, Partition]
) -> None:
    """Give ids to channels that are new to their partition, registering unclaimed devices.

    An address over the limit of new ones a minute stays unknown, and a channel over those that a
    device may have; `fold` refuses their messages.
    """
    seen = {m.address: m.received_us for m in reversed(missing)}
    known = {d.address: d for d in device_registry.known_devices(conn, list(seen))}
    unknown = [(address, at) for address, at in seen.items() if address not in known]
    if unknown:
        device_registry.register_devices(conn, unknown, most_a_minute=MOST_NEW_A_MINUTE)
        addresses = [address for address, _ in unknown]
        known |= {d.address: d for d in device_registry.known_devices(conn, addresses)}
    wanted = [(m.address, m.channel) for m in missing if m.channel and m.address in known]
    ids = device_registry.channel_ids(conn, wanted, most_a_device=MOST_CHANNELS) if wanted else {}
    for m in missing:
        if m.address not in known:
            continue
        device = _device(partitions[m.part], known[m.address])
        if not m.channel or m.channel in device.channels:
            continue
        channel_id = ids.get((m.address, m.channel))
        if channel_id is None:
            device.is_full = True
        else:
            device.channels[m.channel] = Channel(channel_id, m.channel, device, None)
