"""What the presence process reads of devices, what it sets of them, and what is told of changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import args_row

from schemas.models import Model, shipped_models
from schemas.presence import Presence
from schemas.topics import RAW
from sinks.presence_store import Progress, Standing

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
            WHERE NOT p.announced ORDER BY p.device_id, p.since_at, p.state LIMIT %s""",
            [most],
        ).fetchall()


def mark_announced(conn: Connection, told: Sequence[Told]) -> None:
    """Kafka has these, which are the next that were unannounced."""
    if told:
        last = told[-1]
        conn.execute(
            "UPDATE device_presence SET announced = true WHERE NOT announced "
            "AND (device_id, since_at, state) <= (%s, %s, %s::presence_state)",
            [last.device_id, last.since_at, last.state],
        )


def unconfirmed(conn: Connection, device_ids: Sequence[int]) -> list[int]:
    """Those of the devices of which a worker may be publishing what it has read before."""
    rows = conn.execute(
        """
        SELECT DISTINCT s.device_id
        FROM device_state s JOIN presence p USING (device_id)
        JOIN stream_progress g ON g.topic = %s AND g.part = p.part
        WHERE s.device_id = ANY (%s) AND s.field <> 'presence'
          AND s.log_offset >= g.published_offset""",
        [RAW.name, list(device_ids)],
    )
    return [device_id for (device_id,) in rows]


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
