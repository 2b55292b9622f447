"""One home: what it costs now, how its budgets stand, and what there is to tell of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from schemas.cost import (
    Amount,
    BudgetAlert,
    BudgetPeriod,
    BudgetStatus,
    CostState,
    HomeCost,
    Projected,
)
from streams.cost.book import Book
from streams.cost.budgets import Budget, Event, Standing, judge
from streams.cost.costing import (
    NOTHING_AGREED,
    Account,
    Costing,
    NoContract,
    Terms,
    Used,
    energy_uwh_between,
)
from streams.cost.days import Span, civil_day, civil_month, day_at, midnight
from streams.cost.expected_prices import ExpectedPrices
from streams.cost.projection import LOOK_BACK_DAYS, Outlook
from streams.tariffs.errors import NotKnown, TariffError
from streams.tariffs.month import QUARTER
from streams.tariffs.rating import plain, shortest
from streams.tariffs.usage import kwh_of

StandingKey = tuple[int, datetime]
"""Budget id and start of the period."""


@dataclass(frozen=True)
class Home:
    """What is agreed for a home.

    `meter_problem` says what is wrong with the meters that count within a span; None if nothing is.
    `metered`: some channel counts at some time.
    """

    home_id: str
    zone: ZoneInfo
    costing: Costing
    meter_problem: Callable[[Span], str | None]
    budgets: Sequence[Budget] = ()
    standings: Mapping[StandingKey, Standing] = field(default_factory=dict)
    metered: bool = True


class Assessed(NamedTuple):
    """All that follows from a home's ledger."""

    cost: HomeCost
    standings: dict[StandingKey, Standing]
    alerts: list[BudgetAlert]


class _Ledgers:
    """What was measured of a home, and what is projected, each under its terms."""

    def __init__(self, home: Home, book: Book) -> None:
        self.book = book
        self.outlook = Outlook(book)
        self.measured = Account(home.costing, book)
        expected = ExpectedPrices(home.costing.prices, book.at, home.zone)
        self.projected = Account(home.costing, self.outlook, expected)


def _newest(home: Home, book: Book) -> Span:
    """The days that every figure of now is worked out from: the cycle and the last weeks."""
    look_back = midnight(book.today - timedelta(days=LOOK_BACK_DAYS), home.zone)
    days = Span(look_back, midnight(book.today + timedelta(days=1), home.zone))
    for cycle in _cycles(home, Span(book.at - QUARTER, book.at)):
        days = Span(min(days.start, cycle.start), max(days.end, cycle.end))
    return days


class _Unmetered(Exception):
    """The meters of a span do not make a ledger."""


def needed(home: Home, at: datetime, changed: Iterable[datetime]) -> list[Span]:
    """The spans of the ledger that an assessment at `at` reads.

    `changed` are starts of quarter hours that changed, for the budgets of the periods they touch.
    """
    today = day_at(at - QUARTER, home.zone)
    spans = [Span(midnight(today - timedelta(days=LOOK_BACK_DAYS), home.zone), at)]
    spans += _cycles(home, Span(at - QUARTER, at))
    for budget in home.budgets:
        for period in _touched(home, budget, at, changed):
            spans.append(period)
            if budget.amount is not None:
                spans += _cycles(home, Span(period.start, min(period.end, at)))
    return spans


def assess(home: Home, book: Book, changed: Iterable[datetime] = ()) -> Assessed:
    """The running cost at `book.at`, and the budgets of its periods and of those that changed."""
    book.open(_newest(home, book))
    ledgers = _Ledgers(home, book)
    cost = _running(home, ledgers)
    standings: dict[StandingKey, Standing] = {}
    alerts = []
    newest = book.at - QUARTER
    for budget in home.budgets:
        current = next(iter(_periods(home, budget, {newest})), None)
        if current is None:
            problem = None
            if budget.period is BudgetPeriod.CYCLE:
                problem = _problem(lambda: home.costing.cycle_at(newest))
            cost.budgets.append(_status(budget, problem=problem))
        for period in _touched(home, budget, book.at, changed):
            checked = _Checked(home, ledgers, budget, period)
            told, standing, events = checked.result()
            if period == current:
                cost.budgets.append(told)
            if standing is not None:
                standings[budget.budget_id, period.start] = standing
                alerts += [checked.alert(event, standing) for event in events]
    return Assessed(cost, standings, alerts)


def without_energy(home: Home) -> HomeCost:
    """What is told of a home whose meters have no complete quarter hour."""
    state, problem = CostState.NO_ENERGY, "its meters have no complete quarter hour yet"
    if not home.metered:
        state = CostState.NO_METER
        problem = "the home has no grid meter; `meterstream meter set` names its channel"
    if not home.costing.contracts:
        state, problem = CostState.NO_CONTRACT, NOTHING_AGREED
    return HomeCost(home.home_id, state, problem=problem)


def _running(home: Home, ledgers: _Ledgers) -> HomeCost:
    book = ledgers.book
    newest = Span(book.at - QUARTER, book.at)
    told = HomeCost(home.home_id, CostState.RUNNING, book.at)
    try:
        cycle = home.costing.cycle_at(newest.start)
        _check_meters(home, Span(cycle.start, book.at))
        terms = home.costing.terms_at(newest.start)
        today = Span(midnight(book.today, home.zone), book.at)
        so_far = Span(cycle.start, book.at)
        told.quarter = _amount(newest, ledgers.measured.between(newest))
        told.today = _amount(today, ledgers.measured.between(today))
        told.cycle = _amount(so_far, ledgers.measured.between(so_far))
        told.projected, told.not_projected = _projected(ledgers, terms)
    except NoContract as error:
        return HomeCost(home.home_id, CostState.NO_CONTRACT, book.at, str(error))
    except _Unmetered as error:
        return HomeCost(home.home_id, CostState.NO_METER, book.at, str(error))
    except TariffError as error:
        return HomeCost(home.home_id, CostState.NOT_RATED, book.at, str(error))
    told.tariff_id = terms.rates.tariff.id
    told.currency = terms.rates.tariff.currency
    told.month = str(cycle.month)
    measured = book.page_of(terms.span).measured
    told.missing_quarters = so_far.quarters - int(measured.sum())
    return told


def _projected(ledgers: _Ledgers, terms: Terms) -> tuple[Projected | None, str | None]:
    """The cycle as it will be, or why that cannot be said."""
    method = ledgers.outlook.method
    if method is None:
        return None, f"no quarter hour of the last {LOOK_BACK_DAYS} days was measured"
    try:
        columns = _columns(terms.span, ledgers.projected.between(terms.span))
    except NotKnown as error:
        return None, str(error)
    return Projected(*columns, method, _assumed_prices(ledgers, terms)), None


def _assumed_prices(ledgers: _Ledgers, terms: Terms) -> int:
    expected = ledgers.projected.priced(terms).spot
    if terms.spot is None or expected is None:
        return 0
    return len(expected.by_instant) - len(terms.spot.by_instant)


class _Checked:
    """One budget in one period."""

    def __init__(self, home: Home, ledgers: _Ledgers, budget: Budget, period: Span) -> None:
        self.home, self.ledgers = home, ledgers
        self.budget, self.period = budget, period
        self.unit: str | None = "kWh"

    def result(self) -> tuple[BudgetStatus, Standing | None, list[Event]]:
        """How it stands; without a standing where its use is not known."""
        at, budget, period = self.ledgers.book.at, self.budget, self.period
        so_far = Span(period.start, min(period.end, at))
        try:
            if budget.amount is not None:
                self.unit = None
                terms = self.home.costing.terms_at(so_far.end - QUARTER)
                self.unit = terms.rates.tariff.currency
            _check_meters(self.home, so_far)
            used = self._quantity(self.ledgers.measured, so_far)
        except (TariffError, _Unmetered) as error:
            return self._told(None, str(error)), None, []
        projected, problem = None, None
        if at < period.end and self.ledgers.outlook.method is not None:
            try:
                projected = self._quantity(self.ledgers.projected, period)
            except TariffError as error:
                problem = f"the rest of the period cannot be projected: {error}"
        before = self.home.standings.get((budget.budget_id, period.start))
        standing, events = judge(budget, before, period, used, projected, at)
        return self._told(standing, problem), standing, events

    def alert(self, event: Event, standing: Standing) -> BudgetAlert:
        budget = self.budget
        begins = self.period.start.astimezone(self.home.zone).date()
        return BudgetAlert(
            alert_id=f"budget/{budget.budget_id}/{budget.period}/{begins}/{event.number}",
            home_id=self.home.home_id,
            budget_id=budget.budget_id,
            name=budget.name,
            level=event.level,
            turn=event.turn,
            at=self.ledgers.book.at,
            period=budget.period,
            start_at=self.period.start,
            end_at=self.period.end,
            limit=shortest(budget.limit),
            unit=self.unit or "",
            used=shortest(standing.used),
            projected=None if standing.projected is None else shortest(standing.projected),
        )

    def _quantity(self, account: Account, span: Span) -> Decimal:
        """In the budget's unit. A day's money is without service: it would fall on one day."""
        if self.budget.amount is None:
            return kwh_of(energy_uwh_between(account.source, span, self.home.zone))
        used = account.between(span)
        return used.cost if self.budget.period is BudgetPeriod.DAY else used.with_service

    def _told(self, standing: Standing | None, problem: str | None) -> BudgetStatus:
        return _status(self.budget, self.unit, self.period, standing, problem)


def _status(
    budget: Budget,
    unit: str | None = None,
    period: Span | None = None,
    standing: Standing | None = None,
    problem: str | None = None,
) -> BudgetStatus:
    projected = None if standing is None else standing.projected
    return BudgetStatus(
        budget.budget_id,
        budget.name,
        budget.period,
        shortest(budget.limit),
        "kWh" if budget.amount is None else unit,
        None if period is None else period.start,
        None if period is None else period.end,
        None if standing is None else shortest(standing.used),
        None if projected is None else shortest(projected),
        standing is not None and standing.warned_at is not None,
        standing is not None and standing.exceeded_at is not None,
        projected is not None and projected > budget.limit,
        problem,
    )


def _instants(at: datetime, changed: Iterable[datetime]) -> set[datetime]:
    """Of the newest quarter hour, and of those before it that changed."""
    return {at - QUARTER, *(start for start in changed if start < at)}


def _touched(home: Home, budget: Budget, at: datetime, changed: Iterable[datetime]) -> list[Span]:
    """The periods to judge: of now, of each quarter hour that changed, and of money those that
    were judged before and lie behind one in the bills that it changes.
    """
    instants = _instants(at, changed)
    found = set(_periods(home, budget, instants))
    if budget.amount is None:
        return sorted(found)
    judged = [
        Span(one.start, one.end)
        for (budget_id, _), one in home.standings.items()
        if budget_id == budget.budget_id
    ]
    done = None
    for start in sorted(instants):
        if done is not None and start < done:
            continue
        try:
            cycle = home.costing.cycle_at(start)
        except NoContract:
            continue
        # use that decides the category changes the bills of later cycles too
        done = at if home.costing.history else min(cycle.end, at)
        found.update(period for period in judged if period.start < done and period.end > start)
    return sorted(found)


def _periods(home: Home, budget: Budget, instants: Iterable[datetime]) -> list[Span]:
    """The periods of the budget that hold any of the instants, in order."""
    found = set()
    for at in instants:
        day = day_at(at, home.zone)
        if budget.period is BudgetPeriod.DAY:
            period = civil_day(day, home.zone)
        elif budget.period is BudgetPeriod.MONTH:
            period = civil_month(day, home.zone)
        else:
            try:
                cycle = home.costing.cycle_at(at)
            except NoContract:
                continue
            period = Span(cycle.start, cycle.end)
        last = day_at(period.end - QUARTER, home.zone)
        if budget.holds_on(day_at(period.start, home.zone), last):
            found.add(period)
    return sorted(found)


def _cycles(home: Home, span: Span) -> Iterator[Span]:
    """The cycles that the span touches, as far as there are contracts."""
    at = span.start
    while at < span.end:
        try:
            cycle = home.costing.cycle_at(at)
        except NoContract:
            return
        yield Span(cycle.start, cycle.end)
        at = cycle.end


def _check_meters(home: Home, span: Span) -> None:
    problem = home.meter_problem(span)
    if problem is not None:
        raise _Unmetered(problem)


def _problem(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except TariffError as error:
        return str(error)
    return None


def _columns(span: Span, used: Used) -> tuple[datetime, datetime, str, str, str, str]:
    return (
        span.start,
        span.end,
        shortest(kwh_of(used.energy_uwh)),
        shortest(kwh_of(used.export_uwh)),
        plain(used.cost),
        plain(used.with_service),
    )


def _amount(span: Span, used: Used) -> Amount:
    return Amount(*_columns(span, used))
