"""The bill of a home's cycle as its ledger stands now. Nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import scalar_row

from schemas.units import QUARTER_US
from schemas.usage import Quality
from sinks.contracts import BadInterval, Home, HomeLedger, contracts, find_home, ledger_of
from sinks.registry import DeviceRow, summed_channels
from sinks.spot_prices import prices_for
from streams.billing.canonical import canonical, sha256_of
from streams.billing.document import Measured, Payer, bill_document
from streams.tariffs.catalogue import Catalogue, MonthRates
from streams.tariffs.category import MonthUse, billed_tariff
from streams.tariffs.contract import Contract, agreed_for, cycle_by
from streams.tariffs.errors import BadUsage
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import Cycle, Month, cycle_of
from streams.tariffs.rating import RatedBill, rate_ledger
from streams.tariffs.usage import kwh_of

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A bill that nobody has issued. `text` is its canonical JSON, `sha256` that of it.

    `ledger_at` is the newest change of the ledger, the cycle's start if there is no row at all.
    """

    cycle: Cycle
    bill: RatedBill
    document: dict[str, object]
    text: str
    sha256: str
    complete: NDArray[np.bool_]
    ledger_at: datetime


def draft(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    home_id: str,
    month: Month,
    tariff_id: str | None = None,
) -> Draft:
    """The bill of the home's cycle of `month`, by its contract, or as it would be by `tariff_id`.

    Quarter hours to come hold 0. Run it in one snapshot. Raises TariffError and HomeError where
    anything that it needs is missing: there is no bill then.
    """
    home = find_home(conn, home_id)
    held = contracts(conn, home_id)
    if tariff_id is not None:
        cycle = cycle_by(held, month, catalogue.tariff(tariff_id).zone)
        found = ledger_of(conn, home_id, cycle.start, cycle.end)
        contract = None
    else:
        contract, cycle = agreed_for(held, month, home.zone_info)
        found = ledger_of(conn, home_id, cycle.start, cycle.end)
        history = _history(conn, catalogue, home, held, contract, month)
        tariff_id = billed_tariff(catalogue, contract.tariff_id, month, contract.ampere_a, history)
    bill = _rated(conn, catalogue.rates(tariff_id, month), cycle, found.ledger)
    payer = Payer(home_id, _meters(conn, home_id, cycle), contract)
    return _draft(catalogue, payer, bill, found)


def draft_of_device(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    device: DeviceRow,
    month: Month,
    tariff_id: str,
) -> Draft:
    """What a device's own energy of a calendar month costs by a tariff.

    Raises TariffError, also for a device without a channel.
    """
    cycle = cycle_of(month, catalogue.tariff(tariff_id).zone)
    found, channels = device_ledger(conn, device, cycle.start, cycle.end)
    bill = _rated(conn, catalogue.rates(tariff_id, month), cycle, found.ledger)
    payer = Payer(None, [f"{device.address} {channel}" for channel in channels], None)
    return _draft(catalogue, payer, bill, found)


def device_ledger(
    conn: psycopg.Connection[Any], device: DeviceRow, start: datetime, end: datetime
) -> tuple[HomeLedger, list[str]]:
    """The sum of a device's channels, none counted twice, and their names.

    Raises BadUsage for a device without channels, BadInterval.
    """
    if not start < end:
        raise BadInterval(f"{start.isoformat()} is not before {end.isoformat()}; give a later end")
    rows = conn.execute(
        "SELECT name, channel_id FROM channel WHERE device_id = %s", [device.device_id]
    ).fetchall()
    known: dict[str, int] = dict(rows)
    names = summed_channels(known)
    if not names:
        raise BadUsage(f"{device.name or device.address} has no channel yet; wait for its readings")
    parameters = {"ids": [known[name] for name in names], "start": start, "end": end}
    rows = conn.execute(_DEVICE_LEDGER, parameters).fetchall()
    starts, energy, export, quality, complete = (
        np.array([row[:5] for row in rows], np.int64).reshape(-1, 5).T.copy()
    )
    ledger = Ledger.of_columns(start, end, starts, energy, export)
    places = (starts - round(start.timestamp()) * MICROSECONDS) // QUARTER_US
    qualities = np.full(len(ledger.energy_uwh), Quality.GAP, np.int8)
    completes = np.zeros(len(ledger.energy_uwh), np.bool_)
    qualities[places], completes[places] = quality, complete == 1
    changed_at = max((row[5] for row in rows), default=None)
    return HomeLedger(ledger, qualities, completes, changed_at), names


_DEVICE_LEDGER = f"""
    SELECT to_us(window_start), sum(energy_uwh)::bigint, sum(export_uwh)::bigint,
           CASE WHEN count(*) = cardinality(%(ids)s::int[]) THEN max(quality)
                ELSE {Quality.GAP:d} END,
           (bool_and(complete) AND count(*) = cardinality(%(ids)s::int[]))::int,
           max(changed_at)
    FROM usage_15m
    WHERE channel_id = ANY(%(ids)s) AND window_start >= %(start)s AND window_start < %(end)s
    GROUP BY window_start ORDER BY window_start"""


def _rated(
    conn: psycopg.Connection[Any], rates: MonthRates, cycle: Cycle, ledger: Ledger
) -> RatedBill:
    return rate_ledger(rates, cycle, ledger, prices_for(conn, rates, cycle.start, cycle.end))


def _draft(catalogue: Catalogue, payer: Payer, bill: RatedBill, found: HomeLedger) -> Draft:
    rates = catalogue.rates(bill.tariff_id, bill.cycle.month)
    measured = Measured(found.ledger, found.quality)
    document = bill_document(catalogue, payer, rates, bill, measured)
    text = canonical(document)
    return Draft(
        bill.cycle,
        bill,
        document,
        text,
        sha256_of(text),
        found.complete,
        found.changed_at or bill.cycle.start,
    )


def _meters(conn: psycopg.Connection[Any], home_id: str, cycle: Cycle) -> list[str]:
    """`address channel` of each that counts within the cycle."""
    with conn.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            """
            SELECT DISTINCT d.address || ' ' || c.name
            FROM home_meter h JOIN channel c USING (channel_id) JOIN device d USING (device_id)
            WHERE h.home_id = %s AND h.role = 'grid' AND h.valid_from < %s
              AND coalesce(h.valid_to, 'infinity') > %s
            ORDER BY 1""",
            [home_id, cycle.end, cycle.start],
        ).fetchall()


def _history(
    conn: psycopg.Connection[Any],
    catalogue: Catalogue,
    home: Home,
    held: Sequence[Contract],
    contract: Contract,
    month: Month,
) -> list[MonthUse]:
    """What the home used in the months before, under this contract; nothing if no rule asks."""
    if catalogue.category(contract.tariff_id) is None:
        return []
    months, earlier = [], month.plus(-1)
    while _holds(held, contract, earlier, home):
        months.append(earlier)
        earlier = earlier.plus(-1)
    cycles = [agreed_for(held, one, home.zone_info).cycle for one in reversed(months)]
    rows = conn.execute(
        _USES,
        {
            "home_id": home.home_id,
            "starts": [cycle.start for cycle in cycles],
            "ends": [cycle.end for cycle in cycles],
        },
    ).fetchall()
    return [MonthUse(cycles[number - 1].month, kwh_of(int(uwh))) for number, uwh in rows]


_USES = """
    SELECT c.number, sum(u.energy_uwh)
    FROM unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[])
         WITH ORDINALITY AS c (start_at, end_at, number)
    JOIN home_meter h ON h.home_id = %(home_id)s AND h.role = 'grid'
    JOIN usage_15m u ON u.channel_id = h.channel_id
         AND u.window_start >= greatest(c.start_at, h.valid_from)
         AND u.window_start < least(c.end_at, coalesce(h.valid_to, 'infinity'))
    GROUP BY c.number ORDER BY c.number"""


def _holds(held: Sequence[Contract], contract: Contract, month: Month, home: Home) -> bool:
    try:
        return agreed_for(held, month, home.zone_info).contract is contract
    except BadUsage:
        return False


def as_date(month: Month) -> date:
    """As tables hold a billing month."""
    return date(month.year, month.month, 1)


def as_month(day: date) -> Month:
    return Month(day.year, day.month)
