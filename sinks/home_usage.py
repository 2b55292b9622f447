"""The ledger of a home by buckets, each the sum of its quarter hours."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg

from schemas.usage import Quality
from sinks.contracts import BadInterval, Home, HomeLedger, contracts, ledger_of, production_of
from sinks.utility_readings import Difference
from streams.analysis.buckets import HomeBucket, Span, first_quarters, spans_of, sums
from streams.tariffs.errors import BadUsage
from streams.tariffs.rating import shortest
from streams.tariffs.usage import QUARTERS_AN_HOUR, kwh_of


@dataclass(frozen=True, slots=True)
class HomeUsage:
    """One bucket. `quality` is the worst of its complete quarter hours, `provisional` without any.

    `production_kwh` is None in a home without a plant. `max_kw` is the greatest 15-minute demand.
    """

    start: datetime
    end: datetime
    label: str
    energy_kwh: Decimal
    export_kwh: Decimal
    production_kwh: Decimal | None
    max_kw: Decimal
    quality: str
    incomplete_quarters: int


def home_usage(
    conn: psycopg.Connection[Any], home: Home, bucket: HomeBucket, start: datetime, end: datetime
) -> list[HomeUsage]:
    """The whole buckets that touch `[start, end)`, oldest first.

    Raises BadInterval; BadUsage for cycles of a home that has no contract then; and what
    `ledger_of` raises.
    """
    if start >= end:
        raise BadInterval(f"{start.isoformat()} is not before {end.isoformat()}; give a range")
    spans = spans_of(bucket, start, end, home.zone_info, contracts(conn, home.home_id))
    if not spans:
        raise BadUsage(
            f"home {home.home_id!r} has no cycle from {start.isoformat()} to {end.isoformat()}; "
            "set a contract that holds then"
        )
    grid = ledger_of(conn, home.home_id, spans[0].start, spans[-1].end)
    plant = production_of(conn, home.home_id, spans[0].start, spans[-1].end)
    return list(_rows(spans, grid, plant))


def _rows(spans: list[Span], grid: HomeLedger, plant: HomeLedger | None) -> Iterable[HomeUsage]:
    firsts = first_quarters(spans)
    energy, export = sums(grid.ledger.energy_uwh, spans), sums(grid.ledger.export_uwh, spans)
    made = [None] * len(spans) if plant is None else sums(plant.ledger.energy_uwh, spans)
    greatest = np.maximum.reduceat(grid.ledger.energy_uwh, firsts)
    worst = np.maximum.reduceat(np.where(grid.complete, grid.quality, -1), firsts)
    incomplete = np.add.reduceat((~grid.complete).astype(np.int64), firsts)
    for index, span in enumerate(spans):
        quality = int(worst[index])
        produced = made[index]
        yield HomeUsage(
            span.start,
            span.end,
            span.label,
            kwh_of(energy[index]),
            kwh_of(export[index]),
            None if produced is None else kwh_of(produced),
            kwh_of(int(greatest[index]) * QUARTERS_AN_HOUR),
            (Quality(quality) if quality >= 0 else Quality.PROVISIONAL).name.lower(),
            int(incomplete[index]),
        )


CSV_COLUMNS = (
    "start",
    "end",
    "label",
    "energy_kwh",
    "export_kwh",
    "production_kwh",
    "max_kw",
    "quality",
    "incomplete_quarters",
)


UTILITY_LABEL = "utility meter less ours"


def csv_of(
    rows: Iterable[HomeUsage], zone: ZoneInfo, differences: Iterable[Difference] = ()
) -> str:
    """With a head line; instants with the offset of `zone`; energies exact.

    `differences` follow the buckets, a row each two readings of the utility's meter: what it
    counted beyond ours, of the quality `utility`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        writer.writerow(cells(row, zone))
    for one in differences:
        if one.import_ is not None:
            writer.writerow(difference_cells(one, zone))
    return text.getvalue()


def difference_cells(one: Difference, zone: ZoneInfo) -> list[object]:
    """The same columns of what the utility's meter counted beyond ours."""
    more = {
        "start": one.start,
        "end": one.end,
        "label": UTILITY_LABEL,
        "energy_kwh": None if one.import_ is None else one.import_.difference_kwh,
        "export_kwh": None if one.export is None else one.export.difference_kwh,
        "quality": "utility",
        "incomplete_quarters": one.incomplete_quarters,
    }
    return [_cell(more.get(name), zone) for name in CSV_COLUMNS]


def cells(row: HomeUsage, zone: ZoneInfo) -> list[object]:
    """The values of CSV_COLUMNS."""
    return [_cell(getattr(row, name), zone) for name in CSV_COLUMNS]


def _cell(value: object, zone: ZoneInfo) -> object:
    if isinstance(value, datetime):
        return value.astimezone(zone).isoformat()
    return shortest(value) if isinstance(value, Decimal) else value
