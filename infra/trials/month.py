"""A month of several homes' meters, in the order in which it happened to arrive. Pure.

A home's register is read every `step_s`, at each quarter hour too, so that what each quarter hour
used is the plain difference of two readings. Between those some readings are lost. What is
measured follows from the seed, how it arrives from the seed and the number of the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.units import SECOND_US
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import Cycle

LONGEST_STEP_S = 150
"""Two steps are not longer than what counts as silence: a lost reading leaves no gap."""
STEPS_S = tuple(step for step in range(1, LONGEST_STEP_S + 1) if 900 % step == 0)
AROUND = 8
"""Readings before and after the month, by which its first and last quarter hours are whole."""
LOST = 0.03
OFTEN_S, SELDOM_S = 8.0, 3_600.0
SELDOM = 0.02
LATE_DAY_S = 2.5 * 86_400
TWICE = 0.01

Numbers = NDArray[np.int64]


class Arrival(NamedTuple):
    """A reading that arrives: of which home, its number there, and when, in µs."""

    home: int
    number: int
    received_us: int


@dataclass(frozen=True)
class MeteredMonth:
    """`registers_uwh` and `powers_mw` of each home, reading by reading; `kept` are not lost."""

    cycle: Cycle
    step_s: int
    registers_uwh: NDArray[np.int64]
    powers_mw: NDArray[np.int64]
    kept: NDArray[np.bool_]

    @property
    def homes(self) -> int:
        return len(self.registers_uwh)

    @property
    def readings(self) -> int:
        """Those that are not lost."""
        return int(self.kept.sum())

    def at_s(self, number: int) -> int:
        """When a reading was taken, in Unix time."""
        return int(self.cycle.start.timestamp()) + (number - AROUND) * self.step_s

    def ledger(self, home: int) -> Ledger:
        """What the home's register says that each quarter hour used."""
        quarter = 900 // self.step_s
        edges = self.registers_uwh[home, AROUND:-AROUND:quarter]
        energy = np.diff(edges)
        return Ledger(self.cycle.start, self.cycle.end, energy, np.zeros_like(energy))

    def arrivals(self, seed: int, run: int) -> Iterator[Arrival]:
        """All readings as they arrive: most within seconds and out of order, some an hour late,
        a day of each home days late, some twice."""
        chance = np.random.default_rng([seed, 1, run])
        homes, numbers = np.nonzero(self.kept)
        measured_s = self.at_s(0) + numbers * self.step_s
        delay_s = _delays_s(chance, len(homes))
        first_s, days = self.at_s(AROUND), self.cycle.days
        late_days = chance.integers(0, days, self.homes)
        on_day = (measured_s - first_s) // 86_400
        delay_s[on_day == late_days[homes]] += LATE_DAY_S
        again = np.flatnonzero(chance.random(len(homes)) < TWICE)
        arrives_s = np.concatenate(
            [measured_s + delay_s, measured_s[again] + _delays_s(chance, len(again))]
        )
        homes, numbers = np.append(homes, homes[again]), np.append(numbers, numbers[again])
        order = np.argsort(arrives_s, kind="stable")
        received_us, before = (arrives_s[order] * SECOND_US).astype(np.int64), 0
        for home, number, at_us in zip(
            homes[order].tolist(), numbers[order].tolist(), received_us.tolist(), strict=True
        ):
            before = max(before + 1, at_us)  # the connector's clock never stands still
            yield Arrival(home, number, before)


def metered_month(cycle: Cycle, readings: int, homes: int, seed: int) -> MeteredMonth:
    """At least so many readings of all homes together, before some of them are lost."""
    seconds = (cycle.end - cycle.start).total_seconds()
    fitting = [step for step in STEPS_S if homes * seconds / step >= readings]
    if not fitting:
        raise ValueError(f"{readings:,} readings of {homes} homes: less than a second apart")
    step_s = fitting[-1]
    chance = np.random.default_rng([seed, 0])
    count = round(seconds) // step_s + 1 + 2 * AROUND
    powers_mw = chance.integers(50_000, 3_000_000, (homes, count))
    steps_uwh = powers_mw * step_s * 1000 // 3600
    begins_uwh = chance.integers(0, 10**12, (homes, 1))
    kept = chance.random((homes, count)) >= LOST
    kept[:, 1:] |= ~kept[:, :-1]  # never two in a row
    kept[:, (np.arange(count) - AROUND) % (900 // step_s) == 0] = True
    return MeteredMonth(cycle, step_s, begins_uwh + steps_uwh.cumsum(axis=1), powers_mw, kept)


def _delays_s(chance: np.random.Generator, count: int) -> NDArray[np.float64]:
    often = chance.uniform(0, OFTEN_S, count)
    return np.where(chance.random(count) < SELDOM, chance.uniform(0, SELDOM_S, count), often)
