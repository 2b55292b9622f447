"""`meterstream home`, `contract`, `meter`: who is billed, by which tariff, for which channels."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.rate import decimal_of
from infra.cli.usage import instant_of

if TYPE_CHECKING:
    import psycopg

    from sinks.contracts import Home
    from sinks.home_meters import HomeMeter
    from sinks.utility_readings import Difference, UtilityReading
    from streams.tariffs.contract import Contract


class MeterRole(StrEnum):
    GRID = "grid"
    PRODUCTION = "production"


HomeId = Annotated[str, typer.Argument(metavar="HOME", help="The id of a home.")]
Channel = Annotated[
    str,
    typer.Argument(metavar="DEVICE[/CHANNEL]", help="Without a channel: total, or the only one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="T", help="On a quarter hour; without offset in home time."),
]


def register(app: typer.Typer) -> None:
    home, contract, meter = (
        typer.Typer(no_args_is_help=True, help=text)
        for text in (
            "Homes: their name and zone.",
            "What a home has agreed with its utility.",
            "The channels that count for a home, and readings of the utility's own meter.",
        )
    )
    home.command("set")(set_home)
    home.command("show")(show_home)
    contract.command("set")(set_contract)
    contract.command("list")(list_contracts)
    contract.command("remove")(remove_contract)
    meter.command("set")(set_meter)
    meter.command("list")(list_meters)
    meter.command("remove")(remove_meter)
    meter.command("read")(read_meter)
    meter.command("readings")(list_readings)
    app.add_typer(home, name="home")
    app.add_typer(contract, name="contract")
    app.add_typer(meter, name="meter")


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
        meters = [_meter(one) for one in home_meters.list_meters(conn, home)]
        read = [_reading(one) for one in utility_readings.readings(conn, home)]
    if as_json:
        parts = {"contracts": held, "meters": meters, "utility_readings": read}
        print(json.dumps(_home(found) | parts, ensure_ascii=False))
        return
    for rows in ([_home(found)], held, meters, read):
        print_table(rows)


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


# ---------------------------------------------------------------- meters


def set_meter(
    home: HomeId,
    channel: Channel,
    role: Annotated[MeterRole, typer.Option("--role", help="What passes through it.")],
    from_: From = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Exclusive; else until further notice.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a channel count for a home, or change its entry; without --from, since ever."""
    from sinks import contracts, home_meters

    with database() as conn:
        zone = contracts.find_home(conn, home).zone_info
        device, name = home_meters.device_and_channel(conn, channel)
        home_meters.set_meter(
            conn,
            home,
            device,
            name,
            role.value,
            valid_from=_instant(from_, zone, "--from"),
            valid_to=_instant(to, zone, "--to"),
        )
        tell([_meter(one) for one in home_meters.list_meters(conn, home)], as_json)


def list_meters(home: HomeId, as_json: Json = False) -> None:
    """List the channels that count for a home."""
    from sinks import contracts, home_meters

    with database() as conn:
        contracts.find_home(conn, home)
        tell([_meter(one) for one in home_meters.list_meters(conn, home)], as_json)


def remove_meter(home: HomeId, channel: Channel, from_: From = None) -> None:
    """Forget that a channel ever counted; to end it, set its --to."""
    from sinks import contracts, home_meters

    with database() as conn:
        zone = contracts.find_home(conn, home).zone_info
        device, name = home_meters.device_and_channel(conn, channel)
        home_meters.remove_meter(conn, home, device, name, _instant(from_, zone, "--from"))


def read_meter(
    home: HomeId,
    at: Annotated[
        str, typer.Option("--at", metavar="T", help="When it was read; else in home time.")
    ],
    kwh: Annotated[
        Decimal | None, typer.Option("--kwh", parser=decimal_of, metavar="X", help="Its register.")
    ] = None,
    export_kwh: Annotated[
        Decimal | None,
        typer.Option("--export-kwh", parser=decimal_of, metavar="Y", help="What was given."),
    ] = None,
    new_meter: Annotated[
        bool, typer.Option("--new-meter", help="The first reading of a meter that was put in.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Forget the reading of that instant.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enter what the utility's own meter says, and show it beside ours."""
    from sinks import contracts, utility_readings

    if (kwh is None) != remove:
        raise typer.BadParameter("give --kwh X, or --remove", param_hint="--kwh")
    with database() as conn:
        read_at = _instant(at, contracts.find_home(conn, home).zone_info, "--at")
        assert read_at is not None
        if kwh is None:
            utility_readings.remove_reading(conn, home, read_at)
        else:
            reading = utility_readings.UtilityReading(read_at, kwh, export_kwh, new_meter)
            utility_readings.enter_reading(conn, home, reading, datetime.now(UTC))
        _tell_readings(conn, home, as_json)


def list_readings(home: HomeId, as_json: Json = False) -> None:
    """List readings of the utility's meter, and how they differ from ours."""
    from sinks import contracts

    with database() as conn:
        contracts.find_home(conn, home)
        _tell_readings(conn, home, as_json)


def _tell_readings(conn: "psycopg.Connection[Any]", home: str, as_json: bool) -> None:
    from sinks import utility_readings

    read = [_reading(one) for one in utility_readings.readings(conn, home)]
    compared = utility_readings.differences(conn, home)
    if as_json:
        from streams.analysis.document import document

        print(json.dumps({"items": read, "differences": document(compared)}, ensure_ascii=False))
        return
    print_table(read)
    print_table([_difference(one) for one in compared])


# ---------------------------------------------------------------- how they are shown


@contextmanager
def database() -> "Iterator[psycopg.Connection[Any]]":
    import psycopg

    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection

    with told(), psycopg.connect(DatabaseConnection().url) as conn:
        yield conn


def _home(home: "Home") -> dict[str, object]:
    return {"home_id": home.home_id, "name": home.name, "zone": home.zone}


def _contract(contract: "Contract") -> dict[str, object]:
    return {
        "valid_from": contract.valid_from.isoformat(),
        "tariff_id": contract.tariff_id,
        "cycle_day": contract.cycle_day,
        "ampere_a": None if contract.ampere_a is None else f"{contract.ampere_a:f}",
    }


def _meter(meter: "HomeMeter") -> dict[str, object]:
    return {
        "device_id": meter.device_id,
        "address": meter.address,
        "device_name": meter.device_name,
        "channel": meter.channel,
        "role": meter.role,
        "valid_from": meter.valid_from.astimezone(UTC).isoformat(),
        "valid_to": meter.valid_to and meter.valid_to.astimezone(UTC).isoformat(),
    }


def _reading(reading: "UtilityReading") -> dict[str, object]:
    return {
        "read_at": reading.read_at.astimezone(UTC).isoformat(),
        "import_kwh": f"{reading.import_kwh:f}",
        "export_kwh": None if reading.export_kwh is None else f"{reading.export_kwh:f}",
        "is_new_meter": reading.is_new_meter,
    }


def _difference(one: "Difference") -> dict[str, object]:
    row: dict[str, object] = {
        "from": one.start.astimezone(UTC).isoformat(),
        "to": one.end.astimezone(UTC).isoformat(),
    }
    if one.import_ is None:
        return row | {"missing": one.missing}
    for name, side in (("", one.import_), ("export ", one.export)):
        if side is not None:
            row |= {
                f"{name}utility kWh": f"{side.utility_kwh:f}",
                f"{name}ours kWh": f"{side.ours_kwh:f}",
                f"{name}difference kWh": f"{side.difference_kwh:f}",
                f"{name}higher": side.higher,
                f"{name}%": "" if side.percent is None else f"{side.percent:f}",
            }
    return row


def tell(rows: Sequence[dict[str, object]], as_json: bool, *, one: bool = False) -> None:
    if as_json:
        print(json.dumps(rows[0] if one else rows, ensure_ascii=False))
    else:
        print_table(rows)


def print_table(rows: Sequence[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from infra.cli.usage import LEAST_WIDTH

    if not rows:
        return
    console = Console(width=max(Console().width, LEAST_WIDTH))
    table = Table(box=None)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*("" if row.get(title) is None else str(row[title]) for title in titles))
    console.print(table)


def _instant(text: str | None, zone: ZoneInfo, option: str) -> datetime | None:
    return None if text is None else instant_of(text, zone, option).astimezone(UTC)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r:.40} is no date; write 2026-02-01", param_hint="--from"
        ) from error
