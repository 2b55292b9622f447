"""From a line of an issued bill to the quarter hours of the ledger that it counts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import args_row

from schemas.usage import Quality
from sinks.bill_drafts import as_month
from sinks.bills import Issued, NoBill, bill_of_id
from streams.tariffs.catalogue import Catalogue, MonthRates, PricedDemand
from streams.tariffs.errors import BadUsage
from streams.tariffs.month import QUARTER, Cycle
from streams.tariffs.rating import Kind, demand_name, shortest
from streams.tariffs.usage import QUARTERS_AN_HOUR, kwh_of

_COUNTED = (Kind.ENERGY, Kind.SURCHARGE, Kind.CREDIT, Kind.DEMAND)


@dataclass(frozen=True, slots=True)
class LineQuarter:
    """A row of the ledger that a line counts; `device_id` and `channel` lead on to its trace."""

    start: datetime
    device_id: int
    address: str
    channel: str
    energy_uwh: int
    export_uwh: int
    quality: int
    revision: int


@dataclass(frozen=True, slots=True)
class LineTrace:
    """A line and its quarter hours, oldest first. `agrees`: they still make its quantity.

    They do not if the ledger has changed since: a later version has that, or will.
    """

    bill: Issued
    number: int
    line: dict[str, Any]
    quarters: list[LineQuarter]
    agrees: bool

    def chosen(self, at: datetime | None) -> list[LineQuarter]:
        """Of each meter the quarter hour that holds `at`; without it, that of most energy.

        Raises BadUsage if the line counts no row there.
        """
        if at is None and self.quarters:
            at = max(self.quarters, key=lambda one: one.energy_uwh + one.export_uwh).start
        found = [one for one in self.quarters if at and one.start <= at < one.start + QUARTER]
        if not found:
            where = "" if at is None else f" at {at.isoformat()}"
            raise BadUsage(f"line {self.number} counts no energy{where}; look at its quarter hours")
        return found

    def document(self) -> dict[str, object]:
        return {
            "bill": self.bill.bill_id,
            "home": self.bill.home_id,
            "month": str(as_month(self.bill.month)),
            "version": self.bill.version,
            "line": self.number,
            "of": self.line,
            "agrees": self.agrees,
            "quarters": [
                {
                    "start": quarter.start.isoformat(),
                    "address": quarter.address,
                    "channel": quarter.channel,
                    "energy_kwh": shortest(kwh_of(quarter.energy_uwh)),
                    "export_kwh": shortest(kwh_of(quarter.export_uwh)),
                    "quality": Quality(quarter.quality).name.lower(),
                    "revision": quarter.revision,
                }
                for quarter in self.quarters
            ],
        }


def trace_line(
    conn: psycopg.Connection[Any], catalogue: Catalogue, bill_id: int, number: int
) -> LineTrace:
    """Line `number` (from 1) of an issued bill.

    Raises NoBill, and BadUsage for a line that counts no energy, such as a tax.
    """
    bill = bill_of_id(conn, bill_id)
    document = bill.document
    lines = document["lines"]
    if not 1 <= number <= len(lines):
        raise NoBill(f"bill {bill_id} has lines 1 to {len(lines)}, not {number}")
    line = lines[number - 1]
    if line["kind"] not in _COUNTED:
        raise BadUsage(
            f"line {number} of bill {bill_id} ({line['kind']} {line['name']}) is no energy; it "
            "follows from the tariff and the lines above it"
        )
    cycle = _cycle(bill, document)
    rates = catalogue.rates(bill.tariff_id, cycle.month)
    counted = _mask(rates, cycle, line)
    quarters = [
        quarter
        for quarter in _quarters(conn, bill.home_id, cycle)
        if counted[(quarter.start - cycle.start) // QUARTER]
    ]
    if line["kind"] == Kind.DEMAND:
        measured_over = _demand(rates, line)[0].prices.measuring_minutes // 15
        quarters, quantity = _peak(quarters, cycle, measured_over)
    else:
        given = line["kind"] == Kind.CREDIT
        total_uwh = sum(one.export_uwh if given else one.energy_uwh for one in quarters)
        quantity = kwh_of(total_uwh)
    return LineTrace(bill, number, line, quarters, quantity == Decimal(line["quantity"]))


def _cycle(bill: Issued, document: dict[str, Any]) -> Cycle:
    said = document["cycle"]
    start, end = (datetime.fromisoformat(said[name]).astimezone(UTC) for name in ("start", "end"))
    return Cycle(as_month(bill.month), start, end, said["days"])


def _mask(rates: MonthRates, cycle: Cycle, line: dict[str, Any]) -> Any:
    """Which quarter hours of the cycle lie in the line's period."""
    clock, period = None, line["name"]
    if line["kind"] == Kind.ENERGY:
        clock = rates.clock
    elif line["kind"] == Kind.DEMAND:
        demand, period = _demand(rates, line)
        clock = demand.clock
    if clock is None or period not in clock.periods:
        return np.ones(cycle.quarters, np.bool_)
    return clock.masks(cycle.start, cycle.end)[period]


def _quarters(conn: psycopg.Connection[Any], home_id: str, cycle: Cycle) -> list[LineQuarter]:
    with conn.cursor(row_factory=args_row(LineQuarter)) as cursor:
        return cursor.execute(
            """
            SELECT u.window_start, d.device_id, d.address, c.name, u.energy_uwh, u.export_uwh,
                   u.quality, u.revision
            FROM home_meter h
            JOIN usage_15m u ON u.channel_id = h.channel_id AND u.window_start >= h.valid_from
                 AND u.window_start < coalesce(h.valid_to, 'infinity')
            JOIN channel c ON c.channel_id = h.channel_id
            JOIN device d USING (device_id)
            WHERE h.home_id = %s AND h.role = 'grid'
              AND u.window_start >= %s AND u.window_start < %s
            ORDER BY u.window_start, d.address, c.name""",
            [home_id, cycle.start, cycle.end],
        ).fetchall()


def _peak(
    quarters: list[LineQuarter], cycle: Cycle, width: int
) -> tuple[list[LineQuarter], Decimal]:
    """The window of `width` quarter hours with the greatest demand, and its mean power in kW."""
    by_window: dict[int, int] = {}

    def window(quarter: LineQuarter) -> int:
        return (quarter.start - cycle.start) // QUARTER // width

    for quarter in quarters:
        by_window[window(quarter)] = by_window.get(window(quarter), 0) + quarter.energy_uwh
    if not by_window:
        return [], Decimal(0)
    at = max(by_window, key=lambda number: by_window[number])
    return (
        [one for one in quarters if window(one) == at],
        kwh_of(by_window[at] * QUARTERS_AN_HOUR) / width,
    )


def _demand(rates: MonthRates, line: dict[str, Any]) -> tuple[PricedDemand, str]:
    """The demand charge that a line is of, and its period."""
    return next(
        (demand, period)
        for demand in rates.demand
        for period in demand.prices.periods
        if demand_name(demand, period) == line["name"]
    )
