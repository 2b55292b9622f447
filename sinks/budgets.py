"""Budgets of homes: what people set, and how they stand."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg

from schemas.cost import BudgetPeriod
from sinks.contracts import HomeError, find_home
from streams.cost.budgets import Budget

Connection = psycopg.Connection[Any]
_LONGEST_NAME = 100
_MOST = Decimal(10) ** 12


class BadBudget(HomeError):
    """A budget that cannot be: the text says what to change."""


class UnknownBudget(HomeError):
    """The home has no budget of this name."""


_COLUMNS = "budget_id, name, period, amount, energy_kwh, valid_from, valid_to"


def set_budget(
    conn: Connection,
    home_id: str,
    name: str,
    period: BudgetPeriod,
    *,
    amount: Decimal | None = None,
    energy_kwh: Decimal | None = None,
    valid_from: date | None = None,
    valid_to: date | None = None,
) -> Budget:
    """Set the home's budget of this name; the same again changes nothing.

    `valid_from` None: as it is, of a new one today in the home's zone. Another period, or energy in
    place of money, is another budget: its alerts begin anew. Raises UnknownHome and BadBudget.
    """
    _check(name, amount, energy_kwh)
    with conn.transaction():
        home = find_home(conn, home_id, lock=True)
        before = next((one for one in budgets(conn, home_id) if one.name == name), None)
        if valid_from is None:
            today = datetime.now(UTC).astimezone(home.zone_info).date()
            valid_from = today if before is None else before.valid_from
        if valid_to is not None and valid_to <= valid_from:
            raise BadBudget(f"the budget ends on {valid_to}, before {valid_from}; give a later day")
        wanted = (name, period, amount, energy_kwh, valid_from, valid_to)
        if before is not None and wanted == _columns(before):
            return before
        if before is not None and _kind(before) != (period, amount is None):
            conn.execute("DELETE FROM budget WHERE budget_id = %s", [before.budget_id])
        row = conn.execute(
            f"""
            INSERT INTO budget (home_id, name, period, amount, energy_kwh, valid_from, valid_to)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (home_id, name) DO UPDATE
            SET amount = excluded.amount, energy_kwh = excluded.energy_kwh,
                valid_from = excluded.valid_from, valid_to = excluded.valid_to
            RETURNING {_COLUMNS}""",
            (home_id, *wanted),
        ).fetchone()
    assert row is not None
    return _budget(row)


def remove_budget(conn: Connection, home_id: str, name: str) -> None:
    """Its alerts end with it. Raises UnknownHome and UnknownBudget."""
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        gone = conn.execute(
            "DELETE FROM budget WHERE home_id = %s AND name = %s", [home_id, _text(name)]
        )
        if not gone.rowcount:
            raise UnknownBudget(
                f"home {home_id!r} has no budget {name!r:.60}; see `meterstream budget list`"
            )


def budgets(conn: Connection, home_id: str) -> list[Budget]:
    """All of a home, by name; none for a home that is not set up."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM budget WHERE home_id = %s ORDER BY name", [home_id]
    )
    return [_budget(row) for row in rows]


def _check(name: str, amount: Decimal | None, energy_kwh: Decimal | None) -> None:
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise BadBudget(f"{name!r:.60} is no name; give a short printable text")
    if (amount is None) == (energy_kwh is None):
        raise BadBudget("a budget is of money or of energy; give an amount or kWh, one of them")
    limit = amount if energy_kwh is None else energy_kwh
    assert limit is not None
    if not limit.is_finite() or not 0 < limit < _MOST:
        raise BadBudget(f"{limit} is no budget; give a number above 0")


def _text(value: str) -> str:
    return value.replace("\0", "")


def _budget(row: Sequence[Any]) -> Budget:
    budget_id, name, period, *rest = row
    return Budget(budget_id, name, BudgetPeriod(period), *rest)


def _columns(one: Budget) -> tuple[object, ...]:
    return (one.name, one.period, one.amount, one.energy_kwh, one.valid_from, one.valid_to)


def _kind(one: Budget) -> tuple[BudgetPeriod, bool]:
    return one.period, one.amount is None
