"""What became of devices: their presence, change by change, and the gaps in their data."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """From `since_at` on it was so; `heard_at` is when it had last been heard."""

    since_at: datetime
    state: str
    reason: str
    heard_at: datetime | None
    home_id: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """Nothing was heard of the device in `(start_at, end_at)`, longer than its contract allows.

    `end_at` None: it is still silent.
    """

    start_at: datetime
    end_at: datetime | None


def changes(
    conn: psycopg.Connection[Any],
    device_id: int,
    most: int,
    *,
    before: datetime | None = None,
    home_id: str | None = None,
) -> list[PresenceChange]:
    """The newest changes first; with `home_id` only those of that home's time."""
    with conn.cursor(row_factory=class_row(PresenceChange)) as cursor:
        return cursor.execute(
            """
            SELECT since_at, state::text, reason, heard_at, home_id FROM device_presence
            WHERE device_id = %(device)s
              AND (%(before)s::timestamptz IS NULL OR since_at < %(before)s)
              AND (%(home)s::text IS NULL OR home_id = %(home)s)
            ORDER BY since_at DESC, state DESC LIMIT %(most)s""",
            {"device": device_id, "most": most, "before": before, "home": home_id},
        ).fetchall()


def gaps(
    conn: psycopg.Connection[Any],
    device_id: int,
    start: datetime,
    end: datetime,
    *,
    home_id: str | None = None,
) -> list[Gap]:
    """Silences that touch `[start, end)`, the oldest first; with `home_id` only of its time."""
    with conn.cursor(row_factory=class_row(Gap)) as cursor:
        return cursor.execute(
            """
            SELECT start_at, end_at FROM (
                SELECT heard_at AS start_at, state, home_id,
                       lag(state) OVER ordered AS before,
                       min(since_at) FILTER (WHERE state = 'online') OVER (
                           ORDER BY since_at, state ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
                       ) AS end_at
                FROM device_presence WHERE device_id = %(device)s
                WINDOW ordered AS (ORDER BY since_at, state)
            ) AS spans
            WHERE state <> 'online' AND before = 'online' AND start_at IS NOT NULL
              AND start_at < %(end)s AND coalesce(end_at, 'infinity') > %(start)s
              AND (%(home)s::text IS NULL OR home_id = %(home)s)
            ORDER BY start_at""",
            {"device": device_id, "start": start, "end": end, "home": home_id},
        ).fetchall()
