"""The readings that tell a channel's energy in a span of time, for whoever asks now and then."""

from typing import Any, NamedTuple

import psycopg

from sinks.usage_windows import Quantities


class Asked(NamedTuple):
    """Instants [start_us, end_us) of a channel, and the gap limit of its device."""

    channel_id: int
    start_us: int
    end_us: int
    gap_limit_us: int


# The readings around the span that decide it (`touched_by`), but none beyond a day from it.
_POINTS = """
SELECT to_us(r.measured_at), r.power_w, r.import_total_wh, r.export_total_wh, r.interval_s,
       r.interval_import_wh
FROM channel_state AS s
CROSS JOIN LATERAL touched_by(s.channel_id, from_us(%(start_us)s), from_us(%(end_us)s - 1),
                              %(gap_limit_us)s * interval '1 microsecond',
                              s.has_import, s.has_export, false) AS near
JOIN readings AS r ON r.channel_id = s.channel_id
    AND r.measured_at >= greatest(near.low, from_us(%(start_us)s) - interval '1 day')
    AND r.measured_at <= least(near.high, from_us(%(end_us)s) + interval '1 day')
WHERE s.channel_id = %(channel_id)s
ORDER BY r.measured_at
"""


def points_around(conn: psycopg.Connection[Any], asked: Asked) -> list[Quantities]:
    """In order of time."""
    return conn.execute(_POINTS, asked._asdict(), binary=True).fetchall()


async def points_around_async(conn: psycopg.AsyncConnection[Any], asked: Asked) -> list[Quantities]:
    """`points_around`, for the API."""
    return await (await conn.execute(_POINTS, asked._asdict(), binary=True)).fetchall()
