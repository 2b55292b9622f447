"""What was mended of registers, as rows: each in the transaction of the windows it explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

Key = tuple[int, int, int, bool]
"""`channel_id, start_us, at_us, is_export`."""


class RepairRecord(NamedTuple):
    """A row of `register_repair`, but for the log offset that changed it. µs and µWh."""

    channel_id: int
    start_us: int
    at_us: int
    is_export: bool
    end_us: int
    why: int
    energy_uwh: int
    before_uwh: int
    after_uwh: int

    @property
    def key(self) -> Key:
        return self[:4]


class Redone(NamedTuple):
    """All repairs of a channel that begin in [start_us, end_us), as of a log offset."""

    channel_id: int
    start_us: int
    end_us: int
    offset: int
    repairs: Sequence[RepairRecord]

    def holds(self, key: Key) -> bool:
        return key[0] == self.channel_id and self.start_us <= key[1] < self.end_us


_COLUMNS = (
    "channel_id, start_at, at, is_export, end_at, why, energy_uwh, before_uwh, after_uwh, "
    "changed_offset"
)
_KEEP = f"""
INSERT INTO register_repair ({_COLUMNS})
SELECT channel_id, from_us(start_us), from_us(at_us), is_export, from_us(end_us), why, energy_uwh,
       before_uwh, after_uwh, changed_offset
FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bool[], %s::bigint[], %s::smallint[],
            %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS v (channel_id, start_us, at_us, is_export, end_us, why, energy_uwh, before_uwh, after_uwh,
           changed_offset)
ON CONFLICT (channel_id, start_at, at, is_export) DO UPDATE
SET end_at = excluded.end_at, why = excluded.why, energy_uwh = excluded.energy_uwh,
    before_uwh = excluded.before_uwh, after_uwh = excluded.after_uwh,
    changed_offset = excluded.changed_offset
"""
_FORGET = """
DELETE FROM register_repair AS r
USING unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bool[])
     AS v (channel_id, start_us, at_us, is_export)
WHERE r.channel_id = v.channel_id AND r.start_at = from_us(v.start_us)
  AND r.at = from_us(v.at_us) AND r.is_export = v.is_export
"""
_STORED = """
SELECT r.channel_id, to_us(r.start_at), to_us(r.at), r.is_export, to_us(r.end_at), r.why,
       r.energy_uwh, r.before_uwh, r.after_uwh, r.changed_offset
FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS s (channel_id, start_us, end_us)
JOIN register_repair AS r ON r.channel_id = s.channel_id
     AND r.start_at >= from_us(s.start_us) AND r.start_at < from_us(s.end_us)
"""


def keep(conn: psycopg.Connection[Any], rows: Sequence[tuple[RepairRecord, int]]) -> None:
    """Store repairs, each with the log offset that told it."""
    if rows:
        columns = [list(column) for column in zip(*((*r, o) for r, o in rows), strict=True)]
        conn.execute(_KEEP, columns)


def replace(conn: psycopg.Connection[Any], redone: Sequence[Redone]) -> None:
    """Make the repairs of spans that were computed anew, in the order of the log, those given.

    One that no longer holds is deleted; one that is the same as before keeps its row.
    """
    if not redone:
        return
    stored = _stored(conn, redone)
    now = dict(stored)
    for one in redone:
        told = {repair.key: repair for repair in one.repairs}
        for key in [key for key in now if one.holds(key) and key not in told]:
            del now[key]
        for key, repair in told.items():
            if key not in now or now[key][0] != repair:
                now[key] = repair, one.offset
    gone = stored.keys() - now.keys()
    if gone:
        conn.execute(_FORGET, [list(column) for column in zip(*sorted(gone), strict=True)])
    keep(conn, [row for key, row in now.items() if stored.get(key) != row])


def _stored(
    conn: psycopg.Connection[Any], redone: Sequence[Redone]
) -> dict[Key, tuple[RepairRecord, int]]:
    columns = [list(column) for column in zip(*(one[:3] for one in redone), strict=True)]
    rows = ((RepairRecord(*row[:-1]), row[-1]) for row in conn.execute(_STORED, columns))
    return {record.key: (record, offset) for record, offset in rows}


# ---------------------------------------------------------------- asking for them

_LIST = """
SELECT channel_id, to_us(start_at), to_us(at), is_export, to_us(end_at), why, energy_uwh,
       before_uwh, after_uwh
FROM register_repair
WHERE channel_id = ANY(%(channel_ids)s) AND at >= %(low)s AND at < %(high)s
  AND (%(after_at)s::timestamptz IS NULL
       OR (at, channel_id, is_export) > (%(after_at)s, %(after_channel)s, %(after_export)s))
ORDER BY at, channel_id, is_export
LIMIT %(limit)s
"""


class Place(NamedTuple):
    """Where a page of repairs ended."""

    at: datetime
    channel_id: int
    is_export: bool


@dataclass(frozen=True)
class Wanted:
    """Repairs of channels with their odd reading in [start, end), those after a place."""

    channel_ids: Sequence[int]
    start: datetime
    end: datetime
    after: Place | None = None
    limit: int | None = None

    def parameters(self) -> dict[str, object]:
        at, channel_id, is_export = self.after or (None, None, None)
        return {
            "channel_ids": list(self.channel_ids),
            "low": self.start,
            "high": self.end,
            "after_at": at,
            "after_channel": channel_id,
            "after_export": is_export,
            "limit": self.limit,
        }


def listed(conn: psycopg.Connection[Any], wanted: Wanted) -> list[RepairRecord]:
    """By the instant of the odd reading, then channel and register."""
    return [RepairRecord(*row) for row in conn.execute(_LIST, wanted.parameters())]


async def list_page(conn: psycopg.AsyncConnection[Any], wanted: Wanted) -> list[RepairRecord]:
    """`listed`, for the API."""
    cursor = await conn.execute(_LIST, wanted.parameters())
    return [RepairRecord(*row) for row in await cursor.fetchall()]
