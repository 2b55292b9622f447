"""What a tariff needs to know of the energy of a cycle: sums of whole µWh by period, and peaks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from streams.tariffs.catalogue import MonthRates, PricedDemand
from streams.tariffs.errors import BadUsage
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.spot import SpotPrices, spot_cost

KWH_DIGITS = 9
"""1 kWh is 10^9 µWh."""
QUARTERS_AN_HOUR = 4


@dataclass(frozen=True, slots=True)
class Usage:
    """Energy by period of the tariff, and the greatest mean power by (demand charge, period).

    `spot_amount` is energy times spot price, exact.
    """

    total_uwh: int
    energy_uwh: Mapping[str, int] = field(default_factory=dict)
    export_uwh: int = 0
    demand_kw: Mapping[tuple[int, str], Decimal] = field(default_factory=dict)
    spot_amount: Decimal | None = None

    @property
    def total_kwh(self) -> Decimal:
        return kwh_of(self.total_uwh)

    @property
    def export_kwh(self) -> Decimal:
        return kwh_of(self.export_uwh)

    def energy_kwh(self, period: str, tariff_id: str) -> Decimal:
        if period not in self.energy_uwh:
            raise BadUsage(
                f'tariff "{tariff_id}": the energy of period {period!r} is missing; '
                "give the energy of each period"
            )
        return kwh_of(self.energy_uwh[period])

    def peak_kw(self, demand: int, period: str, tariff_id: str) -> Decimal:
        if (demand, period) not in self.demand_kw:
            raise BadUsage(
                f'tariff "{tariff_id}": the greatest demand of period {period!r} is missing; '
                "give it in kW"
            )
        return self.demand_kw[demand, period]

    def spot(self, tariff_id: str) -> Decimal:
        if self.spot_amount is None:
            raise BadUsage(f'tariff "{tariff_id}" follows spot prices; give them and the ledger')
        return self.spot_amount


def kwh_of(energy_uwh: int) -> Decimal:
    """Exact."""
    return Decimal(energy_uwh).scaleb(-KWH_DIGITS)


def uwh_of(energy_kwh: Decimal) -> int:
    """Raises BadUsage below zero, and for more than nine decimals."""
    if energy_kwh.is_finite() and energy_kwh >= 0:
        energy_uwh = energy_kwh.scaleb(KWH_DIGITS)
        if energy_uwh == energy_uwh.to_integral_value():
            return int(energy_uwh)
    raise BadUsage(f"{energy_kwh} kWh is no energy; give 0 or more, to nine decimals")


def usage_of(rates: MonthRates, ledger: Ledger, spot: SpotPrices | None = None) -> Usage:
    """Measure the ledger of a cycle for a tariff.

    Raises NotKnown for an instant without a spot price or a year without holidays, BadPrices for
    prices of another market or currency.
    """
    amount = None
    if rates.rates.spot is not None and spot is not None:
        spot.check(rates.tariff.id, rates.rates.spot, rates.tariff.currency)
        amount = spot_cost(spot, ledger)
    return Usage(
        int(ledger.energy_uwh.sum()),
        _energy(rates, ledger),
        int(ledger.export_uwh.sum()),
        {
            (index, period): kw
            for index, demand in enumerate(rates.demand)
            for period, kw in _peaks(demand, ledger).items()
        },
        amount,
    )


def _energy(rates: MonthRates, ledger: Ledger) -> dict[str, int]:
    prices = rates.rates.energy
    if prices is None:
        return {}
    if rates.clock is None:
        (period,) = prices.periods
        return {period: int(ledger.energy_uwh.sum())}
    masks = rates.clock.masks(ledger.start, ledger.end)
    return {period: int(ledger.energy_uwh[mask].sum()) for period, mask in masks.items()}


def _peaks(demand: PricedDemand, ledger: Ledger) -> dict[str, Decimal]:
    """Windows are counted from the start of the ledger, a local midnight.

    A window that two periods share counts for each with the energy that lies in it.
    """
    width = demand.prices.measuring_minutes // 15
    if demand.clock is None:
        (period,) = demand.prices.periods
        return {period: _peak_kw(ledger.energy_uwh, width)}
    masks: Mapping[str, NDArray[np.bool_]] = demand.clock.masks(ledger.start, ledger.end)
    return {
        period: _peak_kw(np.where(mask, ledger.energy_uwh, 0), width)
        for period, mask in masks.items()
    }


def _peak_kw(energy_uwh: Energies, width: int) -> Decimal:
    if not len(energy_uwh):
        return Decimal(0)
    windows = np.add.reduceat(energy_uwh, np.arange(0, len(energy_uwh), width))
    return kwh_of(int(windows.max()) * QUARTERS_AN_HOUR) / width
