"""`meterstream meter`: which channels count for a home, and what the utility's own meter says."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.rate import decimal_of
from infra.cli.rows import HomeId, Json, database, instant_at, print_table, tell

if TYPE_CHECKING:
    import psycopg

    from sinks.home_meters import HomeMeter
    from sinks.utility_readings import Difference, UtilityReading


class MeterRole(StrEnum):
    GRID = "grid"
    PRODUCTION = "production"


Channel = Annotated[
    str,
    typer.Argument(metavar="DEVICE[/CHANNEL]", help="Without a channel: total, or the only one."),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="T", help="On a quarter hour; without offset in home time."),
]


def mount(app: typer.Typer) -> None:
    meter = typer.Typer(
        no_args_is_help=True,
        help="The channels that count for a home, and readings of the utility's own meter.",
    )
    meter.command("set")(set_meter)
    meter.command("list")(list_meters)
    meter.command("remove")(remove_meter)
    meter.command("read")(read_meter)
    meter.command("readings")(list_readings)
    app.add_typer(meter, name="meter")


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
            valid_from=None if from_ is None else instant_at(from_, zone, "--from"),
            valid_to=None if to is None else instant_at(to, zone, "--to"),
        )
        tell([meter_row(one) for one in home_meters.list_meters(conn, home)], as_json)


def list_meters(home: HomeId, as_json: Json = False) -> None:
    """List the channels that count for a home."""
    from sinks import contracts, home_meters

    with database() as conn:
        contracts.find_home(conn, home)
        tell([meter_row(one) for one in home_meters.list_meters(conn, home)], as_json)


def remove_meter(home: HomeId, channel: Channel, from_: From = None) -> None:
    """Forget that a channel ever counted; to end it, set its --to."""
    from sinks import contracts, home_meters

    with database() as conn:
        zone = contracts.find_home(conn, home).zone_info
        device, name = home_meters.device_and_channel(conn, channel)
        start = None if from_ is None else instant_at(from_, zone, "--from")
        home_meters.remove_meter(conn, home, device, name, start)


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
        read_at = instant_at(at, contracts.find_home(conn, home).zone_info, "--at")
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

    read = [reading_row(one) for one in utility_readings.readings(conn, home)]
    compared = utility_readings.differences(conn, home)
    if as_json:
        from streams.analysis.document import document

        print(json.dumps({"items": read, "differences": document(compared)}, ensure_ascii=False))
        return
    print_table(read)
    print_table([_difference(one) for one in compared])


def meter_row(meter: "HomeMeter") -> dict[str, object]:
    return {
        "device_id": meter.device_id,
        "address": meter.address,
        "device_name": meter.device_name,
        "channel": meter.channel,
        "role": meter.role,
        "valid_from": meter.valid_from.astimezone(UTC).isoformat(),
        "valid_to": meter.valid_to and meter.valid_to.astimezone(UTC).isoformat(),
    }


def reading_row(reading: "UtilityReading") -> dict[str, object]:
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
