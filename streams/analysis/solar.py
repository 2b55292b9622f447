"""A home with its own plant: what it made, used itself, gave away, and still had to buy."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from streams.tariffs.ledger import Ledger
from streams.tariffs.usage import kwh_of

_SHARE_PLACES = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Solar:
    """Energies are exact. Consumption is import and self-use; production is self-use and what of
    the export is explained.

    `self_use_share` is of the production, `self_sufficiency` of the consumption; None where that
    is 0. `unexplained_export_kwh` went out in quarter hours that made less: a battery, or meters
    that do not agree.
    """

    production_kwh: Decimal
    import_kwh: Decimal
    export_kwh: Decimal
    self_use_kwh: Decimal
    consumption_kwh: Decimal
    self_use_share: Decimal | None
    self_sufficiency: Decimal | None
    unexplained_export_kwh: Decimal


def solar(grid: Ledger, production: Ledger) -> Solar:
    """Both of the same quarter hours; `production.energy_uwh` is what the plant made."""
    made, given = production.energy_uwh, grid.export_uwh
    used_uwh = int(np.maximum(made - given, 0).sum())
    made_uwh, bought_uwh = int(made.sum()), int(grid.energy_uwh.sum())
    consumed_uwh = bought_uwh + used_uwh
    return Solar(
        production_kwh=kwh_of(made_uwh),
        import_kwh=kwh_of(bought_uwh),
        export_kwh=kwh_of(int(given.sum())),
        self_use_kwh=kwh_of(used_uwh),
        consumption_kwh=kwh_of(consumed_uwh),
        self_use_share=_share(used_uwh, made_uwh),
        self_sufficiency=_share(used_uwh, consumed_uwh),
        unexplained_export_kwh=kwh_of(int(np.maximum(given - made, 0).sum())),
    )


def _share(part: int, whole: int) -> Decimal | None:
    return (Decimal(part) / whole).quantize(_SHARE_PLACES) if whole else None
