"""Which bills are to be issued, and which to be looked at again."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import args_row

from sinks.bill_drafts import as_month, draft
from sinks.bills import Issued, issue, issued_bill
from streams.billing.finality import is_final
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract, agreed_for
from streams.tariffs.errors import TariffError
from streams.tariffs.month import Month

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class HomeMonth(NamedTuple):
    home_id: str
    month: Month


class NotYet(Exception):
    """A bill that waits for the rest of its ledger."""


def issue_when_final(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    work: HomeMonth,
    now: datetime,
    quiet: timedelta = timedelta(0),
) -> Issued | None:
    """Issue the bill, or its next version; None if the newest one says the same.

    A next version waits until its ledger has not changed for `quiet`, so that a backlog that
    drains makes one version. One transaction on one snapshot. Raises NotYet; TariffError and
    HomeError where there can be no bill.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        made = draft(conn, catalogue, work.home_id, work.month)
        if not is_final(made.cycle, made.complete, now):
            raise NotYet
        if issued_bill(conn, work.home_id, work.month) and made.ledger_at > now - quiet:
            raise NotYet
        return issue(conn, work.home_id, made)


# ---------------------------------------------------------------- first versions


class _Customer(NamedTuple):
    """A home with a contract and meters: from when to when they count, their first quarter hour,
    and which months are issued.
    """

    home_id: str
    zone: str
    metered_from: datetime
    metered_until: datetime | None
    first_row: datetime
    issued: list[date]
    tariff_ids: list[str]
    valid_from: list[date]
    cycle_days: list[int]


def due(conn: psycopg.Connection[Any], catalogue: Catalogue, now: datetime) -> list[HomeMonth]:
    """Cycles that are over, were metered as a whole, and have no bill; oldest first."""
    with conn.cursor(row_factory=args_row(_Customer)) as cursor:
        customers = cursor.execute(_CUSTOMERS).fetchall()
    found = [
        HomeMonth(one.home_id, month) for one in customers for month in _due(catalogue, one, now)
    ]
    return sorted(found, key=lambda work: (work.month, work.home_id))


_CUSTOMERS = """
    SELECT h.home_id, h.zone, m.low, m.high, m.first,
           ARRAY(SELECT month FROM bill b WHERE b.home_id = h.home_id AND b.version = 1),
           c.tariff_ids, c.valid_from, c.cycle_days
    FROM home h
    JOIN (SELECT home_id, min(valid_from) AS low,
                 CASE WHEN bool_and(valid_to IS NOT NULL) THEN max(valid_to) END AS high,
                 min(u.window_start) AS first
          FROM home_meter
          CROSS JOIN LATERAL (SELECT window_start FROM usage_15m
                              WHERE channel_id = home_meter.channel_id
                              ORDER BY window_start LIMIT 1) u
          WHERE role = 'grid' GROUP BY home_id) m USING (home_id)
    JOIN (SELECT home_id, array_agg(tariff_id ORDER BY valid_from) AS tariff_ids,
                 array_agg(valid_from ORDER BY valid_from) AS valid_from,
                 array_agg(cycle_day::int ORDER BY valid_from) AS cycle_days
          FROM contract GROUP BY home_id) c USING (home_id)"""


def _due(catalogue: Catalogue, one: _Customer, now: datetime) -> Iterator[Month]:
    zone, issued = ZoneInfo(one.zone), {as_month(day) for day in one.issued}
    columns = zip(one.tariff_ids, one.valid_from, one.cycle_days, strict=True)
    held = [Contract(*terms) for terms in columns]
    first = max(one.first_row.astimezone(zone).date(), held[0].valid_from)
    month, last = Month(first.year, first.month), min(now, one.metered_until or now)
    while month <= Month(now.year, now.month).plus(1):
        if month not in issued:
            try:
                cycle = agreed_for(held, month, zone).cycle
            except TariffError:
                pass  # before the first contract
            else:
                metered = one.metered_from <= cycle.start and cycle.end <= last
                if metered and cycle.end > one.first_row:
                    yield month
        month = month.plus(1)


# ---------------------------------------------------------------- later versions


class Progress(NamedTuple):
    """Up to which changes of ledger, terms and tariffs bills were compared.

    Terms are contracts, meters and spot prices.
    """

    ledger_until: datetime
    terms_until: datetime
    tariffs_sha256: str


def progress(conn: psycopg.Connection[Any]) -> Progress:
    with conn.cursor(row_factory=args_row(Progress)) as cursor:
        found = cursor.execute(
            "SELECT ledger_until, terms_until, tariffs_sha256 FROM billing_progress"
        ).fetchone()
    return found or Progress(_LONG_AGO, _LONG_AGO, "")


def keep_progress(conn: psycopg.Connection[Any], reached: Progress) -> None:
    conn.execute(
        """
        INSERT INTO billing_progress (ledger_until, terms_until, tariffs_sha256)
        VALUES (%s, %s, %s)
        ON CONFLICT (one) DO UPDATE
        SET ledger_until = excluded.ledger_until, terms_until = excluded.terms_until,
            tariffs_sha256 = excluded.tariffs_sha256""",
        reached,
    )


def reachable(conn: psycopg.Connection[Any], since: Progress, tariffs_sha256: str) -> Progress:
    """How far a look at the changes after `since` will have come.

    The roll-up is one writer: its transactions commit in the order of `changed_at`. Contracts and
    meters have many; `changed` looks at a minute of theirs twice.
    """
    rows = conn.execute(
        "SELECT coalesce(max(changed_at), %(since)s::timestamptz), now() FROM usage_15m "
        "WHERE changed_at > %(since)s::timestamptz",
        {"since": since.ledger_until},
    ).fetchall()
    ((ledger_until, now),) = rows
    return Progress(ledger_until, now, tariffs_sha256)


def changed(
    conn: psycopg.Connection[Any], catalogue: Catalogue, since: Progress
) -> list[HomeMonth]:
    """Issued bills whose ledger or spot prices, contracts or meters changed after `since`."""
    followed = [(one, market) for market, ids in catalogue.spot_tariffs().items() for one in ids]
    parameters = {
        "ledger": since.ledger_until,
        "terms": since.terms_until,
        "spot_tariffs": [tariff_id for tariff_id, _ in followed],
        "markets": [market for _, market in followed],
    }
    rows = conn.execute(_CHANGED, parameters).fetchall()
    return [HomeMonth(home_id, as_month(month)) for home_id, month in rows]


_CHANGED = """
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (home_id, month) home_id, month, cycle_start, cycle_end, ledger_at,
               tariff_id
        FROM bill ORDER BY home_id, month, version DESC
    ), terms AS (
        SELECT home_id FROM contract WHERE set_at > %(terms)s::timestamptz - interval '1 minute'
        UNION
        SELECT home_id FROM home_meter WHERE set_at > %(terms)s::timestamptz - interval '1 minute'
    )
    SELECT b.home_id, b.month
    FROM usage_15m u
    JOIN home_meter h ON h.channel_id = u.channel_id AND h.role = 'grid'
    JOIN newest b ON b.home_id = h.home_id AND u.window_start >= b.cycle_start
                 AND u.window_start < b.cycle_end
    WHERE u.changed_at > %(ledger)s AND u.changed_at > b.ledger_at
    UNION
    SELECT home_id, month FROM newest JOIN terms USING (home_id)
    UNION
    SELECT b.home_id, b.month
    FROM unnest(%(spot_tariffs)s::text[], %(markets)s::text[]) AS s (tariff_id, market)
    JOIN newest b USING (tariff_id)
    JOIN spot_price p ON p.price_zone = s.market AND p.starts_at >= b.cycle_start
                     AND p.starts_at < b.cycle_end
    WHERE p.set_at > %(terms)s::timestamptz - interval '1 minute'
    ORDER BY 2, 1"""


def issued_after(
    conn: psycopg.Connection[Any], home_id: str = "", month: date = date.min
) -> list[HomeMonth]:
    """The issued bills of a home (without one: of all) for months after `month`, oldest first."""
    rows = conn.execute(
        "SELECT DISTINCT home_id, month FROM bill "
        "WHERE home_id = coalesce(nullif(%s::text, ''), home_id) AND month > %s "
        "ORDER BY month, home_id",
        [home_id, month],
    ).fetchall()
    return [HomeMonth(home, as_month(day)) for home, day in rows]
