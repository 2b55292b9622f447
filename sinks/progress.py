"""How far the stream is, in the same transactions as its rows: the fence against two writers."""

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

PREDECESSOR_WAIT_MS = 3_000


class FencedOut(Exception):
    """Another worker has taken the partition: nothing of this transaction may be stored."""


class Progress(NamedTuple):
    """A partition as its new owner finds it."""

    part: int
    epoch: int
    next_offset: int
    published_offset: int
    stream_us: int
    ticks: dict[str, int]


_INSERT = """
INSERT INTO stream_progress (topic, part, epoch, pid, next_offset, published_offset)
VALUES (%(topic)s, %(part)s, 0, 0, 0, 0) ON CONFLICT DO NOTHING
"""
_TAKE = """
UPDATE stream_progress SET epoch = %(epoch)s, pid = pg_backend_pid()
WHERE topic = %(topic)s AND part = %(part)s
RETURNING next_offset, published_offset, coalesce(to_us(stream_time), 0), ticks
"""
_PREDECESSOR = """
SELECT pg_terminate_backend(pid) FROM stream_progress
WHERE topic = %(topic)s AND part = %(part)s AND pid <> 0 AND pid <> pg_backend_pid()
"""
_ADVANCE = """
UPDATE stream_progress AS p
SET next_offset = v.next_offset, stream_time = from_us(v.stream_us), ticks = v.ticks,
    published_offset = greatest(p.published_offset, v.published), pid = pg_backend_pid()
FROM unnest(%(parts)s::smallint[], %(epochs)s::bigint[], %(expected)s::bigint[],
            %(next)s::bigint[], %(published)s::bigint[], %(stream_us)s::bigint[],
            %(ticks)s::jsonb[])
     AS v (part, epoch, expected, next_offset, published, stream_us, ticks)
WHERE p.topic = %(topic)s AND p.part = v.part AND p.epoch = v.epoch
  AND p.next_offset = v.expected
"""
_STANDING = """
SELECT part, epoch, next_offset FROM stream_progress
WHERE topic = %(topic)s AND part = ANY(%(parts)s)
"""


def take_over(conn: psycopg.Connection[Any], topic: str, part: int) -> Progress:
    """Become the one writer of a partition; everybody before is fenced out.

    Waits for a predecessor's transaction, at most 3 s, then ends its backend: a process stopped
    in the middle of a COPY would keep the row locked for ever.
    """
    epoch = secrets.randbits(62)
    names = {"topic": topic, "part": part, "epoch": epoch}
    while True:
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {PREDECESSOR_WAIT_MS}")
                conn.execute(_INSERT, names)  # waits as well for who is changing the row
                row = conn.execute(_TAKE, names).fetchone()
            break
        except psycopg.errors.LockNotAvailable:
            conn.execute(_PREDECESSOR, names)
    if row is None:
        raise RuntimeError(f"{topic}[{part}]: its progress row vanished; was the table truncated?")
    return Progress(part, epoch, *row)


class Step(NamedTuple):
    part: int
    epoch: int
    expected: int
    next_offset: int
    published: int
    stream_us: int
    ticks: dict[str, int]


def advance(conn: psycopg.Connection[Any], topic: str, steps: Sequence[Step]) -> bool:
    """Move partitions from their expected offsets to the next, first thing in a transaction.

    Returns False when the very step is stored already: the answer to an earlier COMMIT was lost.
    Raises FencedOut if another worker owns one of them.
    """
    parts = [step.part for step in steps]
    cursor = conn.execute(
        _ADVANCE,
        {
            "topic": topic,
            "parts": parts,
            "epochs": [step.epoch for step in steps],
            "expected": [step.expected for step in steps],
            "next": [step.next_offset for step in steps],
            "published": [step.published for step in steps],
            "stream_us": [step.stream_us for step in steps],
            "ticks": [Jsonb(step.ticks) for step in steps],
        },
    )
    if cursor.rowcount == len(steps):
        return True
    rows = conn.execute(_STANDING, {"topic": topic, "parts": parts}).fetchall()
    standing = {part: (epoch, offset) for part, epoch, offset in rows}
    if all(standing.get(step.part) == (step.epoch, step.next_offset) for step in steps):
        return False
    stolen = [step.part for step in steps if standing.get(step.part, (0, 0))[0] != step.epoch]
    raise FencedOut(
        f"{topic}{stolen or parts}: "
        + ("another worker has taken over" if stolen else "the offset is not where it was left")
    )


_PUBLISHED = """
UPDATE stream_progress AS p SET published_offset = greatest(p.published_offset, v.published)
FROM unnest(%(parts)s::smallint[], %(epochs)s::bigint[], %(published)s::bigint[])
     AS v (part, epoch, published)
WHERE p.topic = %(topic)s AND p.part = v.part AND p.epoch = v.epoch
"""
_FORGET_ANNOUNCED = """
DELETE FROM announcement AS a
USING unnest(%(parts)s::smallint[], %(published)s::bigint[]) AS v (part, published)
WHERE a.part = v.part AND a.log_offset < v.published
"""


def note_published(
    conn: psycopg.Connection[Any], topic: str, published: Sequence[tuple[int, int, int]]
) -> None:
    """Kafka has everything derived from before these offsets: (part, epoch, offset)."""
    names = {
        "topic": topic,
        "parts": [part for part, _, _ in published],
        "epochs": [epoch for _, epoch, _ in published],
        "published": [offset for _, _, offset in published],
    }
    with conn.transaction():
        conn.execute(_PUBLISHED, names)
        conn.execute(_FORGET_ANNOUNCED, names)


_LOG_GAP = """
INSERT INTO log_gap (topic, part, from_offset, to_offset) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""


def note_log_gap(
    conn: psycopg.Connection[Any], topic: str, part: int, from_offset: int, to_offset: int
) -> None:
    """Offsets [from, to) are no longer in the log and were never read."""
    conn.execute(_LOG_GAP, (topic, part, from_offset, to_offset))
