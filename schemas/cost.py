"""What a home's electricity costs while it runs, and how its budgets stand.

Money and kWh are decimal strings: exact, without an exponent. Instants are RFC 3339 in UTC.
"""

from datetime import datetime
from enum import StrEnum

import msgspec


class CostState(StrEnum):
    """Whether a home's cost is known, and what keeps it from being known."""

    RUNNING = "running"
    NO_CONTRACT = "no_contract"  # no tariff holds for the cycle of now
    NO_METER = "no_meter"  # no channel, or more than one for the same energy, counts for it
    NO_ENERGY = "no_energy"  # its meters have no complete quarter hour yet
    NOT_RATED = "not_rated"  # its tariff does not know the rates, or needs what is not known


class Method(StrEnum):
    """What the hours to come are projected from; each takes the last 28 days."""

    WEEKDAY_HOUR = "weekday_hour"  # the mean of the same hour of the same day of the week
    HOUR = "hour"  # the mean of the same hour of any day, where a weekday has not been seen yet
    MEAN = "mean"  # the mean of all quarter hours, where an hour has not been seen yet


class Amount(msgspec.Struct, frozen=True):
    """What `[start_at, end_at)` used and costs, in the currency of the home's tariff.

    `with_service` is the bill of the ledger until its end less the bill of the ledger until its
    start; what the bill of no energy at all would be (service, minimum, their tax) falls due at
    the start of a cycle. `cost` leaves that out.
    """

    start_at: datetime
    end_at: datetime
    energy_kwh: str
    export_kwh: str
    cost: str
    with_service: str


class Projected(Amount, frozen=True):
    """A whole cycle as it will be if the hours to come are like those of the last weeks.

    `assumed_prices` is how many of its quarter hours have no spot price yet: each takes the mean
    of the same time of day of the last seven days.
    """

    method: Method
    assumed_prices: int = 0


class BudgetPeriod(StrEnum):
    """What a budget is for: civil days and months of the home's zone, or its billing cycles."""

    DAY = "day"
    MONTH = "month"
    CYCLE = "cycle"


class BudgetStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one budget stands in the period of now.

    `unit` is a currency (absent without a contract) or `kWh`. A day's money is without service,
    that of a month or cycle with it. `problem` says why `used` or `projected` is not known.
    """

    budget_id: int
    name: str
    period: BudgetPeriod
    limit: str
    unit: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    used: str | None = None
    projected: str | None = None
    warned: bool = False
    exceeded: bool = False
    projected_to_exceed: bool = False
    problem: str | None = None


class HomeCost(msgspec.Struct, omit_defaults=True):
    """The running cost of a home at `at`, the end of its newest complete quarter hour.

    `quarter`, `today` and `cycle` end at `at`; `cycle.with_service` is the bill of the cycle's
    ledger until then, to the smallest unit. `missing_quarters` of the cycle have no energy: no
    meter spoke. In any other state than `running` the amounts are absent and `problem` says what
    to do. `not_projected` says why `projected` is absent. Keep the highest `revision` of a home.
    """

    home_id: str
    state: CostState
    at: datetime | None = None
    problem: str | None = None
    tariff_id: str | None = None
    currency: str | None = None
    month: str | None = None
    quarter: Amount | None = None
    today: Amount | None = None
    cycle: Amount | None = None
    projected: Projected | None = None
    not_projected: str | None = None
    missing_quarters: int = 0
    budgets: list[BudgetStatus] = msgspec.field(default_factory=list)
    revision: int = 0


NOT_SEEN = "the cost process has not seen the home yet; ask again in a second"
"""The `problem` of a home that was set up just now."""


class Level(StrEnum):
    """What a budget's alert is about."""

    WARNED = "warned"  # 80 % used
    EXCEEDED = "exceeded"  # 100 % used
    PROJECTED = "projected"  # it will be exceeded if the period goes on like the last weeks


class Turn(StrEnum):
    """What became of an alert."""

    RAISED = "raised"
    CLEARED = "cleared"  # late data, or a greater budget, took it back


class BudgetAlert(msgspec.Struct):
    """A budget reached a level, or late data took that back; as on `energy.alert.v1`.

    `alert_id` is the event's own and the same however often it is delivered: drop what you have
    seen. An alert that is not cleared ends with its period.
    """

    alert_id: str
    home_id: str
    budget_id: int
    name: str
    level: Level
    turn: Turn
    at: datetime
    period: BudgetPeriod
    start_at: datetime
    end_at: datetime
    limit: str
    unit: str
    used: str
    projected: str | None = None
    kind: str = "budget"
