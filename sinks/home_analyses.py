"""The analyses of a home: its ledger and circuits read, and what `streams.analysis` makes of it.

Each takes an interval of whole quarter hours and returns a document for JSON. All raise UnknownHome
and what `sinks.contracts.ledger_of` raises.
"""

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import psycopg

from sinks.contracts import HomeError, contracts, find_home, ledger_of, production_of
from sinks.emissions import factors_of
from sinks.ledger_columns import circuit_columns, ledger_from
from streams.analysis.carbon import footprint
from streams.analysis.circuits import Circuit, compare
from streams.analysis.demand import demand, monthly_demand
from streams.analysis.document import document
from streams.analysis.peak_use import by_period, peak_use
from streams.analysis.solar import solar
from streams.tariffs.contract import Contract
from streams.tariffs.errors import TariffError
from streams.tariffs.loading import known_tariffs

DEFAULT_REGION = "TH"
Document = dict[str, object]
Database = psycopg.Connection[Any]


class NoPlant(HomeError):
    """The home makes no electricity of its own."""


def demand_of(conn: Database, home_id: str, start: datetime, end: datetime) -> Document:
    """The greatest 15-minute demand of the interval and of each month, with the load factor."""
    home = find_home(conn, home_id)
    ledger = ledger_of(conn, home_id, start, end).ledger
    return _document(
        home_id=home_id,
        zone=home.zone,
        start=start,
        end=end,
        whole=demand(ledger),
        months=monthly_demand(ledger, home.zone_info),
    )


def peaks_of(
    conn: Database, home_id: str, start: datetime, end: datetime, tariff_id: str | None = None
) -> Document:
    """The hours and weekdays that use most, and how the energy lies in the tariff's periods.

    `tariff_id`: the periods of this tariff in place of those of the home's contracts. Where they
    are not known, `periods` is None and `periods_missing` says why.
    """
    home = find_home(conn, home_id)
    ledger = ledger_of(conn, home_id, start, end).ledger
    held = contracts(conn, home_id)
    if tariff_id is not None:
        known_tariffs().tariff(tariff_id)
        cycle_day = held[-1].cycle_day if held else 1
        held = [Contract(tariff_id, date(1970, 1, 1), cycle_day)]
    periods, missing = None, None
    try:
        periods = by_period(ledger, known_tariffs(), held)
    except TariffError as error:
        missing = str(error)
    found = peak_use(ledger, home.zone_info)
    return _document(
        home_id=home_id,
        zone=home.zone,
        start=start,
        end=end,
        hours=found.hours,
        weekdays=found.weekdays,
        busiest_hour=max(found.hours, key=lambda part: part.energy_kwh).name,
        busiest_weekday=max(found.weekdays, key=lambda part: part.energy_kwh).name,
        periods=periods,
        periods_missing=missing,
    )


def circuits_of(conn: Database, home_id: str, start: datetime, end: datetime) -> Document:
    """Every channel of the home's devices side by side, the greatest first."""
    ledger = ledger_of(conn, home_id, start, end).ledger
    home_uwh = int(ledger.energy_uwh.sum())
    compared = compare(_circuits(conn, home_id, start, end), home_uwh)
    return _document(home_id=home_id, start=start, end=end, circuits=compared)


def carbon_of(
    conn: Database, home_id: str, start: datetime, end: datetime, region: str = DEFAULT_REGION
) -> Document:
    """What the energy from the grid emitted. Raises NotKnown where a month has no factor."""
    home = find_home(conn, home_id)
    ledger = ledger_of(conn, home_id, start, end).ledger
    months = footprint(ledger, home.zone_info, region, factors_of(conn, region))
    return _document(
        home_id=home_id,
        zone=home.zone,
        start=start,
        end=end,
        region=region,
        months=months,
        carbon_g=sum(month.carbon_g for month in months),
    )


def solar_of(conn: Database, home_id: str, start: datetime, end: datetime) -> Document:
    """Production, self-use, self-sufficiency, export. Raises NoPlant without a production meter."""
    ledger = ledger_of(conn, home_id, start, end).ledger
    production = production_of(conn, home_id, start, end)
    if production is None:
        raise NoPlant(
            f"home {home_id!r} has no production meter in this time; "
            "name its channel with `meterstream meter set … --role production`"
        )
    found = document(solar(ledger, production.ledger))
    assert isinstance(found, dict)
    return _document(home_id=home_id, start=start, end=end) | found


def _circuits(conn: Database, home_id: str, start: datetime, end: datetime) -> Iterator[Circuit]:
    """The channels that have anything in this time."""
    found = [one for one in circuit_columns(conn, home_id, start, end) if one.changed_at]
    called: dict[int, str] = dict(
        conn.execute(
            "SELECT device_id, coalesce(name, address) FROM device WHERE device_id = ANY (%s)",
            [[one.counted.device_id for one in found]],
        ).fetchall()
    )
    for one in found:
        ledger = ledger_from(start, end, one.energy_uwh, one.export_uwh)
        device_id, channel = one.counted.device_id, one.counted.channel
        yield Circuit(device_id, called[device_id], channel, ledger)


def _document(**values: object) -> Document:
    found = document(values)
    assert isinstance(found, dict)
    return found


ANALYSES = {
    "demand": demand_of,
    "peaks": peaks_of,
    "circuits": circuits_of,
    "carbon": carbon_of,
    "solar": solar_of,
}
