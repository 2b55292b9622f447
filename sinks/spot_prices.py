"""Spot prices of markets, one a quarter hour, and what follows from new ones."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from streams.tariffs.catalogue import Catalogue, MonthRates
from streams.tariffs.spot import BadPrices, SpotPrices

Connection = psycopg.Connection[Any]
_LONGEST_NAME = 100


class Kept(NamedTuple):
    """Of the quarter hours given: how many are new, and how many have another price now."""

    new: int
    corrected: int


class PriceRow(NamedTuple):
    """A quarter hour's price; `minutes` is the length of the market's slot that it lies in."""

    starts_at: datetime
    price: Decimal
    currency: str
    minutes: int
    revision: int


def keep_prices(
    conn: Connection,
    catalogue: Catalogue,
    market: str,
    currency: str,
    minutes: int,
    by_instant: Mapping[datetime, Decimal],
) -> Kept:
    """Store prices per kWh, or correct them: bills and costs that follow them are made anew.

    The same again changes nothing. Raises BadPrices for a market of another currency.
    """
    if not market.strip() or not market.isprintable() or len(market) > _LONGEST_NAME:
        raise BadPrices(f"{market!r:.60} is no market; give a short printable text, as SE3")
    if len(currency) != 3 or not (currency.isascii() and currency.isalpha() and currency.isupper()):
        raise BadPrices(f"{currency!r:.20} is no currency; give its three letters, as EUR")
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"spot {market}"])
        known = conn.execute(
            "SELECT currency FROM spot_price WHERE price_zone = %s LIMIT 1", [market]
        ).fetchone()
        if known is not None and known[0] != currency:
            raise BadPrices(
                f'the prices of the market "{market}" are in {known[0]}, these in {currency}; '
                "give them in its currency, or give the market another name"
            )
        rows = conn.execute(
            _KEEP,
            {
                "market": market,
                "currency": currency,
                "duration": timedelta(minutes=minutes),
                "starts": list(by_instant),
                "prices": list(by_instant.values()),
            },
        ).fetchall()
        if rows:
            conn.execute(
                "INSERT INTO cost_dirty (home_id) "
                "SELECT DISTINCT home_id FROM contract WHERE tariff_id = ANY (%s)",
                [catalogue.spot_tariffs().get(market, [])],
            )
    new = sum(revision == 1 for (revision,) in rows)
    return Kept(new, len(rows) - new)


_KEEP = """
    INSERT INTO spot_price AS p (price_zone, starts_at, duration, price, currency)
    SELECT %(market)s, v.starts_at, %(duration)s, v.price, %(currency)s
    FROM unnest(%(starts)s::timestamptz[], %(prices)s::numeric[]) AS v (starts_at, price)
    ON CONFLICT (price_zone, starts_at) DO UPDATE
    SET price = excluded.price, duration = excluded.duration, revision = p.revision + 1,
        set_at = now()
    WHERE (p.price, p.duration) IS DISTINCT FROM (excluded.price, excluded.duration)
    RETURNING p.revision"""


def prices_of(conn: Connection, market: str, start: datetime, end: datetime) -> SpotPrices:
    """Those that are known within `[start, end)`."""
    rows = price_rows(conn, market, start, end)
    by_instant = {row.starts_at.astimezone(UTC): row.price for row in rows}
    return SpotPrices(market, by_instant, rows[0].currency if rows else None)


def prices_for(
    conn: Connection, rates: MonthRates, start: datetime, end: datetime
) -> SpotPrices | None:
    """What the bill of a span needs; None where the rates follow no market."""
    market = rates.rates.spot
    return None if market is None else prices_of(conn, market, start, end)


def prices_by_market(
    conn: Connection,
    catalogue: Catalogue,
    tariff_ids: Iterable[str],
    start: datetime,
    end: datetime,
) -> dict[str, SpotPrices]:
    """Of all the markets that any of the tariffs ever follows."""
    wanted = set(tariff_ids)
    return {
        market: prices_of(conn, market, start, end)
        for market, followers in catalogue.spot_tariffs().items()
        if wanted & set(followers)
    }


def price_rows(conn: Connection, market: str, start: datetime, end: datetime) -> list[PriceRow]:
    """Oldest first."""
    with conn.cursor(row_factory=class_row(PriceRow)) as cursor:
        return cursor.execute(
            """
            SELECT starts_at, price, currency, revision,
                   (extract(epoch FROM duration) / 60)::int AS minutes
            FROM spot_price WHERE price_zone = %s AND starts_at >= %s AND starts_at < %s
            ORDER BY starts_at""",
            [market.replace("\0", ""), start, end],
        ).fetchall()
