"""Roll-ups: minutes and gaps to the 15-minute ledger, the ledger to hours, days, weeks, months.

Dirty marks are deleted first and the rows read afterwards, in one transaction: a mark that
arrives meanwhile stands for the next round. Every row is computed whole from the rows below it,
so the sums agree to the µWh whatever came late.
"""

from datetime import timedelta
from typing import Any

import psycopg

from schemas.usage import Quality, UsageWindow, Why

_TAKE = """
CREATE TEMP TABLE taken ON COMMIT DROP AS
WITH gone AS (
    DELETE FROM rollup_dirty
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM rollup_dirty LIMIT %s))
    RETURNING channel_id, quarter_hour
)
SELECT DISTINCT g.channel_id, g.quarter_hour, d.zone
FROM gone g JOIN channel c USING (channel_id) JOIN device d USING (device_id)
"""

_QUARTERS = f"""
INSERT INTO usage_15m AS u (channel_id, window_start, energy_uwh, export_uwh, power_min_w,
                            power_avg_w, power_max_w, readings, quality, why, complete, revision)
SELECT t.channel_id, t.quarter_hour, m.energy + g.energy, m.export + g.export, m.low, m.mean,
       m.high, m.readings,
       greatest(m.quality, CASE WHEN g.minutes > 0 THEN {Quality.INTERPOLATED:d} ELSE 0 END,
                CASE WHEN m.minutes + g.minutes < 15 THEN {Quality.GAP:d} ELSE 0 END),
       greatest(m.why, g.why,
                CASE WHEN m.minutes + g.minutes < 15 THEN {Why.SILENCE:d} ELSE 0 END),
       coalesce(s.complete_until >= t.quarter_hour + interval '15 minutes', false),
       coalesce(s.complete_until >= t.quarter_hour + interval '15 minutes', false)::int
FROM taken t
LEFT JOIN channel_state s USING (channel_id)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(energy_uwh), 0)::bigint AS energy,
           coalesce(sum(export_uwh), 0)::bigint AS export,
           min(power_min_w) AS low, max(power_max_w) AS high,
           sum(power_avg_w * readings)
               / nullif(sum(readings) FILTER (WHERE power_avg_w IS NOT NULL), 0) AS mean,
           coalesce(sum(readings), 0)::int AS readings, count(*) AS minutes,
           coalesce(max(quality), 0) AS quality, coalesce(max(why), 0) AS why
    FROM usage_1m
    WHERE channel_id = t.channel_id AND window_start >= t.quarter_hour
      AND window_start < t.quarter_hour + interval '15 minutes'
) m
CROSS JOIN LATERAL (
    SELECT coalesce(sum(div(energy_uwh * upto, width)
                        - div(energy_uwh * since, width)), 0)::bigint AS energy,
           coalesce(sum(div(export_uwh * upto, width)
                        - div(export_uwh * since, width)), 0)::bigint AS export,
           coalesce(ceil(sum(upto - since) / 60000000.0), 0) AS minutes,
           coalesce(max(why), 0) AS why
    FROM (
        SELECT energy_uwh, export_uwh, why, to_us(end_at)::numeric - to_us(start_at) AS width,
               to_us(least(end_at, t.quarter_hour + interval '15 minutes'))::numeric
                   - to_us(start_at) AS upto,
               to_us(greatest(start_at, t.quarter_hour))::numeric - to_us(start_at) AS since
        FROM gap_energy
        WHERE channel_id = t.channel_id AND end_at > t.quarter_hour
          AND start_at < t.quarter_hour + interval '15 minutes'
          AND (energy_uwh <> 0 OR export_uwh <> 0)
    ) AS parts
) g
WHERE m.minutes + g.minutes > 0
   OR EXISTS (SELECT FROM usage_15m AS known
              WHERE known.channel_id = t.channel_id AND known.window_start = t.quarter_hour)
ON CONFLICT (channel_id, window_start) DO UPDATE
SET energy_uwh = excluded.energy_uwh, export_uwh = excluded.export_uwh,
    power_min_w = excluded.power_min_w, power_avg_w = excluded.power_avg_w,
    power_max_w = excluded.power_max_w, readings = excluded.readings,
    quality = excluded.quality, why = excluded.why, complete = u.complete OR excluded.complete,
    revision = u.revision + (u.complete OR excluded.complete)::int, changed_at = now(),
    announced = false
WHERE (u.energy_uwh, u.export_uwh, u.power_min_w, u.power_avg_w, u.power_max_w, u.readings,
       u.quality, u.why, u.complete)
   IS DISTINCT FROM
      (excluded.energy_uwh, excluded.export_uwh, excluded.power_min_w, excluded.power_avg_w,
       excluded.power_max_w, excluded.readings, excluded.quality, excluded.why,
       u.complete OR excluded.complete)
"""

_SUMS = """coalesce(sum(energy_uwh), 0)::bigint, coalesce(sum(export_uwh), 0)::bigint,
       min(power_min_w),
       sum(power_avg_w * readings)
           / nullif(sum(readings) FILTER (WHERE power_avg_w IS NOT NULL), 0),
       max(power_max_w), coalesce(sum(readings), 0)::int, max(quality)"""
_SET = """energy_uwh = excluded.energy_uwh, export_uwh = excluded.export_uwh,
    power_min_w = excluded.power_min_w, power_avg_w = excluded.power_avg_w,
    power_max_w = excluded.power_max_w, readings = excluded.readings, quality = excluded.quality"""
_INTO = "energy_uwh, export_uwh, power_min_w, power_avg_w, power_max_w, readings, quality"

_HOURS = f"""
INSERT INTO usage_1h (channel_id, window_start, {_INTO})
SELECT t.channel_id, t.hour, {_SUMS}
FROM (SELECT DISTINCT channel_id, date_trunc('hour', quarter_hour) AS hour FROM taken) t
JOIN usage_15m q ON q.channel_id = t.channel_id AND q.window_start >= t.hour
                AND q.window_start < t.hour + interval '1 hour'
GROUP BY t.channel_id, t.hour
ON CONFLICT (channel_id, window_start) DO UPDATE SET {_SET}
"""
_DAYS = f"""
INSERT INTO usage_1d (channel_id, day, {_INTO})
SELECT t.channel_id, t.day, {_SUMS}
FROM (SELECT DISTINCT channel_id, zone, (quarter_hour AT TIME ZONE zone)::date AS day FROM taken) t
JOIN usage_15m q ON q.channel_id = t.channel_id
    AND q.window_start >= t.day::timestamp AT TIME ZONE t.zone
    AND q.window_start < (t.day + 1)::timestamp AT TIME ZONE t.zone
GROUP BY t.channel_id, t.day
ON CONFLICT (channel_id, day) DO UPDATE SET {_SET}
"""


def _civil(table: str, unit: str) -> str:
    return f"""
INSERT INTO {table} (channel_id, day, {_INTO})
SELECT t.channel_id, t.day, {_SUMS}
FROM (SELECT DISTINCT channel_id, date_trunc('{unit}', quarter_hour AT TIME ZONE zone)::date AS day
      FROM taken) t
JOIN usage_1d d ON d.channel_id = t.channel_id AND d.day >= t.day
               AND d.day < (t.day + interval '1 {unit}')::date
GROUP BY t.channel_id, t.day
ON CONFLICT (channel_id, day) DO UPDATE SET {_SET}
"""


_STEPS = (_QUARTERS, _HOURS, _DAYS, _civil("usage_1w", "week"), _civil("usage_1mo", "month"))


def roll_up(conn: psycopg.Connection[Any], most: int) -> int:
    """Bring the roll-ups up to date for at most so many dirty marks; returns how many."""
    with conn.transaction():
        marks = conn.execute(
            "SELECT count(*) FROM (SELECT FROM rollup_dirty LIMIT %s) AS m", [most]
        )
        row = marks.fetchone()
        if row is None or not row[0]:
            return 0
        conn.execute(_TAKE, [most])
        for step in _STEPS:
            conn.execute(step)
        return int(row[0])


_UNANNOUNCED = """
SELECT d.device_id, u.channel_id, d.address, c.name, to_us(u.window_start), 900, u.energy_uwh,
       u.export_uwh, u.quality, u.why, u.revision, u.power_min_w, u.power_avg_w, u.power_max_w,
       u.readings, h.home_id
FROM (SELECT * FROM usage_15m WHERE complete AND NOT announced ORDER BY window_start LIMIT %s) u
JOIN channel c USING (channel_id) JOIN device d USING (device_id)
LEFT JOIN device_home h ON h.device_id = d.device_id AND u.window_start >= h.valid_from
                       AND u.window_start < coalesce(h.valid_to, 'infinity')
ORDER BY u.window_start
"""
_ANNOUNCED = """
UPDATE usage_15m AS u SET announced = true
FROM unnest(%s::int[], %s::bigint[], %s::int[]) AS v (channel_id, start_us, revision)
WHERE u.channel_id = v.channel_id AND u.window_start = from_us(v.start_us)
  AND u.revision = v.revision
"""


_RETELL = """
WITH gone AS (
    DELETE FROM usage_retold
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM usage_retold LIMIT %(most)s))
    RETURNING device_id, since_at
)
UPDATE usage_15m AS u SET revision = u.revision + 1, announced = false
FROM (SELECT device_id, min(since_at) AS since_at FROM gone GROUP BY device_id) AS g
JOIN channel c USING (device_id)
WHERE u.channel_id = c.channel_id AND u.complete AND u.window_start >= g.since_at
  AND u.window_start >= now() - %(kept)s
"""


def retell(conn: psycopg.Connection[Any], most: int, kept: timedelta) -> int:
    """Devices have come to another home, at an instant that is past: what `kept` still holds of
    their quarter hours since then is told again, with the next revision. Returns how many are.
    """
    if conn.execute("SELECT FROM usage_retold LIMIT 1").fetchone() is None:
        return 0
    return conn.execute(_RETELL, {"most": most, "kept": kept}).rowcount


def unannounced_quarters(conn: psycopg.Connection[Any], most: int) -> list[UsageWindow]:
    """Complete quarter hours that `energy.usage.15m.v1` does not have yet."""
    return [
        UsageWindow(*row[:8], Quality(row[8]), Why(row[9]), *row[10:])  # type: ignore[call-arg]
        for row in conn.execute(_UNANNOUNCED, [most])
    ]


def mark_announced(conn: psycopg.Connection[Any], windows: list[UsageWindow]) -> None:
    """Kafka has these revisions; a newer one stays to be announced."""
    conn.execute(
        _ANNOUNCED,
        (
            [w.channel_id for w in windows],
            [w.window_start_us for w in windows],
            [w.revision for w in windows],
        ),
    )
