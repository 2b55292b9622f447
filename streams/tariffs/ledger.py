"""The energy of a cycle, quarter hour by quarter hour, in whole µWh."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from schemas.units import QUARTER_US
from streams.tariffs.errors import BadUsage
from streams.tariffs.month import QUARTER

Energies = NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LedgerRow(NamedTuple):
    """One row of the money ledger: what the quarter hour from `start_at` (aware) used and gave."""

    start_at: datetime
    energy_uwh: int
    export_uwh: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """All quarter hours of `[start, end)` in order; one that has no row holds 0."""

    start: datetime
    end: datetime
    energy_uwh: Energies
    export_uwh: Energies

    @classmethod
    def of_rows(cls, start: datetime, end: datetime, rows: Iterable[LedgerRow]) -> Self:
        """Rows in any order; those of the same quarter hour are added.

        Raises BadUsage for a row outside `[start, end)`, off the quarter hour, or below zero.
        """
        quarters = (end - start) // QUARTER
        energy, export = [0] * quarters, [0] * quarters
        for row in rows:
            index, rest = divmod(row.start_at - start, QUARTER)
            if rest != timedelta(0) or not 0 <= index < quarters:
                raise BadUsage(
                    f"the ledger row of {row.start_at.isoformat()} is no quarter hour of "
                    f"{start.isoformat()} to {end.isoformat()}; select the rows of the cycle"
                )
            if row.energy_uwh < 0 or row.export_uwh < 0:
                raise BadUsage(
                    f"the ledger row of {row.start_at.isoformat()} has less than no energy "
                    f"({row.energy_uwh} µWh used, {row.export_uwh} given); mend the ledger"
                )
            energy[index] += row.energy_uwh
            export[index] += row.export_uwh
        return cls(start, end, np.array(energy, np.int64), np.array(export, np.int64))

    @classmethod
    def of_columns(
        cls,
        start: datetime,
        end: datetime,
        start_us: Energies,
        energy_uwh: Energies,
        export_uwh: Energies,
    ) -> Self:
        """The same from columns; `start_us` is in µs since 1970. A thousand homes want this one.

        Raises BadUsage as `of_rows` does.
        """
        index, rest = np.divmod(start_us - _us(start), QUARTER_US)
        quarters = (end - start) // QUARTER
        strange = (rest != 0) | (index < 0) | (index >= quarters)
        strange |= (energy_uwh < 0) | (export_uwh < 0)
        if strange.any():
            at = int(np.flatnonzero(strange)[0])
            row = LedgerRow(
                _EPOCH + timedelta(microseconds=int(start_us[at])),
                int(energy_uwh[at]),
                int(export_uwh[at]),
            )
            return cls.of_rows(start, end, [row])
        if len(index) == quarters and (index == np.arange(quarters)).all():
            return cls(start, end, energy_uwh, export_uwh)
        energy, export = np.zeros(quarters, np.int64), np.zeros(quarters, np.int64)
        np.add.at(energy, index, energy_uwh)
        np.add.at(export, index, export_uwh)
        return cls(start, end, energy, export)


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
