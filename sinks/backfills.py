"""Silences of meters that store their minutes: noted from the ledger, asked for hour by hour."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from schemas.units import DAY_US, QUARTER_US
from schemas.usage import Quality

KEPT_US = 60 * DAY_US
"""How long a Shelly energy meter keeps its minutes."""


class Silence(NamedTuple):
    """`[start_us, end_us)` of a component, in whole quarter hours, to be asked for."""

    device_id: int
    component: str
    start_us: int
    end_us: int


class Backfill(NamedTuple):
    """A silence that waits to be asked for, from `asked_until_us` on."""

    silence: Silence
    address: str
    asked_until_us: int
    tries: int


# What a register gained unseen is spread over quarter hours as `interpolated`. The ledger has one
# writer, whose rows appear in the order of `changed_at`; five minutes are for its transaction.
_SILENT = f"""
SELECT d.device_id,
       CASE c.name WHEN 'total' THEN 'emdata:0' ELSE replace(c.name, 'em1:', 'em1data:') END,
       to_us(q.window_start)
FROM usage_15m q JOIN channel c USING (channel_id) JOIN device d USING (device_id)
WHERE q.changed_at >= (SELECT looked_until FROM backfill_progress) - interval '5 minutes'
  AND q.quality = {Quality.INTERPOLATED:d} AND q.complete
  AND q.window_start > now() - %(kept_us)s * interval '1 microsecond'
  AND d.family = 'shelly' AND d.deleted_at IS NULL
  AND (c.name ~ '^em1:[0-9]$'
       OR (c.name = 'total' AND EXISTS (SELECT FROM channel AS phase
                                        WHERE phase.device_id = d.device_id AND phase.name = 'l1')))
  AND NOT EXISTS (
      SELECT FROM backfill b
      WHERE b.device_id = d.device_id
        AND b.component
            = CASE c.name WHEN 'total' THEN 'emdata:0' ELSE replace(c.name, 'em1:', 'em1data:') END
        AND b.start_at <= q.window_start AND b.end_at > q.window_start
        AND (b.done_at IS NULL OR b.done_at >= q.changed_at
             OR q.changed_at > now() - interval '1 minute'))  -- it may be about to be mended
ORDER BY 1, 2, 3
"""
_NOTE = """
INSERT INTO backfill (device_id, component, start_at, end_at, asked_until)
SELECT v.device_id, component, from_us(start_us), from_us(end_us),
       greatest(from_us(start_us), date_trunc('minute', first.at + interval '59.999999 seconds'))
FROM unnest(%s::int[], %s::text[], %s::bigint[], %s::bigint[])
     AS v (device_id, component, start_us, end_us)
CROSS JOIN LATERAL (
    SELECT min(measured_at) AS at FROM readings JOIN channel c USING (channel_id)
    WHERE c.device_id = v.device_id AND import_total_wh IS NOT NULL
      AND c.name = CASE component WHEN 'emdata:0' THEN 'total'
                                  ELSE replace(component, 'em1data:', 'em1:') END
) AS first
ON CONFLICT (device_id, component, start_at) DO UPDATE
SET end_at = greatest(backfill.end_at, excluded.end_at), asked_until = excluded.asked_until,
    done_at = NULL, tries = 0, next_try_at = now(), noted_at = now(), reason = NULL
"""


def note_silences(conn: psycopg.Connection[Any]) -> list[Silence]:
    """Note the silences that the ledger shows since the last look, each once.

    Nothing is asked for from before the register's first reading: it would count beside it.
    One that was asked for, and changed afterwards without being mended, is asked for once more.
    """
    with conn.transaction():
        rows = conn.execute(_SILENT, {"kept_us": KEPT_US}).fetchall()
        conn.execute("UPDATE backfill_progress SET looked_until = now()")
        silences = widened(
            [Silence(device, part, at_us, at_us + QUARTER_US) for device, part, at_us in rows]
        )
        if silences:
            conn.execute(_NOTE, [list(column) for column in zip(*silences, strict=True)])
    return silences


def widened(silences: list[Silence]) -> list[Silence]:
    """Silences in order, those of a component that touch made one, and a quarter hour more on each
    side: the quarter hours in which a silence begins and ends are `gap`, and not among them.
    """
    found: list[Silence] = []
    for one in silences:
        last = found[-1] if found else None
        if last is not None and last[:2] == one[:2] and last.end_us == one.start_us:
            found[-1] = last._replace(end_us=one.end_us)
        else:
            found.append(one)
    return [
        one._replace(start_us=one.start_us - QUARTER_US, end_us=one.end_us + QUARTER_US)
        for one in found
    ]


_DUE = """
SELECT DISTINCT ON (b.device_id) b.device_id, b.component, to_us(b.start_at), to_us(b.end_at),
       d.address, to_us(b.asked_until), b.tries
FROM backfill b JOIN device d USING (device_id)
WHERE b.done_at IS NULL AND b.next_try_at <= now()
  AND b.end_at > now() - %s * interval '1 microsecond' AND NOT b.device_id = ANY(%s)
ORDER BY b.device_id, b.start_at
LIMIT %s
"""


def due_backfills(conn: psycopg.Connection[Any], busy: list[int], most: int) -> list[Backfill]:
    """What may be asked for now, one silence a device, none of the devices that are busy."""
    return [
        Backfill(Silence(*row[:4]), *row[4:]) for row in conn.execute(_DUE, [KEPT_US, busy, most])
    ]


_ANSWERED = """
UPDATE backfill SET asked_until = from_us(%(until_us)s), records = records + %(records)s,
    tries = 0, reason = NULL, next_try_at = now(),
    done_at = CASE WHEN from_us(%(until_us)s) >= end_at THEN now() END
WHERE device_id = %(device_id)s AND component = %(component)s AND start_at = from_us(%(start_us)s)
"""
_POSTPONED = """
UPDATE backfill SET tries = tries + 1, reason = %(reason)s,
    next_try_at = now() + %(wait_s)s * interval '1 second'
WHERE device_id = %(device_id)s AND component = %(component)s AND start_at = from_us(%(start_us)s)
"""
_GIVEN_UP = """
UPDATE backfill SET reason = %(reason)s, done_at = now()
WHERE device_id = %(device_id)s AND component = %(component)s AND start_at = from_us(%(start_us)s)
"""


def answered(conn: psycopg.Connection[Any], silence: Silence, until_us: int, records: int) -> None:
    """All that the device has stored before `until_us` has come."""
    conn.execute(_ANSWERED, {**silence._asdict(), "until_us": until_us, "records": records})


def postponed(conn: psycopg.Connection[Any], silence: Silence, wait_s: float, reason: str) -> None:
    conn.execute(_POSTPONED, {**silence._asdict(), "wait_s": wait_s, "reason": reason})


def given_up(conn: psycopg.Connection[Any], silence: Silence, reason: str) -> None:
    """The device says that it has nothing of this kind."""
    conn.execute(_GIVEN_UP, {**silence._asdict(), "reason": reason})


_LISTED = """
SELECT component, start_at, end_at, asked_until, records, tries, next_try_at, noted_at, done_at,
       reason
FROM backfill WHERE device_id = %s ORDER BY start_at
"""


def backfills_of(conn: psycopg.Connection[Any], device_id: int) -> list[dict[str, object]]:
    """The silences of a device that were noted; instants as RFC 3339, UTC."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_LISTED, [device_id]).fetchall()
    return [
        {
            name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        for row in rows
    ]
