"""`meterstream analyse`: what a home's ledger tells; `carbon`: the emission factors for it."""

import json
from decimal import Decimal
from typing import Annotated, Any

import typer

from infra.cli.rate import decimal_of
from infra.cli.rows import HomeId, Json, database, instant_at, print_table, tell


def register(app: typer.Typer) -> None:
    app.command("analyse")(analyse)
    carbon = typer.Typer(no_args_is_help=True, help="Emission factors of the grid, by month.")
    carbon.command("set")(set_factor)
    carbon.command("list")(list_factors)
    app.add_typer(carbon, name="carbon")


def analyse(
    home: HomeId,
    from_: Annotated[
        str, typer.Option("--from", metavar="T", help="RFC 3339; without offset in home time.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="T", help="Exclusive.")],
    region: Annotated[str, typer.Option("--region", help="Whose emission factors.")] = "TH",
    tariff: Annotated[
        str | None, typer.Option("--tariff", metavar="ID", help="Whose peak hours.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show demand, peak hours, circuits, carbon and own production of a home.

    What cannot be told says why, in place of its figures.
    """
    from sinks import home_analyses as analyses
    from sinks.contracts import HomeError, find_home, ledger_of
    from streams.tariffs.errors import TariffError

    with database() as conn:
        zone = find_home(conn, home).zone_info
        start, end = instant_at(from_, zone, "--from"), instant_at(to, zone, "--to")
        ledger_of(conn, home, start, end)  # without one there is nothing to analyse
        found: dict[str, Any] = {
            "demand": analyses.demand_of(conn, home, start, end),
            "peaks": analyses.peaks_of(conn, home, start, end, tariff),
            "circuits": analyses.circuits_of(conn, home, start, end),
        }
        try:
            found["carbon"] = analyses.carbon_of(conn, home, start, end, region)
        except TariffError as error:
            found["carbon"] = {"missing": str(error)}
        try:
            found["solar"] = analyses.solar_of(conn, home, start, end)
        except HomeError as error:
            found["solar"] = {"missing": str(error)}
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(found)


def set_factor(
    region: Annotated[str, typer.Argument(metavar="REGION", help="As TH.")],
    month: Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-02.")],
    g_per_kwh: Annotated[
        Decimal, typer.Argument(parser=decimal_of, metavar="G", help="Grams of CO2e a kWh.")
    ],
    source: Annotated[str, typer.Option("--source", metavar="S", help="Who says so.")],
) -> None:
    """Enter the emission factor of a month, or correct it."""
    from sinks import emissions
    from streams.tariffs.month import Month

    try:
        of_month = Month.parse(month)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="MONTH") from error
    with database() as conn:
        emissions.set_factor(conn, emissions.RegionFactor(region, of_month, g_per_kwh, source))


def list_factors(
    region: Annotated[str | None, typer.Argument(metavar="[REGION]")] = None, as_json: Json = False
) -> None:
    """List the emission factors that are known."""
    from sinks import emissions

    with database() as conn:
        found = emissions.list_factors(conn, region)
    rows: list[dict[str, object]] = [
        {
            "region": one.region,
            "month": str(one.month),
            "g_per_kwh": f"{one.g_per_kwh:f}",
            "source": one.source,
        }
        for one in found
    ]
    tell(rows, as_json)


def _print(found: dict[str, Any]) -> None:
    demand, peaks = found["demand"], found["peaks"]
    print_table(
        [
            {"span": one["span"]["label"], **{k: v for k, v in one.items() if k != "span"}}
            for one in [*demand["months"], demand["whole"]]
        ]
    )
    for part in ("hours", "weekdays", "periods"):
        print_table(peaks[part] or [])
    print_table(found["circuits"]["circuits"])
    carbon = found["carbon"]
    months = [
        one | {"factor": f"{one['factor']['g_per_kwh']} g/kWh"} for one in carbon.get("months", [])
    ]
    print_table(months or [carbon])
    print_table([found["solar"]])
