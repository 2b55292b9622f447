"""What a home has agreed with its utility, and the bill of one of its cycles."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from streams.tariffs.catalogue import Catalogue
from streams.tariffs.category import MonthUse, billed_tariff
from streams.tariffs.errors import BadUsage
from streams.tariffs.ledger import Ledger, LedgerRow
from streams.tariffs.month import Cycle, Month, begins_on, cycle_between, cycle_of
from streams.tariffs.rating import RatedBill, rate_ledger
from streams.tariffs.spot import SpotPrices


@dataclass(frozen=True, slots=True)
class Contract:
    """A home's terms from the civil day `valid_from` on: for cycles that begin then or later."""

    tariff_id: str
    valid_from: date
    cycle_day: int = 1
    ampere_a: Decimal | None = None


class Era(NamedTuple):
    """From the day `starts_on` on `contract` holds; its first cycle is that of `first_month`."""

    contract: Contract
    first_month: Month
    starts_on: date

    def begins_on(self, month: Month) -> date:
        """The first day of a cycle of the era."""
        if month == self.first_month:
            return self.starts_on
        return begins_on(month, self.contract.cycle_day)

    @property
    def first_end(self) -> date:
        """The day after the first cycle."""
        return begins_on(self.first_month.plus(1), self.contract.cycle_day)


class Agreed(NamedTuple):
    """A cycle of a home and the contract that it is billed by."""

    contract: Contract
    cycle: Cycle


@lru_cache(maxsize=4_096)
def eras(contracts: tuple[Contract, ...]) -> tuple[Era, ...]:
    """When each of a home's contracts holds: from its first cycle that begins on `valid_from` or
    later. One that another has taken over by then never holds.

    Every billing month has one cycle, which begins where the one before ends. So where the reading
    day changes the first cycle under the new one is shorter or longer than a month: from the old
    day to the new one of its month.
    """
    found: list[Era] = []
    for contract in sorted(contracts, key=lambda one: one.valid_from):
        month = Month(contract.valid_from.year, contract.valid_from.month)
        if not found:
            while begins_on(month, contract.cycle_day) < contract.valid_from:
                month = month.plus(1)
            found.append(Era(contract, month, begins_on(month, contract.cycle_day)))
            continue
        before = found[-1]
        month = max(month, before.first_month)
        while before.begins_on(month) < contract.valid_from:
            month = month.plus(1)
        if month == before.first_month:
            found.pop()
        found.append(Era(contract, month, before.begins_on(month)))
    return tuple(found)


def agreed_for(contracts: Iterable[Contract], month: Month, zone: ZoneInfo) -> Agreed:
    """The cycle of `month` and its contract.

    Raises BadUsage if none holds: a home without a tariff has no bill.
    """
    held = [era for era in eras(tuple(contracts)) if era.first_month <= month]
    if not held:
        raise BadUsage(f"the home has no tariff for {month}; set its contract from then on")
    era = held[-1]
    after = begins_on(month.plus(1), era.contract.cycle_day)
    return Agreed(era.contract, cycle_between(month, era.begins_on(month), after, zone))


def agreed_within(
    contracts: Sequence[Contract], start: datetime, end: datetime, zone: ZoneInfo
) -> Iterator[Agreed]:
    """The cycles that touch `[start, end)`, in order; none before the first contract holds."""
    held = eras(tuple(contracts))
    if not held:
        return
    local = start.astimezone(zone)
    month = max(held[0].first_month, Month(local.year, local.month))
    while (agreed := agreed_for(contracts, month, zone)).cycle.start < end:
        if agreed.cycle.end > start:
            yield agreed
        month = month.plus(1)


def cycle_by(contracts: Sequence[Contract], month: Month, zone: ZoneInfo) -> Cycle:
    """The cycle of `month` by the meter-reading day that was valid then, in any zone.

    Before the first contract its own day counts; without any, months are calendar months.
    """
    try:
        return agreed_for(contracts, month, zone).cycle
    except BadUsage:
        held = eras(tuple(contracts))
        return cycle_of(month, zone, held[0].contract.cycle_day if held else 1)


def cycle_for(catalogue: Catalogue, contract: Contract, month: Month) -> Cycle:
    """The cycle of `month` under this contract alone, in the zone of the tariff."""
    return cycle_of(month, catalogue.tariff(contract.tariff_id).zone, contract.cycle_day)


def rate_contract(
    catalogue: Catalogue,
    contract: Contract,
    month: Month,
    ledger: Ledger | Sequence[LedgerRow],
    history: Sequence[MonthUse] = (),
    *,
    surcharge_revision: int | None = None,
    spot: SpotPrices | None = None,
) -> RatedBill:
    """The bill of `month`: the same for the same arguments, at any time and on any machine.

    `ledger` is the cycle's; `history` the use of the months before it, by which the category moves
    (see category.py). Raises TariffError where anything it needs is not known.
    """
    tariff_id = billed_tariff(catalogue, contract.tariff_id, month, contract.ampere_a, history)
    cycle = cycle_for(catalogue, contract, month)
    if not isinstance(ledger, Ledger):
        ledger = Ledger.of_rows(cycle.start, cycle.end, ledger)
    return rate_ledger(catalogue.rates(tariff_id, month, surcharge_revision), cycle, ledger, spot)
