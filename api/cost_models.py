"""The shapes of questions and answers about running cost and budgets, as OpenAPI tells them.

Money and kWh are decimal strings, exact. Answers have the fields of `schemas.cost`.
"""

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from api.home_models import Exact, Question, Text
from api.models import Answer

PeriodName = Literal["day", "month", "cycle"]
MethodName = Literal["weekday_hour", "hour", "mean"]
StateName = Literal["running", "no_contract", "no_meter", "no_energy", "not_rated"]
LevelName = Literal["warned", "exceeded", "projected"]


class SetBudget(Question):
    """Of money (`amount`) or of energy: one of them."""

    name: Text = Field(examples=["Electricity"])
    period: PeriodName
    amount: Exact | None = Field(default=None, description="In the currency of the tariff.")
    energy_kwh: Exact | None = None
    valid_from: date | None = Field(
        default=None, description="Default: as it is; of a new budget today."
    )
    valid_to: date | None = Field(default=None, description="Exclusive. Null: until changed.")


class BudgetStatus(Answer):
    """How the budget stands in the period of now.

    A day's money is without service, that of a month or cycle with it.
    """

    budget_id: int
    name: str
    period: PeriodName
    limit: str
    unit: str | None = Field(default=None, examples=["THB", "kWh"])
    start_at: datetime | None = None
    end_at: datetime | None = None
    used: str | None = None
    projected: str | None = None
    warned: bool = Field(default=False, description="80 % are used.")
    exceeded: bool = Field(default=False, description="100 % are used.")
    projected_to_exceed: bool = False
    problem: str | None = Field(default=None, description="Why `used` or `projected` is not known.")


class Budget(Answer):
    budget_id: int
    name: str
    period: PeriodName
    amount: Exact | None
    energy_kwh: Exact | None
    valid_from: date
    valid_to: date | None
    status: BudgetStatus | None = Field(
        description="Null until the cost process has seen the budget, a second after it is set."
    )


class BudgetAlert(Answer):
    """As on `energy.alert.v1`."""

    alert_id: str
    home_id: str
    budget_id: int
    name: str
    level: LevelName
    turn: Literal["raised", "cleared"]
    at: datetime
    period: PeriodName
    start_at: datetime
    end_at: datetime
    limit: str
    unit: str
    used: str
    projected: str | None = None
    kind: Literal["budget"] = "budget"


class Budgets(Answer):
    items: list[Budget]
    alerts: list[BudgetAlert] = Field(description="The newest 100, the newest first.")


class Amount(Answer):
    """What `[start_at, end_at)` used and costs.

    `with_service` is the bill of the ledger until its end less that until its start. What a bill
    without any energy would be falls due at the start of a cycle; `cost` leaves it out.
    """

    start_at: datetime
    end_at: datetime
    energy_kwh: str
    export_kwh: str
    cost: str
    with_service: str


class Projected(Amount):
    """The whole cycle, if the hours to come are like those of the last 28 days."""

    method: MethodName
    assumed_prices: int = Field(
        default=0,
        description="Of its quarter hours: those without a spot price yet, which take the mean of "
        "the same time of day of the last seven days.",
    )


class HomeCost(Answer):
    """As on `energy.cost.v1`. In any other state than `running` the amounts are null."""

    home_id: str
    state: StateName
    at: datetime | None = Field(
        default=None, description="The end of the newest complete quarter hour."
    )
    problem: str | None = Field(default=None, description="What keeps the cost from being known.")
    tariff_id: str | None = None
    currency: str | None = None
    month: str | None = Field(default=None, description="The billing month of the cycle.")
    quarter: Amount | None = Field(default=None, description="The last 15 minutes.")
    today: Amount | None = None
    cycle: Amount | None = Field(default=None, description="Its `with_service` is the bill so far.")
    projected: Projected | None = None
    not_projected: str | None = Field(default=None, description="Why `projected` is null.")
    missing_quarters: int = Field(default=0, description="Of the cycle so far, without energy.")
    budgets: list[BudgetStatus] = Field(default=[])
    revision: int = 0
