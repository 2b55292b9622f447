"""Peak-usage analysis: the hours of the day and the days of the week that use most."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from streams.analysis.buckets import midnight
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract, agreed_within
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.month import QUARTER, Month
from streams.tariffs.usage import kwh_of
from streams.tariffs.week import WEEK

_SHARE_PLACES = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Part:
    """An hour of the day (`00` to `23`), a weekday, or a period of a tariff.

    `mean_kw` is over the quarter hours of the part; None where the ledger holds none.
    """

    name: str
    energy_kwh: Decimal
    share: Decimal | None
    mean_kw: Decimal | None


@dataclass(frozen=True, slots=True)
class PeakUse:
    hours: list[Part]
    weekdays: list[Part]


def peak_use(ledger: Ledger, zone: ZoneInfo) -> PeakUse:
    """By the clock of `zone`; a day of a clock change has its hour twice, or not."""
    hours, weekdays = _civil(ledger, zone)
    return PeakUse(
        _parts(ledger.energy_uwh, hours, [f"{hour:02d}" for hour in range(24)]),
        _parts(ledger.energy_uwh, weekdays, list(WEEK)),
    )


def by_period(ledger: Ledger, catalogue: Catalogue, contracts: Sequence[Contract]) -> list[Part]:
    """How the energy lies in the periods of the tariffs (`on_peak`, `off_peak`).

    Of cycles whose tariff does not tell the time, and of those without a contract, all is `any`.
    Raises TariffError where a tariff's rates of that month are not known.
    """
    names: list[str] = ["any"]
    codes = np.zeros(len(ledger.energy_uwh), np.int8)
    for contract, month, low, high in _cycles(ledger, catalogue, contracts):
        clock = catalogue.rates(contract.tariff_id, month).clock
        if clock is None:
            continue
        start, end = ledger.start + low * QUARTER, ledger.start + high * QUARTER
        for period, mask in clock.masks(start, end).items():
            if period not in names:
                names.append(period)
            codes[low:high][mask] = names.index(period)
    return [part for part in _parts(ledger.energy_uwh, codes, names) if part.mean_kw is not None]


def _cycles(
    ledger: Ledger, catalogue: Catalogue, contracts: Sequence[Contract]
) -> list[tuple[Contract, Month, int, int]]:
    """Contract, billing month, and which quarter hours of the ledger, of each cycle."""
    if not contracts:
        return []
    zone = catalogue.tariff(contracts[0].tariff_id).zone
    found = []
    for contract, cycle in agreed_within(contracts, ledger.start, ledger.end, zone):
        low, high = max(cycle.start, ledger.start), min(cycle.end, ledger.end)
        quarters = (low - ledger.start) // QUARTER, (high - ledger.start) // QUARTER
        found.append((contract, cycle.month, *quarters))
    return found


def _civil(ledger: Ledger, zone: ZoneInfo) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """The local hour and weekday of each quarter hour."""
    quarters = len(ledger.energy_uwh)
    hours, weekdays = np.zeros(quarters, np.int8), np.zeros(quarters, np.int8)
    day = ledger.start.astimezone(zone).date()
    while (low_at := midnight(day, zone)) < ledger.end:
        following = day + timedelta(days=1)
        high_at = midnight(following, zone)
        low = max((low_at - ledger.start) // QUARTER, 0)
        high = min((high_at - ledger.start) // QUARTER, quarters)
        weekdays[low:high] = day.weekday()
        if high_at - low_at == timedelta(days=1):
            skipped = low - (low_at - ledger.start) // QUARTER
            hours[low:high] = (np.arange(skipped, skipped + high - low) // 4).astype(np.int8)
        else:
            for index in range(low, high):
                hours[index] = (ledger.start + index * QUARTER).astimezone(zone).hour
        day = following
    return hours, weekdays


def _parts(energy_uwh: Energies, codes: NDArray[np.int8], names: Sequence[str]) -> list[Part]:
    total_uwh = int(energy_uwh.sum())
    found = []
    for code, name in enumerate(names):
        of_part = energy_uwh[codes == code]
        uwh = int(of_part.sum())
        share = (Decimal(uwh) / total_uwh).quantize(_SHARE_PLACES) if total_uwh else None
        hours = Decimal(len(of_part)) / 4
        mean_kw = (kwh_of(uwh) / hours).quantize(Decimal("0.000001")) if hours else None
        found.append(Part(name, kwh_of(uwh), share, mean_kw))
    return found
