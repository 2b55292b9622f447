"""`meterstream home` and `contract`: who is billed, and by which tariff."""

import json
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli import meters
from infra.cli.meters import meter_row, reading_row
from infra.cli.rate import decimal_of
from infra.cli.rows import HomeId, Json, database, instant_at, print_table, tell

if TYPE_CHECKING:
    from sinks.contracts import Home
    from streams.tariffs.contract import Contract


class HomeBuckets(StrEnum):
    QUARTER = "15m"
    DAY = "1d"
    CYCLE = "cycle"
    MONTH = "1mo"
    YEAR = "1y"


def register(app: typer.Typer) -> None:
    home, contract = (
        typer.Typer(no_args_is_help=True, help=text)
        for text in (
            "Homes: their name and zone.",
            "What a home has agreed with its utility.",
        )
    )
    home.command("set")(set_home)
    home.command("show")(show_home)
    home.command("list")(list_homes)
    home.command("usage")(home_usage)
    contract.command("set")(set_contract)
    contract.command("list")(list_contracts)
    contract.command("remove")(remove_contract)
    app.add_typer(home, name="home")
    app.add_typer(contract, name="contract")
    meters.mount(app)


# ---------------------------------------------------------------- homes


def set_home(
    home: HomeId,
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", help="As Asia/Bangkok, which a new home has.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set up a home, or change it; what is not said stays."""
    from sinks import contracts

    with database() as conn:
        tell([_home(contracts.set_home(conn, home, name=name, zone=zone))], as_json, one=True)


def show_home(home: HomeId, as_json: Json = False) -> None:
    """Show a home with its contracts, meters and readings of the utility's meter."""
    from sinks import contracts, home_meters, utility_readings

    with database() as conn:
        found = contracts.find_home(conn, home)
        held = [_contract(one) for one in contracts.contracts(conn, home)]
        counted = [meter_row(one) for one in home_meters.list_meters(conn, home)]
        read = [reading_row(one) for one in utility_readings.readings(conn, home)]
    if as_json:
        parts = {"contracts": held, "meters": counted, "utility_readings": read}
        print(json.dumps(_home(found) | parts, ensure_ascii=False))
        return
    for rows in ([_home(found)], held, counted, read):
        print_table(rows)


def list_homes(as_json: Json = False) -> None:
    """List the homes that are set up."""
    from sinks import contracts

    with database() as conn:
        tell([_home(one) for one in contracts.list_homes(conn)], as_json)


def home_usage(
    home: HomeId,
    from_: Annotated[
        str, typer.Option("--from", metavar="T", help="RFC 3339; without offset in home time.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="T", help="Exclusive.")],
    bucket: Annotated[
        HomeBuckets, typer.Option("--bucket", help="Days, months, years in the home's zone.")
    ] = HomeBuckets.DAY,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show the ledger of a home by whole buckets that touch [--from, --to)."""
    from sinks import contracts, utility_readings
    from sinks import home_usage as ledger
    from streams.analysis.document import document

    with database() as conn:
        found = contracts.find_home(conn, home)
        zone = found.zone_info
        start, end = instant_at(from_, zone, "--from"), instant_at(to, zone, "--to")
        rows = ledger.home_usage(conn, found, bucket.value, start, end)
        beside = utility_readings.differences(conn, home, rows[0].start, rows[-1].end)
    if as_csv:
        print(ledger.csv_of(rows, zone, beside), end="")
    elif as_json:
        print(json.dumps(document(rows)))
    else:
        shown = [ledger.cells(row, zone) for row in rows]
        shown += [ledger.difference_cells(one, zone) for one in beside if one.import_ is not None]
        print_table([dict(zip(ledger.CSV_COLUMNS, row, strict=True)) for row in shown])


# ---------------------------------------------------------------- contracts


def set_contract(
    home: HomeId,
    tariff: Annotated[str, typer.Option("--tariff", metavar="ID", help="As mea-1.2.")],
    valid_from: Annotated[
        str, typer.Option("--from", metavar="DATE", help="For cycles that begin then or later.")
    ],
    ampere: Annotated[
        Decimal | None,
        typer.Option("--ampere", parser=decimal_of, metavar="A", help="Size of the meter, as 15."),
    ] = None,
    cycle_day: Annotated[
        int | None,
        typer.Option(
            "--cycle-day", metavar="D", help="The meter is read then. Default: as before, else 1."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a contract, or replace the one that begins on that day."""
    from sinks import contracts
    from streams.tariffs.contract import Contract
    from streams.tariffs.loading import known_tariffs

    day = _date(valid_from)
    with database() as conn:
        held = contracts.contracts(conn, home)
        if cycle_day is None:
            cycle_day = held[0].cycle_day if held else 1
        contract = Contract(tariff, day, cycle_day, ampere)
        contracts.set_contract(conn, home, contract, known_tariffs())
        tell([_contract(one) for one in contracts.contracts(conn, home)], as_json)


def list_contracts(home: HomeId, as_json: Json = False) -> None:
    """List the contracts of a home."""
    from sinks import contracts

    with database() as conn:
        contracts.find_home(conn, home)
        tell([_contract(one) for one in contracts.contracts(conn, home)], as_json)


def remove_contract(
    home: HomeId,
    valid_from: Annotated[str, typer.Option("--from", metavar="DATE", help="Its first day.")],
) -> None:
    """Remove a contract that was set by mistake."""
    from sinks import contracts

    with database() as conn:
        contracts.remove_contract(conn, home, _date(valid_from))


def _home(home: "Home") -> dict[str, object]:
    return {"home_id": home.home_id, "name": home.name, "zone": home.zone}


def _contract(contract: "Contract") -> dict[str, object]:
    return {
        "valid_from": contract.valid_from.isoformat(),
        "tariff_id": contract.tariff_id,
        "cycle_day": contract.cycle_day,
        "ampere_a": None if contract.ampere_a is None else f"{contract.ampere_a:f}",
    }


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r:.40} is no date; write 2026-02-01", param_hint="--from"
        ) from error
