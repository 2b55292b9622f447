"""Devices in a list, for commands; the API's pages are in `sinks.queries`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class ListFilter:
    home_id: str | None = None
    unclaimed: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """`model` as it was set, else as the device says; `heard_at` to the minute while online."""

    device_id: int
    address: str
    name: str | None
    home_id: str | None
    location: str | None
    model: str | None
    presence: str | None
    since_at: datetime | None
    heard_at: datetime | None


def list_devices(conn: psycopg.Connection[Any], wanted: ListFilter) -> list[Listed]:
    """In the order of their ids."""
    with conn.cursor(row_factory=class_row(Listed)) as cursor:
        return cursor.execute(
            """
            SELECT d.device_id, d.address, d.name, d.home_id, d.location,
                   coalesce(d.model, s.value #>> '{}') AS model, p.state::text AS presence,
                   p.since_at, p.heard_at
            FROM device d LEFT JOIN presence p USING (device_id)
            LEFT JOIN device_state s
                   ON s.device_id = d.device_id AND s.channel = '' AND s.field = 'model'
            WHERE (%(home)s::text IS NULL OR d.home_id = %(home)s)
              AND (NOT %(unclaimed)s OR d.home_id IS NULL)
              AND (d.deleted_at IS NOT NULL) = %(deleted)s
            ORDER BY d.device_id""",
            {"home": wanted.home_id, "unclaimed": wanted.unclaimed, "deleted": wanted.deleted},
        ).fetchall()
