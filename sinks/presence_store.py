"""How devices stand and how that has changed, written by the batch: all of them, or a few."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from schemas.presence import Presence, PresenceReason
from sinks.copy_text import copy_rows

Connection = psycopg.Connection[Any]


class Progress(NamedTuple):
    """Where a partition of the log is to be read on, and its time there."""

    part: int
    next_offset: int
    stream_us: int
    resumed_us: int
    ticks: dict[str, int]


class Standing(NamedTuple):
    """How a device stands; see table `presence`."""

    device_id: int
    part: int
    state: Presence
    since_us: int
    heard_us: int | None
    folded_us: int
    alert_us: int | None


class ChangeRow(NamedTuple):
    """A row of `device_presence`; `alert` is what is told to its home, if anything."""

    device_id: int
    since_us: int
    state: Presence
    reason: PresenceReason
    heard_us: int | None
    home_id: str | None
    alert: str | None
    raised_us: int | None
    offset: int


_STAGES = """
    CREATE TEMP TABLE IF NOT EXISTS presence_changes (
        device_id integer, since_us bigint, state presence_state, reason text, heard_us bigint,
        home_id text, alert text, raised_us bigint, log_offset bigint, n integer
    ) ON COMMIT DELETE ROWS;
    CREATE TEMP TABLE IF NOT EXISTS presence_standings (
        device_id integer, part smallint, state presence_state, since_us bigint, heard_us bigint,
        folded_us bigint, alert_us bigint
    ) ON COMMIT DELETE ROWS"""
_CHANGES = """
    INSERT INTO device_presence (device_id, since_at, state, reason, heard_at, home_id, alert,
                                 raised_at)
    SELECT device_id, from_us(since_us), state, reason, from_us(heard_us), home_id, alert,
           from_us(raised_us)
    FROM presence_changes ORDER BY device_id, n
    ON CONFLICT DO NOTHING"""
_FIELDS = """
    INSERT INTO device_state AS s (device_id, channel, field, value, measured_at, log_offset)
    SELECT DISTINCT ON (device_id) device_id, '', 'presence', to_jsonb(state), from_us(since_us),
           log_offset
    FROM presence_changes ORDER BY device_id, n DESC
    ON CONFLICT (device_id, channel, field) DO UPDATE
    SET value = excluded.value, measured_at = excluded.measured_at, log_offset = excluded.log_offset
    WHERE (s.measured_at, s.log_offset) <= (excluded.measured_at, excluded.log_offset)"""
_STANDINGS = """
    INSERT INTO presence AS p (device_id, part, state, since_at, heard_at, folded_at, alert_at)
    SELECT device_id, part, state, from_us(since_us), from_us(heard_us), from_us(folded_us),
           from_us(alert_us)
    FROM presence_standings ORDER BY device_id
    ON CONFLICT (device_id) DO UPDATE
    SET part = excluded.part, state = excluded.state, since_at = excluded.since_at,
        heard_at = excluded.heard_at, folded_at = excluded.folded_at,
        alert_at = excluded.alert_at"""
_PROGRESS = """
    INSERT INTO presence_progress (part, next_offset, stream_us, resumed_us, ticks)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (part) DO UPDATE
    SET next_offset = excluded.next_offset, stream_us = excluded.stream_us,
        resumed_us = excluded.resumed_us, ticks = excluded.ticks"""


def store(
    conn: Connection,
    changes: Sequence[ChangeRow],
    standings: Sequence[Standing],
    progress: Iterable[Progress],
) -> None:
    """Write changes, how devices stand, and the places where the log is to be read on."""
    with conn.transaction():
        if changes or standings:
            conn.execute(_STAGES)
        if changes:
            copy_rows(conn, "presence_changes", ((*row, n) for n, row in enumerate(changes)))
            conn.execute(_CHANGES)
            conn.execute(_FIELDS)
        if standings:
            copy_rows(conn, "presence_standings", standings)
            conn.execute(_STANDINGS)
        conn.cursor().executemany(
            _PROGRESS, [(*place[:4], Jsonb(place.ticks)) for place in progress]
        )


def forget(conn: Connection, device_ids: Sequence[int]) -> None:
    """Deleted devices stand nowhere; their history stays."""
    with conn.transaction():
        conn.execute("DELETE FROM presence WHERE device_id = ANY (%s)", [list(device_ids)])
        conn.execute(
            "DELETE FROM device_state WHERE field = 'presence' AND device_id = ANY (%s)",
            [list(device_ids)],
        )
