"""Running costs of homes: what they are worked out from, a batch a query, and their rows."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import psycopg

from schemas.cost import BudgetAlert, BudgetPeriod, HomeCost
from sinks.contracts import AmbiguousMeters, NoMeter, check_meters
from sinks.ledger_columns import Counted
from streams.cost.budgets import Budget, Standing
from streams.cost.days import Span
from streams.cost.home import Assessed, StandingKey
from streams.tariffs.contract import Contract

Connection = psycopg.Connection[Any]
MeterProblem = Callable[[Span], str | None]
QuarterRow = tuple[datetime, int, int]
"""Start, import and export in µWh, of all meters of a home together."""


class HomeRow(NamedTuple):
    """What the tables say of a home.

    `at` is the end of the newest complete quarter hour of its grid meters; None without any.
    """

    home_id: str
    zone: ZoneInfo
    at: datetime | None
    contracts: list[Contract]
    budgets: list[Budget]
    standings: dict[StandingKey, Standing]
    meter_problem: MeterProblem
    metered: bool


# ---------------------------------------------------------------- which homes


def take_dirty(conn: Connection, most: int) -> list[str]:
    """Homes whose terms have changed, each once; their marks are gone with the transaction."""
    rows = conn.execute(
        """
        DELETE FROM cost_dirty WHERE home_id IN (SELECT DISTINCT home_id FROM cost_dirty LIMIT %s)
        RETURNING home_id""",
        [most],
    )
    return sorted({home_id for (home_id,) in rows})


def homes_of_channels(conn: Connection, channel_ids: Iterable[int]) -> list[tuple[int, str]]:
    """Which homes count which of these channels, at any time."""
    return conn.execute(
        "SELECT DISTINCT channel_id, home_id FROM home_meter "
        "WHERE role = 'grid' AND channel_id = ANY (%s)",
        [list(channel_ids)],
    ).fetchall()


# ---------------------------------------------------------------- what of them

_HOMES = """
    SELECT h.home_id, h.zone, max(u.window_start) + interval '15 minutes'
    FROM home h
    LEFT JOIN home_meter m ON m.home_id = h.home_id AND m.role = 'grid'
    LEFT JOIN LATERAL (
        SELECT window_start FROM usage_15m
        WHERE channel_id = m.channel_id AND complete AND window_start >= m.valid_from
          AND window_start < coalesce(m.valid_to, 'infinity')
        ORDER BY window_start DESC LIMIT 1
    ) u ON true
    WHERE h.home_id = ANY (%s) GROUP BY h.home_id"""
_CONTRACTS = """
    SELECT home_id, tariff_id, valid_from, cycle_day, ampere_a FROM contract
    WHERE home_id = ANY (%s) ORDER BY home_id, valid_from"""
_METERS = """
    SELECT m.home_id, c.device_id, c.name, m.valid_from,
           coalesce(m.valid_to, timestamptz '9999-01-01 00:00:00+00')
    FROM home_meter m JOIN channel c USING (channel_id)
    WHERE m.role = 'grid' AND m.home_id = ANY (%s) ORDER BY m.home_id"""
# Locked: a budget that is removed meanwhile must not get a state.
_BUDGETS = """
    SELECT home_id, budget_id, name, period, amount, energy_kwh, valid_from, valid_to
    FROM budget WHERE home_id = ANY (%s) ORDER BY home_id, name FOR KEY SHARE"""
_STANDINGS = """
    SELECT b.home_id, s.budget_id, s.period_start, s.period_end, s.used, s.projected, s.warned_at,
           s.exceeded_at, s.projected_at, s.projection_cleared_at, s.events
    FROM budget_state s JOIN budget b USING (budget_id)
    WHERE b.home_id = ANY (%s) ORDER BY b.home_id"""


def load_homes(conn: Connection, home_ids: Sequence[str]) -> list[HomeRow]:
    """Those of the homes that are set up, five queries for all of them."""

    def by_home(query: str) -> dict[str, list[tuple[Any, ...]]]:
        rows = conn.execute(query.encode(), [list(home_ids)]).fetchall()
        return {key: [row[1:] for row in some] for key, some in groupby(rows, lambda row: row[0])}

    homes, contracts, meters = by_home(_HOMES), by_home(_CONTRACTS), by_home(_METERS)
    budgets, standings = by_home(_BUDGETS), by_home(_STANDINGS)
    return [
        HomeRow(
            home_id,
            ZoneInfo(zone),
            at,
            [Contract(*row) for row in contracts.get(home_id, ())],
            [_budget(*row) for row in budgets.get(home_id, ())],
            {(row[0], row[1]): Standing(*row[1:]) for row in standings.get(home_id, ())},
            _meter_problem(home_id, [Counted(*row) for row in meters.get(home_id, ())]),
            home_id in meters,
        )
        for home_id, ((zone, at),) in homes.items()
    ]


def quarter_rows(
    conn: Connection, wanted: Sequence[tuple[str, Span]]
) -> dict[str, list[QuarterRow]]:
    """The ledger of several homes over several spans each, in one query; in no order."""
    found: dict[str, list[QuarterRow]] = {home_id: [] for home_id, _ in wanted}
    if not wanted:
        return found
    with conn.cursor(binary=True) as cursor:
        cursor.execute(
            _QUARTERS,
            {
                "homes": [home_id for home_id, _ in wanted],
                "starts": [span.start for _, span in wanted],
                "ends": [span.end for _, span in wanted],
                "first": min(span.start for _, span in wanted),
                "last": max(span.end for _, span in wanted),
            },
        )
        for home_id, *row in cursor:
            found[home_id].append((row[0], row[1], row[2]))
    return found


_QUARTERS = """
    SELECT w.home_id, u.window_start, sum(u.energy_uwh)::bigint, sum(u.export_uwh)::bigint
    FROM unnest(%(homes)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[])
             AS w (home_id, start_at, end_at)
    JOIN home_meter m ON m.home_id = w.home_id AND m.role = 'grid'
    CROSS JOIN LATERAL (
        SELECT window_start, energy_uwh, export_uwh FROM usage_15m
        WHERE channel_id = m.channel_id
          AND window_start >= greatest(w.start_at, m.valid_from)
          AND window_start < least(w.end_at, coalesce(m.valid_to, 'infinity'))
          AND window_start >= %(first)s AND window_start < %(last)s
        OFFSET 0
    ) u
    GROUP BY w.home_id, u.window_start"""


def energies_uwh(conn: Connection, home_id: str, spans: Sequence[Span]) -> list[int | None]:
    """What a home used in each of the spans; None where it has no row."""
    rows = conn.execute(
        """
        SELECT sum(u.energy_uwh)::bigint
        FROM unnest(%s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY AS w (low, high, n)
        LEFT JOIN home_meter m ON m.home_id = %s AND m.role = 'grid'
        LEFT JOIN usage_15m u ON u.channel_id = m.channel_id
             AND u.window_start >= greatest(w.low, m.valid_from)
             AND u.window_start < least(w.high, coalesce(m.valid_to, 'infinity'))
        GROUP BY w.n ORDER BY w.n""",
        ([span.start for span in spans], [span.end for span in spans], home_id),
    )
    return [energy for (energy,) in rows]


def _budget(budget_id: int, name: str, period: str, *rest: Any) -> Budget:
    return Budget(budget_id, name, BudgetPeriod(period), *rest)


def _meter_problem(home_id: str, meters: Sequence[Counted]) -> MeterProblem:
    def problem(span: Span) -> str | None:
        within = [
            meter._replace(low=max(meter.low, span.start), high=min(meter.high, span.end))
            for meter in meters
            if meter.low < span.end and meter.high > span.start
        ]
        try:
            check_meters(home_id, "grid", span.start, span.end, within)
        except (NoMeter, AmbiguousMeters) as error:
            return str(error)
        return None

    return problem


# ---------------------------------------------------------------- what came of them

_encode = msgspec.json.encode


def store(conn: Connection, assessed: Sequence[Assessed]) -> int:
    """Write costs, standings and alerts; returns how many costs say something new."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO home_cost AS c (home_id, at, cost) VALUES (%s, %s, %s)
            ON CONFLICT (home_id) DO UPDATE
            SET at = excluded.at, cost = excluded.cost, revision = c.revision + 1,
                changed_at = now(), announced = false
            WHERE c.cost IS DISTINCT FROM excluded.cost""",
            [(one.cost.home_id, one.cost.at, _encode(one.cost).decode()) for one in assessed],
        )
        changed = cursor.rowcount
        cursor.executemany(
            """
            INSERT INTO budget_state (budget_id, period_start, period_end, used, projected,
                warned_at, exceeded_at, projected_at, projection_cleared_at, events)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (budget_id, period_start) DO UPDATE
            SET used = excluded.used, projected = excluded.projected,
                warned_at = excluded.warned_at, exceeded_at = excluded.exceeded_at,
                projected_at = excluded.projected_at,
                projection_cleared_at = excluded.projection_cleared_at,
                events = excluded.events, changed_at = now()""",
            [
                (
                    budget_id,
                    one.start,
                    one.end,
                    one.used,
                    one.projected,
                    one.warned_at,
                    one.exceeded_at,
                    one.projected_at,
                    one.projection_cleared_at,
                    one.events,
                )
                for home in assessed
                for (budget_id, _), one in home.standings.items()
            ],
        )
        cursor.executemany(
            "INSERT INTO budget_alert (alert_id, home_id, alert) VALUES (%s, %s, %s)",
            [
                (alert.alert_id, alert.home_id, _encode(alert).decode())
                for home in assessed
                for alert in home.alerts
            ],
        )
    return changed


def unannounced_costs(conn: Connection, most: int) -> list[HomeCost]:
    """Costs that `energy.cost.v1` does not have yet, each with its revision."""
    rows = conn.execute(
        "SELECT cost::text, revision FROM home_cost WHERE NOT announced ORDER BY home_id LIMIT %s",
        [most],
    )
    return [_cost(*row) for row in rows]


def _cost(text: str, revision: int) -> HomeCost:
    cost = msgspec.json.decode(text, type=HomeCost)
    cost.revision = revision
    return cost


def unannounced_alerts(conn: Connection, most: int) -> list[BudgetAlert]:
    """Alerts that `energy.alert.v1` does not have yet, in the order in which they were made."""
    rows = conn.execute(
        "SELECT alert::text FROM budget_alert WHERE NOT announced ORDER BY alert_no LIMIT %s",
        [most],
    )
    return [msgspec.json.decode(text, type=BudgetAlert) for (text,) in rows]


def mark_announced(
    conn: Connection, costs: Sequence[HomeCost], alerts: Sequence[BudgetAlert]
) -> None:
    """Kafka has these; a newer revision of a cost stays to be announced."""
    with conn.transaction():
        conn.execute(
            """
            UPDATE home_cost AS c SET announced = true
            FROM unnest(%s::text[], %s::int[]) AS v (home_id, revision)
            WHERE c.home_id = v.home_id AND c.revision = v.revision""",
            ([cost.home_id for cost in costs], [cost.revision for cost in costs]),
        )
        conn.execute(
            "UPDATE budget_alert SET announced = true WHERE alert_id = ANY (%s)",
            [[alert.alert_id for alert in alerts]],
        )


# ---------------------------------------------------------------- what is asked


def cost_of(conn: Connection, home_id: str) -> HomeCost | None:
    """The newest running cost of a home; None while the cost process has not seen it yet."""
    row = conn.execute(
        "SELECT cost::text, revision FROM home_cost WHERE home_id = %s", [home_id]
    ).fetchone()
    return None if row is None else _cost(*row)


def alerts_of(conn: Connection, home_id: str, most: int) -> list[BudgetAlert]:
    """The newest alerts of a home's budgets, the newest first."""
    rows = conn.execute(
        "SELECT alert::text FROM budget_alert WHERE home_id = %s ORDER BY alert_no DESC LIMIT %s",
        [home_id, most],
    )
    return [msgspec.json.decode(text, type=BudgetAlert) for (text,) in rows]
