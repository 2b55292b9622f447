"""What a bill holds: all that a person needs to check it, and nothing that a replay would change.

No surrogate ids, revisions, offsets, run times or version of the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.usage import Quality
from streams.tariffs.catalogue import Catalogue, MonthRates
from streams.tariffs.contract import Contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER, Cycle
from streams.tariffs.rating import RatedBill, plain, shortest
from streams.tariffs.surcharges import surcharge_value
from streams.tariffs.usage import kwh_of

SCHEMA = "meterstream.bill.v1"

TOLD_AS = {
    Quality.MEASURED: "measured",
    Quality.INTEGRATED: "measured",
    Quality.BACKFILLED: "measured",
    Quality.INTERPOLATED: "interpolated",
    Quality.ESTIMATED: "estimated",
    Quality.PROVISIONAL: "estimated",
    Quality.GAP: "gap",
}
"""A quarter hour told as `gap` is unmeasured in part or whole: what was measured of it counts."""
QUALITIES = ("measured", "interpolated", "estimated", "gap")

_CODES = np.array([QUALITIES.index(TOLD_AS[quality]) for quality in Quality], np.int8)


@dataclass(frozen=True, slots=True)
class Measured:
    """A cycle's ledger with the `schemas.usage.Quality` of each of its quarter hours."""

    ledger: Ledger
    quality: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose bill it is; `meters` are addresses with channels, as people know them.

    `home_id` None is a device by itself; `contract` None what a tariff would have cost, which
    nobody has agreed on.
    """

    home_id: str | None
    meters: Sequence[str]
    contract: Contract | None


def bill_document(
    catalogue: Catalogue, payer: Payer, rates: MonthRates, bill: RatedBill, measured: Measured
) -> dict[str, object]:
    """The bill as JSON. `rates` are those it was rated by, `measured` is of its cycle."""
    cycle, ledger = bill.cycle, measured.ledger
    return {
        "schema": SCHEMA,
        "home": payer.home_id,
        "meters": sorted(payer.meters),
        "contract": None if payer.contract is None else _contract(payer.contract),
        "cycle": {
            "start": _local(cycle.start, rates),
            "end": _local(cycle.end, rates),
            "zone": rates.tariff.zone.key,
            "days": cycle.days,
        },
        "versions": _versions(catalogue, rates, cycle),
        **bill.document(),
        "energy_kwh": _kwh(int(ledger.energy_uwh.sum())),
        "export_kwh": _kwh(int(ledger.export_uwh.sum())),
        "by_period": _by_period(rates, ledger.energy_uwh, ledger.start, ledger.end),
        "by_quality": _by_quality(ledger.energy_uwh, measured.quality),
        "days": _days(rates, measured),
    }


def _contract(contract: Contract) -> dict[str, object]:
    return {
        "tariff": contract.tariff_id,
        "valid_from": contract.valid_from.isoformat(),
        "cycle_day": contract.cycle_day,
        "ampere_a": None if contract.ampere_a is None else shortest(contract.ampere_a),
    }


def _versions(catalogue: Catalogue, rates: MonthRates, cycle: Cycle) -> dict[str, object]:
    """Which rates, which revision of each surcharge, and the holidays that were known."""
    surcharges = []
    for use in rates.rates.surcharges:
        value = surcharge_value(catalogue.surcharge(use.name), use, rates.month)
        surcharges.append(
            {
                "name": use.name,
                "customer": use.customer,
                "from": str(value.from_),
                "revision": value.revision,
                "price": plain(rates.surcharges[use.name]),
            }
        )
    clocks = [rates.clock, *(demand.clock for demand in rates.demand)]
    holidays = {
        day.isoformat(): kind
        for clock in clocks
        if clock is not None
        for day, kind in clock.holidays(cycle.start, cycle.end).items()
    }
    return {
        "tariff": {"id": rates.tariff.id, "from": str(rates.rates.from_)},
        "surcharges": surcharges,
        "holidays": holidays,
    }


def _days(rates: MonthRates, measured: Measured) -> list[dict[str, object]]:
    """The civil days of the tariff's zone, in order."""
    ledger = measured.ledger
    told: list[dict[str, object]] = []
    for low, high in pairwise(day_edges(rates, ledger.start, ledger.end)):
        span = slice((low - ledger.start) // QUARTER, (high - ledger.start) // QUARTER)
        energy = ledger.energy_uwh[span]
        told.append(
            {
                "day": low.astimezone(rates.tariff.zone).date().isoformat(),
                "energy_kwh": _kwh(int(energy.sum())),
                "export_kwh": _kwh(int(ledger.export_uwh[span].sum())),
                "by_period": _by_period(rates, energy, low, high),
                "by_quality": _by_quality(energy, measured.quality[span]),
            }
        )
    return told


def day_edges(rates: MonthRates, start: datetime, end: datetime) -> list[datetime]:
    """The local midnights within `[start, end]`, and both ends, in UTC."""
    zone, edges = rates.tariff.zone, [start]
    day = start.astimezone(zone).date() + timedelta(days=1)
    while (at := datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)) < end:
        edges.append(at)
        day += timedelta(days=1)
    return [*edges, end]


def _by_period(
    rates: MonthRates, energy_uwh: NDArray[np.int64], start: datetime, end: datetime
) -> dict[str, str]:
    if rates.clock is None:
        return {}
    masks = rates.clock.masks(start, end)
    return {period: _kwh(int(energy_uwh[mask].sum())) for period, mask in masks.items()}


def _by_quality(
    energy_uwh: NDArray[np.int64], quality: NDArray[np.integer[Any]]
) -> dict[str, dict[str, object]]:
    """Energy and number of quarter hours by how they were come by; absent ones are left out."""
    codes = _CODES[quality]
    counts = np.bincount(codes, minlength=len(QUALITIES)).tolist()
    return {
        name: {"energy_kwh": _kwh(int(energy_uwh[codes == code].sum())), "quarter_hours": count}
        for code, (name, count) in enumerate(zip(QUALITIES, counts, strict=True))
        if count
    }


def _local(at: datetime, rates: MonthRates) -> str:
    return at.astimezone(rates.tariff.zone).isoformat()


def _kwh(energy_uwh: int) -> str:
    return shortest(kwh_of(energy_uwh))
