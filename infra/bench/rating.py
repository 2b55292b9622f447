"""The rating stage: ledgers of homes to the lines of their bills, on one core, without servers.

Each home has a meter-reading day of its own and a year of quarter hours that no other home has.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.bench.results import Row, Taken, costing_times, rows_of
from infra.local.parts import Progress
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Cycle, Month, cycle_of
from streams.tariffs.rating import rate_ledger

TARIFFS = ("mea-1.2", "mea-1.3.2", "mea-2.2.2")
MONTHS = tuple(Month(2025, 9).plus(number) for number in range(12))
_READING_DAYS = 28
_LATE_MONTH = 5
WHOLE, LATE_CYCLE, LATE_YEAR = (
    "homes, their year, three tariffs",
    "a late day: its cycle",
    "a late day: were it the year",
)


@dataclass(frozen=True)
class _Home:
    """The cycles of a year and their ledgers."""

    cycles: list[Cycle]
    ledgers: list[Ledger]


def measure(homes: int, repeats: int, progress: Progress) -> list[Row]:
    """`cpu_ms` is the whole; a late day is that of one home and one tariff."""
    catalogue, taken = known_tariffs(), []
    for repeat in range(1, repeats + 1):
        progress(f"rating, {repeat} of {repeats}")
        taken += [_whole(catalogue, homes), *_late(catalogue)]
    rows = rows_of(taken)
    late = costing_times([row for row in rows if row.name != WHOLE], LATE_CYCLE, "cpu_ms")
    return [row for row in rows if row.name == WHOLE] + late


def _whole(catalogue: Catalogue, homes: int) -> Taken:
    """Homes are made between the clock's starts and stops."""
    took_s, ratings = 0.0, 0
    for number in range(homes):
        home = _home(catalogue, number)
        begun_s = time.process_time()
        for tariff_id in TARIFFS:
            for cycle, ledger in zip(home.cycles, home.ledgers, strict=True):
                rate_ledger(catalogue.rates(tariff_id, cycle.month), cycle, ledger)
                ratings += 1
        took_s += time.process_time() - begun_s
    figures = {"cpu_ms": took_s * 1e3, "cpu_us_per_rating": took_s / ratings * 1e6}
    return Taken(WHOLE, figures, f"{homes:,} homes, {ratings:,} bills")


def _late(catalogue: Catalogue) -> Iterator[Taken]:
    """After a day came late: rate its cycle again, as billing does, beside all of the year."""
    home = _home(catalogue, 1)
    cycle, ledger = home.cycles[_LATE_MONTH], home.ledgers[_LATE_MONTH]

    begun_s = time.process_time()
    rate_ledger(catalogue.rates(TARIFFS[1], cycle.month), cycle, ledger)
    cycle_s = time.process_time() - begun_s

    begun_s = time.process_time()
    for one, its_ledger in zip(home.cycles, home.ledgers, strict=True):
        rate_ledger(catalogue.rates(TARIFFS[1], one.month), one, its_ledger)
    year_s = time.process_time() - begun_s
    for name, took_s in ((LATE_CYCLE, cycle_s), (LATE_YEAR, year_s)):
        yield Taken(name, {"cpu_ms": took_s * 1e3})


def _home(catalogue: Catalogue, number: int) -> _Home:
    zone, random = catalogue.tariff(TARIFFS[0]).zone, np.random.default_rng(number)
    cycles = [cycle_of(month, zone, 1 + number % _READING_DAYS) for month in MONTHS]
    ledgers = [_ledger(cycle, random.integers(0, 2 * 10**8, cycle.quarters)) for cycle in cycles]
    return _Home(cycles, ledgers)


def _ledger(cycle: Cycle, energy_uwh: NDArray[np.int64]) -> Ledger:
    return Ledger(cycle.start, cycle.end, energy_uwh, np.zeros_like(energy_uwh))
