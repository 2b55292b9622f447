"""What a home has agreed with its utility, and the bill of one of its cycles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

from streams.tariffs.catalogue import Catalogue
from streams.tariffs.category import MonthUse, billed_tariff
from streams.tariffs.errors import BadUsage
from streams.tariffs.ledger import Ledger, LedgerRow
from streams.tariffs.month import Cycle, Month, cycle_of
from streams.tariffs.rating import RatedBill, rate_ledger
from streams.tariffs.spot import SpotPrices


@dataclass(frozen=True, slots=True)
class Contract:
    """A home's terms from the civil day `valid_from` on: it holds for cycles that begin then."""

    tariff_id: str
    valid_from: date
    cycle_day: int = 1
    ampere_a: Decimal | None = None


def contract_for(contracts: Iterable[Contract], month: Month, zone: ZoneInfo) -> Contract:
    """The latest contract that holds when its cycle of `month` begins.

    Raises BadUsage if there is none: a home without a tariff has no bill.
    """
    held = [
        contract
        for contract in contracts
        if contract.valid_from
        <= cycle_of(month, zone, contract.cycle_day).start.astimezone(zone).date()
    ]
    if not held:
        raise BadUsage(f"the home has no tariff for {month}; set its contract from then on")
    return max(held, key=lambda contract: contract.valid_from)


def cycle_for(catalogue: Catalogue, contract: Contract, month: Month) -> Cycle:
    """The cycle of the bill of `month`, in the zone of the tariff."""
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
