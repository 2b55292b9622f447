"""What any interval costs: the bill of the ledger until its end less that until its start."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np

from streams.cost.book import cut
from streams.cost.days import Span, civil_day, day_at
from streams.tariffs.catalogue import Catalogue, MonthRates
from streams.tariffs.category import MonthUse, billed_tariff
from streams.tariffs.contract import Agreed, Contract, agreed_for
from streams.tariffs.errors import BadUsage, TariffError
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER, Cycle, Month
from streams.tariffs.rating import rate_ledger
from streams.tariffs.spot import SpotPrices

NOTHING_AGREED = "the home has no contract; `meterstream contract set` gives it one"


class NoContract(TariffError):
    """No contract of the home holds for the cycle that an instant lies in."""


Prices = Callable[[str, Span], SpotPrices]
"""Those of a market within a span, as far as they are known."""


def no_prices(market: str, _span: Span) -> SpotPrices:
    return SpotPrices(market, {})


class Source(Protocol):
    """Where a ledger comes from: what was measured (`Book`), or projected too (`Outlook`)."""

    def over(self, span: Span) -> Ledger: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """A cycle of the home and what holds in it. `base` is the bill of no energy at all."""

    cycle: Cycle
    rates: MonthRates
    base: Decimal
    spot: SpotPrices | None = None

    @property
    def span(self) -> Span:
        return Span(self.cycle.start, self.cycle.end)

    def bill(self, ledger: Ledger) -> Decimal:
        """The total of the bill; `ledger` is of the cycle. Raises TariffError."""
        return rate_ledger(self.rates, self.cycle, ledger, self.spot).total


@dataclass(frozen=True, slots=True)
class Used:
    """What an interval used and costs; see `schemas.cost.Amount`."""

    energy_uwh: int
    export_uwh: int
    cost: Decimal
    with_service: Decimal


@dataclass
class Costing:
    """The contracts of one home, and the terms of its cycles as far as they were asked for.

    `history` is the use of the billing months that are over; that under the contract of a month
    decides its category.
    """

    catalogue: Catalogue
    zone: ZoneInfo
    contracts: Sequence[Contract]
    history: Sequence[MonthUse] = ()
    prices: Prices = no_prices
    _terms: dict[Month, Terms] = field(default_factory=dict, init=False)

    def cycle_at(self, at: datetime) -> Cycle:
        """The cycle that `at` lies in. Raises NoContract."""
        return self._cycle_at(at).cycle

    def terms_at(self, at: datetime) -> Terms:
        """Raises NoContract, and TariffError where rates or the category are not known."""
        contract, cycle = self._cycle_at(at)
        if cycle.month not in self._terms:
            history = [use for use in self.history if self._holds(contract, use.month)]
            tariff_id = billed_tariff(
                self.catalogue, contract.tariff_id, cycle.month, contract.ampere_a, history
            )
            rates = self.catalogue.rates(tariff_id, cycle.month)
            base = _base(self.catalogue, tariff_id, cycle)
            market = rates.rates.spot
            spot = None if market is None else self.prices(market, Span(cycle.start, cycle.end))
            self._terms[cycle.month] = Terms(cycle, rates, base, spot)
        return self._terms[cycle.month]

    def terms_within(self, span: Span) -> Iterator[Terms]:
        """The cycles that the span touches, in order. Raises as `terms_at` does."""
        at = span.start
        while at < span.end:
            terms = self.terms_at(at)
            yield terms
            at = terms.cycle.end

    def _holds(self, contract: Contract, month: Month) -> bool:
        try:
            return agreed_for(self.contracts, month, self.zone).contract is contract
        except BadUsage:
            return False

    def _cycle_at(self, at: datetime) -> Agreed:
        if not self.contracts:
            raise NoContract(NOTHING_AGREED)
        local = day_at(at, self.zone)
        month = Month(local.year, local.month)
        refused = None
        for candidate in (month, month.plus(1)):
            try:
                agreed = agreed_for(self.contracts, candidate, self.zone)
            except BadUsage as error:
                refused = error
                continue
            if agreed.cycle.start <= at < agreed.cycle.end:
                return agreed
        raise NoContract(str(refused or f"no cycle of the home holds {at.isoformat()}"))


@dataclass(frozen=True, slots=True)
class _Until:
    """The bill of a cycle's ledger until some instant, and what it used by then."""

    bill: Decimal
    energy_uwh: int
    export_uwh: int


@dataclass
class Account:
    """A ledger under the terms of a home. It remembers the bills that it was asked for.

    `prices` are taken in place of those that are known.
    """

    costing: Costing
    source: Source
    prices: Prices | None = None
    _ledgers: dict[Month, Ledger] = field(default_factory=dict, init=False)
    _untils: dict[tuple[Month, datetime], _Until] = field(default_factory=dict, init=False)
    _priced: dict[Month, Terms] = field(default_factory=dict, init=False)

    def between(self, span: Span) -> Used:
        """What the span used and costs, over as many cycles as it touches.

        Raises NoContract and TariffError.
        """
        energy_uwh = export_uwh = 0
        cost = service = Decimal(0)
        currency = None
        for terms in map(self.priced, self.costing.terms_within(span)):
            if currency not in (None, terms.rates.tariff.currency):
                raise BadUsage(
                    f"{currency} and {terms.rates.tariff.currency} within one interval; "
                    "ask for either side of the change of contract"
                )
            currency = terms.rates.tariff.currency
            before = self._until(terms, max(span.start, terms.cycle.start))
            until = self._until(terms, min(span.end, terms.cycle.end))
            cost += until.bill - before.bill
            service += terms.base if span.start <= terms.cycle.start else 0
            energy_uwh += until.energy_uwh - before.energy_uwh
            export_uwh += until.export_uwh - before.export_uwh
        return Used(energy_uwh, export_uwh, cost, cost + service)

    def priced(self, terms: Terms) -> Terms:
        """The terms with the account's own prices, where they follow a market."""
        market, month = terms.rates.rates.spot, terms.cycle.month
        if self.prices is None or market is None:
            return terms
        if month not in self._priced:
            self._priced[month] = replace(terms, spot=self.prices(market, terms.span))
        return self._priced[month]

    def _until(self, terms: Terms, at: datetime) -> _Until:
        if at == terms.cycle.start:
            return _Until(terms.base, 0, 0)
        month = terms.cycle.month
        if month not in self._ledgers:
            self._ledgers[month] = self.source.over(terms.span)
        if (month, at) not in self._untils:
            ledger = cut(self._ledgers[month], at)
            energy_uwh, export_uwh = int(ledger.energy_uwh.sum()), int(ledger.export_uwh.sum())
            self._untils[month, at] = _Until(terms.bill(ledger), energy_uwh, export_uwh)
        return self._untils[month, at]


@lru_cache(maxsize=4_096)
def _base(catalogue: Catalogue, tariff_id: str, cycle: Cycle) -> Decimal:
    zeros = np.zeros(cycle.quarters, np.int64)
    nothing = Ledger(cycle.start, cycle.end, zeros, zeros)
    rates = catalogue.rates(tariff_id, cycle.month)
    spot = None if rates.rates.spot is None else SpotPrices(rates.rates.spot, {})
    return rate_ledger(rates, cycle, nothing, spot).total


def energy_uwh_between(source: Source, span: Span, zone: ZoneInfo) -> int:
    """The import of a span of whole quarter hours, with or without a contract."""
    days = Span(
        civil_day(day_at(span.start, zone), zone).start,
        civil_day(day_at(span.end - QUARTER, zone), zone).end,
    )
    first = (span.start - days.start) // QUARTER
    return int(source.over(days).energy_uwh[first : first + span.quarters].sum())
