"""`meterstream cost` and `meterstream budget`: what a home costs now, and what it may cost."""

import json
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.rate import decimal_of
from infra.cli.rows import HomeId, Json, database, tell

if TYPE_CHECKING:
    import psycopg

    from streams.cost.budgets import Budget


class Per(StrEnum):
    DAY = "day"
    MONTH = "month"
    CYCLE = "cycle"


Name = Annotated[str, typer.Argument(metavar="NAME", help="What the budget is called.")]
Quantity = Annotated[Decimal | None, typer.Option(parser=decimal_of, metavar="X")]


def register(app: typer.Typer) -> None:
    budget = typer.Typer(no_args_is_help=True, help="What a home may use, and how it stands.")
    budget.command("set")(set_budget)
    budget.command("list")(list_budgets)
    budget.command("remove")(remove_budget)
    app.add_typer(budget, name="budget")
    app.command("cost")(cost)


def cost(home: HomeId, as_json: Json = False) -> None:
    """Show what a home costs: the last 15 minutes, today, the cycle so far and as it will be."""
    from schemas.cost import NOT_SEEN, CostState, HomeCost
    from sinks import contracts, costs

    with database() as conn:
        contracts.find_home(conn, home)
        document = _plain(
            costs.cost_of(conn, home) or HomeCost(home, CostState.NO_ENERGY, problem=NOT_SEEN)
        )
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
        return
    parts = ("quarter", "today", "cycle", "projected")
    rows = [{"": name, **document[name]} for name in parts if document.get(name)]
    print(document.get("problem") or f"{document['tariff_id']} {document['currency']}")
    tell(rows, False)
    if document.get("not_projected"):
        print(f"not projected: {document['not_projected']}")


def set_budget(
    home: HomeId,
    name: Name,
    per: Annotated[Per, typer.Option("--per", help="Civil days and months, or billing cycles.")],
    amount: Quantity = None,
    kwh: Quantity = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="DATE", help="Default: as it is; of a new one today."),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Exclusive.")] = None,
    as_json: Json = False,
) -> None:
    """Set a budget, or change the one of that name: --amount of money, or --kwh."""
    from schemas.cost import BudgetPeriod
    from sinks import budgets

    with database() as conn:
        budgets.set_budget(
            conn,
            home,
            name,
            BudgetPeriod(per.value),
            amount=amount,
            energy_kwh=kwh,
            valid_from=_date(from_, "--from"),
            valid_to=_date(to, "--to"),
        )
        tell(_listed(conn, home), as_json)


def list_budgets(home: HomeId, as_json: Json = False) -> None:
    """List the budgets of a home and how they stand."""
    from sinks import contracts

    with database() as conn:
        contracts.find_home(conn, home)
        tell(_listed(conn, home), as_json)


def remove_budget(home: HomeId, name: Name, as_json: Json = False) -> None:
    """Remove a budget; its alerts end with it."""
    from sinks import budgets

    with database() as conn:
        budgets.remove_budget(conn, home, name)
        tell(_listed(conn, home), as_json)


def _date(text: str | None, option: str) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r:.40} is no date; write 2026-02-01", param_hint=option
        ) from error


def _listed(conn: "psycopg.Connection[Any]", home: str) -> list[dict[str, object]]:
    from sinks import budgets, costs

    found = costs.cost_of(conn, home)
    standing = {one.budget_id: one for one in (found.budgets if found else ())}
    return [_document(one) | _stands(standing, one) for one in budgets.budgets(conn, home)]


def _document(budget: "Budget") -> dict[str, object]:
    return {
        "budget_id": budget.budget_id,
        "name": budget.name,
        "period": budget.period.value,
        "amount": None if budget.amount is None else f"{budget.amount:f}",
        "energy_kwh": None if budget.energy_kwh is None else f"{budget.energy_kwh:f}",
        "valid_from": budget.valid_from.isoformat(),
        "valid_to": budget.valid_to and budget.valid_to.isoformat(),
    }


def _stands(standing: dict[int, Any], budget: "Budget") -> dict[str, object]:
    """`used projected warned exceeded problem`, absent until the cost process has seen it."""
    shown = _plain(standing.get(budget.budget_id)) or {}
    kept = ("unit", "used", "projected", "warned", "exceeded", "problem")
    return {key: shown[key] for key in kept if key in shown}


def _plain(said: object) -> Any:
    import msgspec

    return msgspec.to_builtins(said)
