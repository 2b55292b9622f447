"""`meterstream utility-bill`: the bill that the utility sent, beside ours."""

import json
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from infra.cli.rows import HomeId, Json, database, tell


def register(app: typer.Typer) -> None:
    app.command("utility-bill")(utility_bill)


def utility_bill(
    home: HomeId,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")],
    lines: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LINE=X]...", help="As energy_kwh=345 ft=33.53 total=1464.47."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Enter the lines of the utility's bill that you have, and see them beside ours.

    Without lines those that were entered before; entering them again replaces them.
    """
    from sinks import bills
    from sinks.bill_reading import home_bill
    from sinks.contracts import find_home
    from streams.billing import utility
    from streams.tariffs.errors import BadUsage
    from streams.tariffs.loading import known_tariffs
    from streams.tariffs.month import Month

    try:
        billing_month = Month.parse(month)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--month") from error
    entered = dict(map(_line, lines or ()))
    with database() as conn:
        find_home(conn, home)
        if entered:
            utility.check_lines(entered)
            bills.keep_utility_bill(conn, home, billing_month, entered)
        known = bills.utility_bill(conn, home, billing_month)
        if known is None:
            raise BadUsage(
                f"nobody has entered the utility's bill of {billing_month}; "
                "give its lines, as energy_kwh=345 total=1464.47"
            )
        ours = home_bill(conn, known_tariffs(), home, billing_month)
        compared: dict[str, Any] = utility.beside_ours(known, ours.document)
    if as_json:
        print(json.dumps({"status": ours.head["status"], **compared}, ensure_ascii=False))
    else:
        tell(compared["lines"], False)
        print(compared["reason"])


def _line(text: str) -> tuple[str, Decimal]:
    name, _, amount = text.partition("=")
    try:
        return name, Decimal(amount)
    except InvalidOperation as error:
        raise typer.BadParameter(
            f"{text!r:.60} is no line; write LINE=X, as total=1464.47", param_hint="LINE=X"
        ) from error
