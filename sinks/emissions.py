"""Emission factors of the grid, by region and month."""

from decimal import Decimal
from typing import Any, NamedTuple

import psycopg

from sinks.contracts import HomeError
from streams.analysis.carbon import Factor
from streams.tariffs.month import Month


class BadFactor(HomeError):
    """An emission factor that cannot be."""


class RegionFactor(NamedTuple):
    region: str
    month: Month
    g_per_kwh: Decimal
    source: str


def set_factor(conn: psycopg.Connection[Any], factor: RegionFactor) -> None:
    """Enter the factor of a month, or correct it. Raises BadFactor."""
    if not (factor.g_per_kwh.is_finite() and 0 <= factor.g_per_kwh < 100_000):
        raise BadFactor(f"{factor.g_per_kwh} g/kWh is no emission factor; give 0 or more, as 410")
    for name, text in (("region", factor.region), ("source", factor.source)):
        if not text.strip() or not text.isprintable() or len(text) > 500:
            raise BadFactor(f"{text!r:.60} is no {name}; give a short printable text")
    conn.execute(
        """
        INSERT INTO emission_factor (region, month, g_per_kwh, source)
        VALUES (%s, make_date(%s, %s, 1), %s, %s)
        ON CONFLICT (region, month) DO UPDATE
        SET g_per_kwh = excluded.g_per_kwh, source = excluded.source""",
        (factor.region, *factor.month, factor.g_per_kwh, factor.source),
    )


def list_factors(conn: psycopg.Connection[Any], region: str | None = None) -> list[RegionFactor]:
    rows = conn.execute(
        "SELECT region, month, g_per_kwh, source FROM emission_factor "
        "WHERE %(region)s::text IS NULL OR region = %(region)s ORDER BY region, month",
        {"region": region},
    ).fetchall()
    return [
        RegionFactor(name, Month(month.year, month.month), g_per_kwh, source)
        for name, month, g_per_kwh, source in rows
    ]


def factors_of(conn: psycopg.Connection[Any], region: str) -> dict[Month, Factor]:
    return {one.month: Factor(one.g_per_kwh, one.source) for one in list_factors(conn, region)}
