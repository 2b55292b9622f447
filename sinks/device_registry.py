"""Devices and channels as the stream meets them: ids, what they are, what they last said."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from sinks.advisory_locks import Lock


class KnownDevice(NamedTuple):
    """What the stream must know of a device.

    `homes`: since, until (None: still) and whose it is, the oldest first.
    """

    device_id: int
    address: str
    family: str
    gap_limit_s: int | None
    max_power_w: int | None
    homes: list[tuple[int, int | None, str]]


KNOWN = """d.device_id, d.address, d.family, d.gap_limit_s, d.max_power_w, (
    SELECT coalesce(jsonb_agg(jsonb_build_array(to_us(valid_from), to_us(valid_to), home_id)
                              ORDER BY valid_from), '[]')
    FROM device_home h WHERE h.device_id = d.device_id)"""
"""The columns of a `KnownDevice`."""

_DEVICES = f"SELECT {KNOWN} FROM device d WHERE d.address = ANY(%s)"
_CHANGED = f"SELECT {KNOWN} FROM device d WHERE d.changed_xid >= %s::text::xid8"
_FIRST_RUNNING = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_NEW_THIS_MINUTE = """
SELECT count(*) FROM device
WHERE claimed_at IS NULL AND first_seen_at >= from_us(%(minute_us)s)
  AND first_seen_at < from_us(%(minute_us)s) + interval '1 minute'
"""
_INSERT_DEVICES = """
INSERT INTO device (address, family, first_seen_at)
SELECT address, split_part(address, ':', 1), from_us(seen_us)
FROM unnest(%s::text[], %s::bigint[]) AS v (address, seen_us) ORDER BY address
ON CONFLICT DO NOTHING
"""
_LOCK_NEW = "SELECT pg_advisory_xact_lock(%s)"
_CHANNELS = """
SELECT d.address, c.name, c.channel_id FROM channel c JOIN device d USING (device_id)
WHERE d.address = ANY(%s)
"""
_INSERT_CHANNELS = """
INSERT INTO channel (device_id, name)
SELECT d.device_id, v.name FROM unnest(%s::text[], %s::text[]) AS v (address, name)
JOIN device d USING (address) ORDER BY d.device_id, v.name
ON CONFLICT DO NOTHING
"""
MINUTE_US = 60_000_000


def known_devices(conn: psycopg.Connection[Any], addresses: Sequence[str]) -> list[KnownDevice]:
    return [KnownDevice(*row) for row in conn.execute(_DEVICES, [list(addresses)])]


def first_running(conn: psycopg.Connection[Any]) -> int:
    """The oldest transaction that is not over: none before it has anything left to say."""
    row = conn.execute(_FIRST_RUNNING).fetchone()
    assert row is not None
    return int(row[0])


def changed_devices(conn: psycopg.Connection[Any], since: int) -> list[KnownDevice]:
    """Devices whose limits or homes this transaction or a later one has changed."""
    return [KnownDevice(*row) for row in conn.execute(_CHANGED, [since])]


def register_devices(
    conn: psycopg.Connection[Any], unknown: Sequence[tuple[str, int]], *, most_a_minute: int
) -> None:
    """Insert unclaimed devices (address, received_us), at most so many first heard in a minute.

    What is over the limit is left out. One transaction of its own, addresses in order.
    """
    with conn.transaction():
        conn.execute(_LOCK_NEW, [Lock.NEW_DEVICE])
        room: dict[int, int] = {}
        taken = []
        for address, seen_us in unknown:
            minute_us = seen_us - seen_us % MINUTE_US
            if minute_us not in room:
                row = conn.execute(_NEW_THIS_MINUTE, {"minute_us": minute_us}).fetchone()
                room[minute_us] = most_a_minute - (row[0] if row else 0)
            if room[minute_us] > 0:
                room[minute_us] -= 1
                taken.append((address, seen_us))
        if taken:
            conn.execute(_INSERT_DEVICES, [list(column) for column in zip(*taken, strict=True)])


def channel_ids(
    conn: psycopg.Connection[Any], wanted: Sequence[tuple[str, str]], *, most_a_device: int
) -> dict[tuple[str, str], int]:
    """Ids of (address, channel name), inserting those that are new, in order, as long as the device
    has no more than so many. Those beyond are left out.
    """
    addresses = sorted({address for address, _ in wanted})
    with conn.transaction():
        found = _channel_ids(conn, addresses)
        has = Counter(address for address, _ in found)
        missing = []
        for address, name in wanted:
            if (address, name) not in found and has[address] < most_a_device:
                has[address] += 1
                missing.append((address, name))
        if missing:
            conn.execute(_INSERT_CHANNELS, [list(column) for column in zip(*missing, strict=True)])
            found = _channel_ids(conn, addresses)
    return found


def _channel_ids(conn: psycopg.Connection[Any], addresses: list[str]) -> dict[tuple[str, str], int]:
    return {(address, name): i for address, name, i in conn.execute(_CHANNELS, [addresses])}


_KEEP_FIELDS = """
INSERT INTO device_state AS s (device_id, channel, field, value, measured_at, log_offset)
VALUES (%s, %s, %s, %s, from_us(%s), %s)
ON CONFLICT (device_id, channel, field) DO UPDATE
SET value = excluded.value, measured_at = excluded.measured_at, log_offset = excluded.log_offset
WHERE (s.measured_at, s.log_offset) < (excluded.measured_at, excluded.log_offset)
"""


def keep_fields(
    conn: psycopg.Connection[Any], rows: Iterable[tuple[int, str, str, Any, int, int]]
) -> None:
    """(device_id, channel or '', field, value, measured_us, log offset); later ones replace."""
    kept = [(d, c, name, Jsonb(value), at, offset) for d, c, name, value, at, offset in rows]
    if kept:
        conn.cursor().executemany(_KEEP_FIELDS, kept)


_KEEP_EVENTS = """
INSERT INTO device_event
    (part, log_offset, number, device_id, channel, name, measured_at, attributes)
VALUES (%s, %s, %s, %s, %s, %s, from_us(%s), %s) ON CONFLICT DO NOTHING
"""


def keep_events(
    conn: psycopg.Connection[Any],
    rows: Iterable[tuple[int, int, int, int, str | None, str, int, dict[str, Any]]],
) -> None:
    kept = [(*row[:7], Jsonb(row[7])) for row in rows]
    if kept:
        conn.cursor().executemany(_KEEP_EVENTS, kept)


_REFUSED = """
INSERT INTO refused (part, log_offset, address, mqtt_topic, source, received_at, reason, error,
                     payload)
VALUES (%s, %s, %s, %s, %s, from_us(%s), %s, %s, %s) ON CONFLICT DO NOTHING
"""


def keep_refused(
    conn: psycopg.Connection[Any],
    rows: Iterable[tuple[int, int, str, str, int, int, str, str, bytes]],
) -> None:
    """Refused records with their original bytes. PostgreSQL's text knows no NUL: it becomes ␀."""
    kept = [
        (part, offset, _text(address), _text(topic), source, at, reason, _text(error), raw)
        for part, offset, address, topic, source, at, reason, error, raw in rows
    ]
    if kept:
        conn.cursor().executemany(_REFUSED, kept)


def _text(value: str) -> str:
    return value.replace("\0", "␀").encode(errors="replace").decode()
