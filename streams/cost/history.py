"""The billing months that decide a home's category (see `streams.tariffs.category`)."""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from streams.cost.days import day_at
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.category import MonthUse
from streams.tariffs.contract import Contract, contract_for, cycle_for
from streams.tariffs.errors import TariffError
from streams.tariffs.month import QUARTER, Cycle, Month
from streams.tariffs.usage import kwh_of


def months_before(
    catalogue: Catalogue, contracts: Sequence[Contract], zone: ZoneInfo, at: datetime | None
) -> list[Cycle]:
    """The cycles over by `at` under contracts that use can move to another tariff, by time."""
    if at is None or not contracts or not any(_moves(catalogue, one) for one in contracts):
        return []
    first = contracts[0].valid_from
    month, cycles = Month(first.year, first.month), []
    last = day_at(at - QUARTER, zone)
    while month <= Month(last.year, last.month):
        try:
            contract = contract_for(contracts, month, zone)
        except TariffError:
            month = month.plus(1)
            continue
        cycle = cycle_for(catalogue, contract, month)
        if cycle.end < at and _moves(catalogue, contract):
            cycles.append(cycle)
        month = month.plus(1)
    return cycles


def uses_of(cycles: Sequence[Cycle], energies_uwh: Sequence[int | None]) -> list[MonthUse]:
    """A month without any energy row is left out: it breaks a run."""
    return [
        MonthUse(cycle.month, kwh_of(energy))
        for cycle, energy in zip(cycles, energies_uwh, strict=True)
        if energy is not None
    ]


def _moves(catalogue: Catalogue, contract: Contract) -> bool:
    """Whether use can move this contract to another tariff."""
    category = catalogue.category(contract.tariff_id)
    return (
        category is not None
        and contract.ampere_a is not None
        and contract.ampere_a <= category.ampere_a
    )
