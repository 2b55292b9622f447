"""How electricity runs through three weeks: what the simulated loads are made of.

From real households where `../shared/data/household` is there, else from shapes of its own.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from random import Random

from infra.local.settings import PROJECT_ROOT

HOUSEHOLD_DIR = PROJECT_ROOT.parent / "shared" / "data" / "household"
DAYS = 21
MINUTES = DAYS * 1440
_SATURDAY = 5
_STANDBY_MW = 1_500


@dataclass(frozen=True)
class Shape:
    """Mean mW of every minute of three weeks, from a Saturday's midnight on.

    `sums[i]` is the sum of the first i minutes.
    """

    name: str
    powers_mw: Sequence[int]
    sums: Sequence[int]


@dataclass(frozen=True)
class Shapes:
    homes: Sequence[Shape]
    appliances: Sequence[Shape]


def find_shapes(folder: Path = HOUSEHOLD_DIR) -> tuple[Shapes, str]:
    """The shapes, and where they come from."""
    files = sorted(folder.glob("REFIT_*.csv.gz"))
    if not files:
        return own_shapes(), f"{folder} is not there: the loads have made-up shapes"
    return refit_shapes(files), f"the loads have the shapes of {len(files)} REFIT months"


def refit_shapes(files: Sequence[Path]) -> Shapes:
    homes, appliances = [], []
    for file in files:
        for name, powers in _columns(file).items():
            shape = _shape(name.lower(), powers)
            if name == "Aggregate":
                homes.append(shape)
            elif any(powers):
                appliances.append(shape)
    return Shapes(homes, [*appliances, _shape("fridge", _fridge(Random(1)))])


def own_shapes() -> Shapes:
    homes = [_shape("home", _home(Random(f"home {i}"))) for i in range(3)]
    kettle = _shape("kettle", _bursts(Random("kettle"), 2_600_000, 3, 5))
    washer = _shape("washingmachine", _bursts(Random("washer"), 1_900_000, 35, 1))
    heater = _shape("waterheater", _bursts(Random("heater"), 3_500_000, 12, 3))
    return Shapes(homes, [kettle, washer, heater, _shape("fridge", _fridge(Random(1)))])


def _shape(name: str, powers_mw: Sequence[int]) -> Shape:
    return Shape(name, powers_mw, list(accumulate(powers_mw, initial=0)))


def _columns(file: Path) -> dict[str, list[int]]:
    """The columns of a REFIT file, in mW, three weeks from its first Saturday."""
    with gzip.open(file, "rt") as lines:
        names = next(lines).rstrip().split(",")[1:]
        rows = [line.rstrip().split(",") for line in lines]
    first = datetime.fromisoformat(rows[0][0])
    skip = (_SATURDAY - first.weekday()) % 7 * 1440 - first.hour * 60 - first.minute
    weeks = rows[skip % (7 * 1440) :][:MINUTES]
    columns = zip(*(map(float, row[1:]) for row in weeks), strict=True)
    return {
        name: [round(watts * 1000) for watts in column]
        for name, column in zip(names, columns, strict=True)
    }


def _fridge(chance: Random) -> list[int]:
    """85 W for a quarter of an hour, then off for twice as long, and a light now and then."""
    powers: list[int] = []
    while len(powers) < MINUTES:
        powers += [chance.randrange(80_000, 90_000)] * chance.randrange(12, 18)
        powers += [_STANDBY_MW] * chance.randrange(25, 35)
    return powers[:MINUTES]


def _bursts(chance: Random, most_mw: int, minutes: int, times_a_day: int) -> list[int]:
    powers = [_STANDBY_MW] * MINUTES
    for day in range(DAYS):
        for _ in range(times_a_day):
            at = day * 1440 + min(1400 - minutes, int(chance.triangular(360, 1380, 1140)))
            for minute in range(at, at + minutes):
                powers[minute] = int(most_mw * chance.uniform(0.85, 1))
    return powers


def _home(chance: Random) -> list[int]:
    """A base load, a fridge, cooking, hot water, and an air conditioner on warm evenings."""
    powers = [
        base + fridge for base, fridge in zip([90_000] * MINUTES, _fridge(chance), strict=True)
    ]
    for most_mw, minutes, times in ((2_500_000, 4, 6), (1_800_000, 40, 1), (3_500_000, 10, 3)):
        for minute, power in enumerate(_bursts(chance, most_mw, minutes, times)):
            powers[minute] += power - _STANDBY_MW
    for day in range(DAYS):
        begin = day * 1440 + chance.randrange(1080, 1200)
        for minute in range(begin, min(begin + chance.randrange(120, 480), MINUTES)):
            powers[minute] += chance.randrange(500_000, 1_100_000)
    return powers
