"""The billing months that decide a home's category (see `streams.tariffs.category`)."""

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from streams.cost.days import midnight
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.category import MonthUse
from streams.tariffs.contract import Contract, agreed_within
from streams.tariffs.month import Cycle
from streams.tariffs.usage import kwh_of


def months_before(
    catalogue: Catalogue, contracts: Sequence[Contract], zone: ZoneInfo, at: datetime | None
) -> list[Cycle]:
    """The cycles over by `at` under contracts that use can move to another tariff, by time."""
    if at is None or not contracts or not any(_moves(catalogue, one) for one in contracts):
        return []
    since = midnight(min(one.valid_from for one in contracts), zone)
    return [
        agreed.cycle
        for agreed in agreed_within(contracts, since, at, zone)
        if agreed.cycle.end < at and _moves(catalogue, agreed.contract)
    ]


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
