"""Whether a budget is nearly used up, used up, or will be: pure."""

from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from schemas.cost import BudgetPeriod, Level, Turn
from streams.cost.days import Span

WARNED_AT = Decimal("0.8")
PROJECTION_CLEARED_AT = Decimal("0.9")
"""A projection wavers: it takes its alert back only well below the budget, and gives none again."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So much money (`amount`) or energy for each period that touches `[valid_from, valid_to)`."""

    budget_id: int
    name: str
    period: BudgetPeriod
    amount: Decimal | None
    energy_kwh: Decimal | None
    valid_from: date
    valid_to: date | None = None

    @property
    def limit(self) -> Decimal:
        limit = self.amount if self.amount is not None else self.energy_kwh
        assert limit is not None  # the table's own check
        return limit

    def holds_on(self, first: date, last: date) -> bool:
        """Whether it holds on any of these days, both included."""
        return self.valid_from <= last and (self.valid_to is None or first < self.valid_to)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in one period.

    The instants are the ends of the ledger at which an alert was raised; None where it was not, or
    was taken back. `events` counts the alerts raised and cleared so far: their identities.
    """

    start: datetime
    end: datetime
    used: Decimal
    projected: Decimal | None = None
    warned_at: datetime | None = None
    exceeded_at: datetime | None = None
    projected_at: datetime | None = None
    projection_cleared_at: datetime | None = None
    events: int = 0


class Event(NamedTuple):
    """The `number`th alert of a budget in a period."""

    number: int
    level: Level
    turn: Turn


def judge(
    budget: Budget,
    before: Standing | None,
    period: Span,
    used: Decimal,
    projected: Decimal | None,
    at: datetime,
) -> tuple[Standing, list[Event]]:
    """How the budget stands now, and what there is to tell.

    Each level is raised once a period, and again only if late data took it back first. The
    projection is not asked of a period that is over (`projected` None) or a budget that is used up.
    """
    then = before or Standing(period.start, period.end, used)
    now = replace(
        then,
        used=used,
        projected=projected,
        warned_at=_since(then.warned_at, used >= WARNED_AT * budget.limit, at),
        exceeded_at=_since(then.exceeded_at, used >= budget.limit, at),
    )
    turns: list[tuple[Level, Turn]] = []
    for level, earlier, since in (
        (Level.WARNED, then.warned_at, now.warned_at),
        (Level.EXCEEDED, then.exceeded_at, now.exceeded_at),
    ):
        if (earlier is None) != (since is None):
            turns.append((level, Turn.CLEARED if since is None else Turn.RAISED))
    if projected is not None and now.exceeded_at is None:
        if now.projected_at is None and projected > budget.limit:
            turns.append((Level.PROJECTED, Turn.RAISED))
            now = replace(now, projected_at=at)
        elif (
            now.projected_at is not None
            and now.projection_cleared_at is None
            and projected < PROJECTION_CLEARED_AT * budget.limit
        ):
            turns.append((Level.PROJECTED, Turn.CLEARED))
            now = replace(now, projection_cleared_at=at)
    events = [Event(then.events + number, *turn) for number, turn in enumerate(turns, 1)]
    return replace(now, events=then.events + len(turns)), events


def _since(raised_at: datetime | None, reached: bool, at: datetime) -> datetime | None:
    if not reached:
        return None
    return raised_at or at
