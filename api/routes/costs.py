"""What homes cost while the cycle runs, and their budgets."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from api import cost_models as models
from api.database import Reading, Writing
from api.routes.homes import HOME_ERRORS, HomeId
from schemas.cost import NOT_SEEN, BudgetPeriod, CostState, HomeCost
from sinks import budgets, contracts, costs

router = APIRouter(prefix="/api/v1", tags=["cost"])
MOST_ALERTS = 100


@router.get(
    "/homes/{home_id}/cost",
    operation_id="getCost",
    summary="Look at the running cost",
    responses=HOME_ERRORS,
)
def get_cost(home_id: HomeId, conn: Reading) -> models.HomeCost:
    """Of the last 15 minutes, today, the cycle so far, and the cycle as it will be."""
    contracts.find_home(conn, home_id)
    found = costs.cost_of(conn, home_id)
    if found is None:
        found = HomeCost(home_id, CostState.NO_ENERGY, problem=NOT_SEEN)
    return models.HomeCost.model_validate(_plain(found))


@router.get(
    "/homes/{home_id}/budgets",
    operation_id="listBudgets",
    summary="List budgets",
    responses=HOME_ERRORS,
)
def list_budgets(home_id: HomeId, conn: Reading) -> models.Budgets:
    """Each with how it stands, and the newest alerts."""
    contracts.find_home(conn, home_id)
    return _budgets(conn, home_id)


@router.put(
    "/homes/{home_id}/budgets",
    operation_id="setBudget",
    summary="Set a budget",
    responses=HOME_ERRORS,
)
def set_budget(home_id: HomeId, body: models.SetBudget, conn: Writing) -> models.Budgets:
    """Adds it, or replaces the one of that name; answers with all of them."""
    budgets.set_budget(
        conn,
        home_id,
        body.name,
        BudgetPeriod(body.period),
        amount=body.amount,
        energy_kwh=body.energy_kwh,
        valid_from=body.valid_from,
        valid_to=body.valid_to,
    )
    return _budgets(conn, home_id)


@router.delete(
    "/homes/{home_id}/budgets",
    operation_id="removeBudget",
    summary="Remove a budget",
    status_code=204,
    responses=HOME_ERRORS | {204: {"description": "It is gone, and its alerts with it."}},
)
def remove_budget(
    home_id: HomeId, name: Annotated[str, Query(max_length=200)], conn: Writing
) -> Response:
    budgets.remove_budget(conn, home_id, name)
    return Response(status_code=204)


def _budgets(conn: Reading, home_id: str) -> models.Budgets:
    found = costs.cost_of(conn, home_id)
    standing = {one.budget_id: one for one in (found.budgets if found else ())}
    items: list[dict[str, Any]] = [
        {
            "budget_id": one.budget_id,
            "name": one.name,
            "period": one.period.value,
            "amount": one.amount,
            "energy_kwh": one.energy_kwh,
            "valid_from": one.valid_from,
            "valid_to": one.valid_to,
            "status": _plain(standing.get(one.budget_id)),
        }
        for one in budgets.budgets(conn, home_id)
    ]
    alerts = [_plain(one) for one in costs.alerts_of(conn, home_id, MOST_ALERTS)]
    return models.Budgets.model_validate({"items": items, "alerts": alerts})


def _plain(said: object) -> Any:
    """As JSON has it, with instants as they are."""
    return msgspec.to_builtins(said, builtin_types=(datetime,))
