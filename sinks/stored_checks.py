"""The checks of `meterstream verify`, each a `Check`: does what is stored add up?

Is the ledger what windows and gaps sum to, are hours, days, weeks and months what the ledger sums
to, is a key there twice? Whether windows are what the readings say needs `streams.energy` and is
asked in `infra.cli.verify`. The callers hold the transaction, as for `sinks.accounting`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from sinks.accounting import MOST_NAMED, Failure
from sinks.usage_windows import GapRecord, MinuteRecord

Connection = psycopg.Connection[Any]


@dataclass
class Check:
    """One promise, how often it was looked at, and where it does not hold."""

    name: str
    checked: int = 0
    failed: int = 0
    pending: int = 0  # left out, because the stream was just about to change it
    outdated: int = 0  # left out, because the device had other limits when it was made
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failed

    def fail(self, channel: str, at: datetime | str, text: str, times: int = 1) -> None:
        self.failed += times
        if len(self.failures) < MOST_NAMED:
            told = at if isinstance(at, str) else at.isoformat(timespec="seconds")
            self.failures.append(Failure(channel, told, text))

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ok": self.ok,
            "checked": self.checked,
            "failed": self.failed,
            "pending": self.pending,
            "outdated": self.outdated,
            "failures": [vars(one) for one in self.failures],
        }


class ChannelFacts(NamedTuple):
    """What the checks have to know of a channel. Times in µs; None where nothing is complete.

    The limits are those by which its windows from `limits_since_us` on were made (None: all).
    """

    channel_id: int
    name: str
    family: str
    gap_limit_s: int | None
    max_power_w: int | None
    limits_since_us: int | None
    complete_until_us: int | None
    is_changing: bool  # late readings wait for their windows


_FACTS = """
SELECT c.channel_id, d.address || ' ' || c.name, d.family,
       coalesce(l.gap_limit_s, d.gap_limit_s), coalesce(l.max_power_w, d.max_power_w),
       to_us(l.since), to_us(s.complete_until),
       EXISTS (SELECT FROM window_dirty AS w WHERE w.channel_id = c.channel_id)
FROM channel AS c JOIN device AS d USING (device_id)
LEFT JOIN channel_state AS s USING (channel_id) LEFT JOIN channel_limits AS l USING (channel_id)
WHERE c.channel_id = ANY(%s) ORDER BY 1
"""


def channel_facts(conn: Connection, channels: Sequence[int]) -> list[ChannelFacts]:
    return [ChannelFacts(*row) for row in conn.execute(_FACTS, [list(channels)])]


def all_channels(conn: Connection) -> list[int]:
    return [row[0] for row in conn.execute("SELECT channel_id FROM channel ORDER BY 1")]


_POINTS = """
SELECT c.channel_id, to_us(r.measured_at), r.power_w, r.import_total_wh, r.export_total_wh,
       r.interval_s, r.interval_import_wh
FROM unnest(%(channels)s::integer[], %(gaps)s::integer[]) AS c (channel_id, gap_s)
CROSS JOIN LATERAL (
    SELECT CASE WHEN %(since)s::timestamptz IS NULL THEN '-infinity'::timestamptz ELSE (
        SELECT low FROM touched_by(c.channel_id, %(since)s, %(since)s,
                                   c.gap_s * interval '1 second', true, true, true)) END AS low
) AS from_here
JOIN readings AS r ON r.channel_id = c.channel_id AND r.measured_at >= from_here.low
ORDER BY 1, 2
"""
PointRow = tuple[int, int, float | None, float | None, float | None, float | None, float | None]
"""`channel_id, measured_us`, then what `sinks.usage_windows.Quantities` has after its instant."""


def points(
    conn: Connection,
    channels: Sequence[ChannelFacts],
    gaps_s: Sequence[int],
    since: datetime | None,
) -> Iterable[PointRow]:
    """The readings of these channels in order, from far enough before `since` to decide it."""
    ids = [channel.channel_id for channel in channels]
    with conn.cursor(name="points", withhold=False) as cursor:
        cursor.itersize = 20_000
        cursor.execute(_POINTS, {"channels": ids, "gaps": list(gaps_s), "since": since})
        yield from cursor


def oldest_reading_chunk(conn: Connection) -> datetime | None:
    """From when on readings are kept: the start of the oldest chunk. None: there is none."""
    row = conn.execute(
        "SELECT min(range_start) FROM timescaledb_information.chunks "
        "WHERE hypertable_name = 'readings'"
    ).fetchone()
    return None if row is None else row[0]


def minutes(
    conn: Connection, channels: Sequence[int], since: datetime | None
) -> dict[int, dict[int, MinuteRecord]]:
    """Stored windows from `since` on: channel → start in µs → row."""
    found: dict[int, dict[int, MinuteRecord]] = {channel: {} for channel in channels}
    for row in conn.execute(
        """
        SELECT channel_id, to_us(window_start), energy_uwh, export_uwh, power_min_w, power_avg_w,
               power_max_w, readings, quality, why
        FROM usage_1m WHERE channel_id = ANY(%s)
          AND window_start >= coalesce(%s::timestamptz, '-infinity')
        """,
        [list(channels), since],
    ):
        minute = MinuteRecord(*row)
        found[minute.channel_id][minute.start_us] = minute
    return found


def gaps(
    conn: Connection, channels: Sequence[int], since: datetime | None
) -> dict[int, dict[tuple[int, int], GapRecord]]:
    """Stored energy of gaps that begin at `since` or later: channel → (start, end) in µs → row."""
    found: dict[int, dict[tuple[int, int], GapRecord]] = {channel: {} for channel in channels}
    for row in conn.execute(
        """
        SELECT channel_id, to_us(start_at), to_us(end_at), energy_uwh, export_uwh, why
        FROM gap_energy WHERE channel_id = ANY(%s)
          AND start_at >= coalesce(%s::timestamptz, '-infinity')
        """,
        [list(channels), since],
    ):
        gap = GapRecord(*row)
        found[gap.channel_id][gap.start_us, gap.end_us] = gap
    return found


# A gap's energy is spread evenly in time, by cumulative rounding from its own start.
_QUARTERS = """
WITH part AS (
    SELECT channel_id, date_bin('15 minutes', window_start, 'epoch') AS at,
           energy_uwh::numeric AS import, export_uwh::numeric AS export, 1 AS windows
    FROM usage_1m
    WHERE channel_id = ANY(%(channels)s)
      AND window_start >= coalesce(%(since)s::timestamptz, '-infinity')
    UNION ALL
    SELECT g.channel_id, q.at,
           div(g.energy_uwh::numeric * u.upto, u.width)
               - div(g.energy_uwh::numeric * u.past, u.width),
           div(g.export_uwh::numeric * u.upto, u.width)
               - div(g.export_uwh::numeric * u.past, u.width),
           0
    FROM gap_energy AS g
    CROSS JOIN LATERAL generate_series(date_bin('15 minutes', g.start_at, 'epoch'),
        g.end_at - interval '1 microsecond', interval '15 minutes') AS q (at)
    CROSS JOIN LATERAL (SELECT
        to_us(g.end_at) - to_us(g.start_at) AS width,
        to_us(greatest(q.at, g.start_at)) - to_us(g.start_at) AS past,
        to_us(least(q.at + interval '15 minutes', g.end_at)) - to_us(g.start_at) AS upto) AS u
    WHERE g.channel_id = ANY(%(channels)s) AND q.at >= coalesce(%(since)s::timestamptz, '-infinity')
), wanted AS (
    SELECT channel_id, at, sum(import) AS import, sum(export) AS export, sum(windows) AS windows
    FROM part GROUP BY 1, 2
), ledger AS (
    SELECT channel_id, window_start AS at, energy_uwh, export_uwh FROM usage_15m
    WHERE channel_id = ANY(%(channels)s)
      AND window_start >= coalesce(%(since)s::timestamptz, '-infinity')
      AND window_start >= (SELECT coalesce(min(range_start), '-infinity')
                           FROM timescaledb_information.chunks
                           WHERE hypertable_name = 'usage_1m')
)
SELECT channel_id, at, wanted.import, wanted.export, ledger.energy_uwh, ledger.export_uwh,
       EXISTS (SELECT FROM rollup_dirty AS d WHERE d.channel_id = coalesce(wanted.channel_id,
               ledger.channel_id) AND d.quarter_hour = coalesce(wanted.at, ledger.at)),
       (wanted.import, wanted.export) IS NOT DISTINCT FROM (ledger.energy_uwh, ledger.export_uwh)
       OR (ledger.at IS NULL AND wanted.windows = 0 AND wanted.import = 0 AND wanted.export = 0)
       OR (wanted.at IS NULL AND ledger.energy_uwh = 0 AND ledger.export_uwh = 0)
FROM wanted FULL JOIN ledger USING (channel_id, at)
"""
_ROLL_UP = """
WITH dirty AS (
    SELECT DISTINCT d.channel_id, {period} AS at
    FROM (SELECT channel_id, quarter_hour AS window_start FROM rollup_dirty
          WHERE channel_id = ANY(%(channels)s)) AS d
    JOIN channel USING (channel_id) JOIN device USING (device_id)
), wanted AS (
    SELECT q.channel_id, {period} AS at, sum(energy_uwh) AS import, sum(export_uwh) AS export
    FROM usage_15m AS q JOIN channel USING (channel_id) JOIN device USING (device_id)
    WHERE q.channel_id = ANY(%(channels)s) GROUP BY 1, 2
), stored AS (
    SELECT channel_id, {key} AS at, energy_uwh, export_uwh FROM {table}
    WHERE channel_id = ANY(%(channels)s)
)
SELECT channel_id, at::timestamp, wanted.import, wanted.export, stored.energy_uwh,
       stored.export_uwh,
       EXISTS (SELECT FROM dirty WHERE dirty.channel_id = coalesce(wanted.channel_id,
               stored.channel_id) AND dirty.at = coalesce(wanted.at, stored.at)),
       (wanted.import, wanted.export) IS NOT DISTINCT FROM (stored.energy_uwh, stored.export_uwh)
FROM wanted FULL JOIN stored USING (channel_id, at)
WHERE at::timestamp >= coalesce(%(since)s::timestamptz AT TIME ZONE 'UTC', '-infinity')
"""
_CIVIL = "date_trunc('{}', window_start AT TIME ZONE device.zone)::date"
ROLL_UPS = {
    "hours": _ROLL_UP.format(
        period="date_trunc('hour', window_start, 'UTC') AT TIME ZONE 'UTC'",
        key="window_start AT TIME ZONE 'UTC'",
        table="usage_1h",
    ),
    "days": _ROLL_UP.format(period=_CIVIL.format("day"), key="day", table="usage_1d"),
    "weeks": _ROLL_UP.format(period=_CIVIL.format("week"), key="day", table="usage_1w"),
    "months": _ROLL_UP.format(period=_CIVIL.format("month"), key="day", table="usage_1mo"),
}
"""Hours are told in UTC, the others by their civil date in the device's zone."""


def check_sums(
    conn: Connection,
    check: Check,
    channels: Mapping[int, str],
    since: datetime | None,
) -> None:
    """Compare a table with the sums it should hold; `check.name` says which: `quarters`, or a
    key of `ROLL_UPS`."""
    query = _QUARTERS if check.name == "quarters" else ROLL_UPS[check.name]
    for channel, at, *sums, is_dirty, is_equal in conn.execute(
        query.encode(), {"channels": list(channels), "since": since}
    ):
        if is_dirty:
            check.pending += 1
            continue
        check.checked += 1
        if is_equal:
            continue
        wanted, stored = (_told(*sums[:2]), _told(*sums[2:]))
        check.fail(channels[channel], at, f"stored is {stored}, its parts sum to {wanted}")


def _told(energy: object, export: object) -> str:
    if energy is None:
        return "nothing"
    return f"{energy} µWh import and {export} µWh export"


KEYS = {
    "readings": ("channel_id", "measured_at"),
    "usage_1m": ("channel_id", "window_start"),
    "gap_energy": ("channel_id", "start_at", "end_at"),
    "usage_15m": ("channel_id", "window_start"),
    "usage_1h": ("channel_id", "window_start"),
    "usage_1d": ("channel_id", "day"),
    "usage_1w": ("channel_id", "day"),
    "usage_1mo": ("channel_id", "day"),
}


def check_keys(
    conn: Connection, check: Check, channels: Mapping[int, str], since: datetime | None
) -> None:
    """No key twice, in any table, whatever the index says."""
    for table, (channel, at, *rest) in KEYS.items():
        keys = ", ".join((channel, at, *rest))
        for channel_id, instant, count in conn.execute(
            f"SELECT channel_id, {at}::text, count(*) FROM {table} "
            f"WHERE channel_id = ANY(%s) AND {at} >= coalesce(%s, '-infinity'::timestamptz) "
            f"GROUP BY {keys} HAVING count(*) > 1".encode(),
            [list(channels), since],
        ):
            check.fail(channels[channel_id], instant, f"{table} has this key {count} times")
        row = conn.execute(
            f"SELECT count(*) FROM {table} WHERE channel_id = ANY(%s) "
            f"AND {at} >= coalesce(%s, '-infinity'::timestamptz)".encode(),
            [list(channels), since],
        ).fetchone()
        check.checked += row[0] if row else 0


def check_log_gaps(conn: Connection, check: Check) -> None:
    """The stream has passed over no offsets that the log no longer held."""
    row = conn.execute("SELECT count(*) FROM stream_progress").fetchone()
    check.checked += row[0] if row else 0
    for topic, part, start, end, at in conn.execute(
        "SELECT topic, part, from_offset, to_offset, noted_at FROM log_gap ORDER BY noted_at"
    ):
        check.fail(
            f"{topic}[{part}]", at, f"offsets {start} to {end} were gone before they were read"
        )
