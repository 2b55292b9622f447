"""What the presence process reads and writes: devices, how they stand, and what has changed."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import args_row
from psycopg.types.json import Jsonb

from schemas.models import Model, shipped_models
from schemas.presence import Presence, PresenceReason
from schemas.topics import RAW

Connection = psycopg.Connection[Any]
ALL_DEVICES = 0
"""In `presence_dirty`: not one device but each of them."""


class DeviceTerms(NamedTuple):
    """What decides over a device's presence; `model` is as it was set, else as the device says."""

    device_id: int
    address: str
    family: str
    home_id: str | None
    model: str | None
    deleted_us: int | None
    gap_limit_s: int | None
    gap_limit_of_model: bool


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


# ---------------------------------------------------------------- what is asked

_TERMS = """
    SELECT d.device_id, d.address, d.family, d.home_id, coalesce(d.model, s.value #>> '{}'),
           to_us(d.deleted_at), d.gap_limit_s, d.gap_limit_of_model
    FROM device d
    LEFT JOIN device_state s
           ON s.device_id = d.device_id AND s.channel = '' AND s.field = 'model'"""


def models(conn: Connection) -> dict[str, Model]:
    """All models: those that were set, and for the others what is shipped."""
    with conn.cursor(row_factory=args_row(Model)) as cursor:
        told = cursor.execute(
            "SELECT name, family, expected_interval_s, late_after_s, offline_after_s, "
            "longest_gap_s, capabilities FROM model"
        )
        return {**shipped_models(), **{model.name: model for model in told}}


def all_devices(conn: Connection) -> list[DeviceTerms]:
    with conn.cursor(row_factory=args_row(DeviceTerms)) as cursor:
        return cursor.execute(_TERMS.encode()).fetchall()


def changed_devices(conn: Connection) -> list[DeviceTerms] | None:
    """Devices that are new or whose terms have changed since the last call; None: it may be any."""
    with conn.transaction(), conn.cursor(row_factory=args_row(DeviceTerms)) as cursor:
        marks = {one for (one,) in conn.execute("DELETE FROM presence_dirty RETURNING device_id")}
        if ALL_DEVICES in marks:
            return None
        if not marks:
            return []
        query = _TERMS + " WHERE d.device_id = ANY (%s)"
        return cursor.execute(query.encode(), [list(marks)]).fetchall()


def stored_until(conn: Connection) -> dict[int, int]:
    """By partition of the raw log: the first offset that is not stored yet."""
    return dict(
        conn.execute("SELECT part, next_offset FROM stream_progress WHERE topic = %s", [RAW.name])
    )


def progress(conn: Connection) -> list[Progress]:
    with conn.cursor(row_factory=args_row(Progress)) as cursor:
        return cursor.execute(
            "SELECT part, next_offset, stream_us, resumed_us, ticks FROM presence_progress"
        ).fetchall()


def standings(conn: Connection) -> list[Standing]:
    rows = conn.execute(
        "SELECT device_id, part, state::text, to_us(since_at), to_us(heard_at), to_us(folded_at), "
        "to_us(alert_at) FROM presence"
    )
    return [
        Standing(device_id, part, Presence(state), since_us, heard_us, folded_us, alert_us)
        for device_id, part, state, since_us, heard_us, folded_us, alert_us in rows
    ]


# ---------------------------------------------------------------- what is stored


def store(
    conn: Connection,
    changes: Sequence[ChangeRow],
    standings: Iterable[Standing],
    progress: Iterable[Progress],
) -> None:
    """Write changes, how devices stand, and the places where the log is to be read on."""
    with conn.transaction():
        if changes:
            columns = [list(column) for column in zip(*changes, strict=True)]
            conn.execute(_CHANGES, columns[:8])
            conn.execute(_FIELDS, [columns[0], columns[1], columns[2], columns[8]])
        rows = list(standings)
        if rows:
            conn.execute(_STANDINGS, [list(column) for column in zip(*rows, strict=True)])
        conn.cursor().executemany(
            _PROGRESS, [(*place[:4], Jsonb(place.ticks)) for place in progress]
        )


_CHANGES = """
    INSERT INTO device_presence (device_id, since_at, state, reason, heard_at, home_id, alert,
                                 raised_at)
    SELECT device_id, from_us(since_us), state::presence_state, reason, from_us(heard_us), home_id,
           alert, from_us(raised_us)
    FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[],
                %s::text[], %s::bigint[])
         AS v (device_id, since_us, state, reason, heard_us, home_id, alert, raised_us)
    ON CONFLICT DO NOTHING"""
_FIELDS = """
    INSERT INTO device_state AS s (device_id, channel, field, value, measured_at, log_offset)
    SELECT DISTINCT ON (device_id) device_id, '', 'presence', to_jsonb(state), from_us(since_us),
           log_offset
    FROM unnest(%s::int[], %s::bigint[], %s::text[], %s::bigint[]) WITH ORDINALITY
         AS v (device_id, since_us, state, log_offset, n)
    ORDER BY device_id, n DESC
    ON CONFLICT (device_id, channel, field) DO UPDATE
    SET value = excluded.value, measured_at = excluded.measured_at, log_offset = excluded.log_offset
    WHERE (s.measured_at, s.log_offset) <= (excluded.measured_at, excluded.log_offset)"""
_STANDINGS = """
    INSERT INTO presence AS p (device_id, part, state, since_at, heard_at, folded_at, alert_at)
    SELECT device_id, part, state::presence_state, from_us(since_us), from_us(heard_us),
           from_us(folded_us), from_us(alert_us)
    FROM unnest(%s::int[], %s::smallint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
                %s::bigint[])
         AS v (device_id, part, state, since_us, heard_us, folded_us, alert_us)
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


def forget(conn: Connection, device_ids: Sequence[int]) -> None:
    """Deleted devices stand nowhere; their history stays."""
    with conn.transaction():
        conn.execute("DELETE FROM presence WHERE device_id = ANY (%s)", [list(device_ids)])
        conn.execute(
            "DELETE FROM device_state WHERE field = 'presence' AND device_id = ANY (%s)",
            [list(device_ids)],
        )


def revive(conn: Connection, spoke: Sequence[tuple[int, int]]) -> None:
    """Deleted devices (device_id, received_us) that spoke after that: they are there, unclaimed."""
    conn.execute(
        """
        UPDATE device AS d SET deleted_at = NULL
        FROM unnest(%s::int[], %s::bigint[]) AS v (device_id, at_us)
        WHERE d.device_id = v.device_id AND d.deleted_at < from_us(v.at_us)""",
        [list(column) for column in zip(*spoke, strict=True)],
    )


def set_gap_limits(conn: Connection, limits: Sequence[tuple[int, int | None]]) -> None:
    """(device_id, seconds) as their models say; one that a person has set stays."""
    conn.execute(
        """
        UPDATE device AS d SET gap_limit_s = v.gap_limit_s,
                               gap_limit_of_model = v.gap_limit_s IS NOT NULL
        FROM unnest(%s::int[], %s::int[]) AS v (device_id, gap_limit_s)
        WHERE d.device_id = v.device_id AND (d.gap_limit_s IS NULL OR d.gap_limit_of_model)""",
        [list(column) for column in zip(*limits, strict=True)],
    )


# ---------------------------------------------------------------- what is told


class Told(NamedTuple):
    """A change that Kafka does not have yet."""

    device_id: int
    address: str
    name: str | None
    since_at: datetime
    state: str
    reason: str
    heard_at: datetime | None
    home_id: str | None
    alert: str | None
    raised_at: datetime | None


def unannounced(conn: Connection, most: int) -> list[Told]:
    """Changes to announce, those of a device in their order."""
    with conn.cursor(row_factory=args_row(Told)) as cursor:
        return cursor.execute(
            """
            SELECT p.device_id, d.address, d.name, p.since_at, p.state::text, p.reason, p.heard_at,
                   p.home_id, p.alert, p.raised_at
            FROM device_presence p JOIN device d USING (device_id)
            WHERE NOT p.announced ORDER BY p.device_id, p.since_at LIMIT %s""",
            [most],
        ).fetchall()


def mark_announced(conn: Connection, told: Sequence[Told]) -> None:
    conn.execute(
        """
        UPDATE device_presence AS p SET announced = true
        FROM unnest(%s::int[], %s::timestamptz[], %s::text[]) AS v (device_id, since_at, state)
        WHERE p.device_id = v.device_id AND p.since_at = v.since_at
          AND p.state = v.state::presence_state""",
        (
            [one.device_id for one in told],
            [one.since_at for one in told],
            [one.state for one in told],
        ),
    )


# ---------------------------------------------------------------- capabilities

_CAPABILITIES = """
    WITH chosen AS (
        SELECT device_id, capabilities FROM device
        WHERE device_id > %(after)s ORDER BY device_id LIMIT %(most)s
    ), seen AS (
        SELECT c.device_id, jsonb_object_agg(c.name, to_jsonb(array_remove(ARRAY[
                   CASE WHEN s.has_import THEN 'import_register' END,
                   CASE WHEN s.has_export THEN 'export_register' END,
                   CASE WHEN s.has_interval THEN 'interval_energy' END], NULL))) AS channels,
               bool_or(s.has_import OR s.has_interval) AS energy
        FROM chosen JOIN channel c USING (device_id) LEFT JOIN channel_state s USING (channel_id)
        GROUP BY c.device_id
    ), relays AS (
        SELECT t.device_id, jsonb_agg(t.channel ORDER BY t.channel) AS names
        FROM chosen JOIN device_state t USING (device_id) WHERE t.field = 'relay'
        GROUP BY t.device_id
    ), found AS (
        SELECT device_id, jsonb_build_object(
                   'channels', coalesce(seen.channels, '{}'), 'relays', coalesce(names, '[]'),
                   'energy', coalesce(seen.energy, false)) AS capabilities
        FROM chosen LEFT JOIN seen USING (device_id) LEFT JOIN relays USING (device_id)
    ), changed AS (
        UPDATE device AS d SET capabilities = found.capabilities
        FROM found WHERE d.device_id = found.device_id AND d.capabilities <> found.capabilities
    )
    SELECT max(device_id), count(*) FROM chosen"""


def detect_capabilities(conn: Connection, after: int, most: int) -> int:
    """Store what the stream has seen of the next devices after this id.

    Returns the id to go on after; 0 at the end.
    """
    row = conn.execute(_CAPABILITIES, {"after": after, "most": most}).fetchone()
    last, count = row if row is not None else (None, 0)
    return int(last) if last is not None and count == most else 0
