"""`meterstream tariffs`: which are known, what they say, and your own. It asks no server."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.rows import Json, tell

if TYPE_CHECKING:
    from streams.tariffs.catalogue import Catalogue
    from streams.tariffs.month import Month

File = Annotated[Path, typer.Argument(metavar="FILE")]


def register(app: typer.Typer) -> None:
    tariffs = typer.Typer(no_args_is_help=True, help="Tariffs that are known, and your own.")
    tariffs.command("list")(list_tariffs)
    tariffs.command("show")(show_tariff)
    tariffs.command("check")(check_file)
    tariffs.command("import-urdb")(import_urdb)
    app.add_typer(tariffs, name="tariffs")


def list_tariffs(as_json: Json = False) -> None:
    """List the tariffs that come with Meterstream, and those of METERSTREAM_TARIFFS_DIR."""
    from infra.cli.endings import told
    from streams.tariffs.loading import known_tariffs

    with told():
        _tell(known_tariffs(), known_tariffs().ids, as_json)


def show_tariff(
    tariff: Annotated[str, typer.Argument(metavar="ID", help="As mea-1.2.")],
    month: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="Default: this month.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a tariff costs in a billing month: its prices, times, charges and taxes."""
    from infra.cli.endings import told
    from streams.tariffs.loading import known_tariffs
    from streams.tariffs.shown import rates_of_month

    with told():
        catalogue = known_tariffs()
        asked = _this_month(catalogue, tariff) if month is None else _month(month)
        document: dict[str, Any] = rates_of_month(catalogue, tariff, asked)
    print(json.dumps(document, ensure_ascii=False)) if as_json else _print(document)


def check_file(file: File, as_json: Json = False) -> None:
    """Check a TOML or JSON file of tariffs beside all that are known; nothing is changed.

    Exit 65 with tariff, field and remedy if it contradicts itself or names what is not there.
    """
    from infra.cli.endings import told
    from streams.tariffs.loading import tariffs_in

    with told():
        catalogue, ids = tariffs_in(file)
        _tell(catalogue, ids, as_json)


def import_urdb(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of the records.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="A new file.")],
    zone: Annotated[str, typer.Option("--zone", help="Of the utility, as America/Denver.")],
    tariff: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Of the one tariff. Default: urdb-LABEL."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make tariffs of records of the Utility Rate Database (OpenEI), and check them.

    In a file of METERSTREAM_TARIFFS_DIR they are known from the next start on. What would be
    billed wrongly is refused with exit 65, and no file is written.
    """
    from infra.cli.endings import told
    from streams.tariffs.errors import BadTariff
    from streams.tariffs.loading import beside_known, merged
    from streams.tariffs.urdb import document_of, id_of, records_of

    with told():
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadTariff(f"{file} cannot be read: {error}") from error
        records = records_of(file.name, text)
        if tariff is not None and len(records) > 1:
            raise BadTariff(f"--id {tariff} would name {len(records)} tariffs; leave it out")
        made = merged(
            document_of(record, tariff_id=tariff or id_of(record), zone=zone) for record in records
        )
        catalogue = beside_known(made)
        try:
            with out.open("x", encoding="utf-8") as stream:
                json.dump(made, stream, ensure_ascii=False, indent=1, default=str)
        except OSError as error:
            raise BadTariff(f"{out} cannot be written: {error}; name a new file") from error
        _tell(catalogue, sorted(made["tariffs"]), as_json)


def _tell(catalogue: "Catalogue", ids: list[str], as_json: bool) -> None:
    from streams.tariffs.shown import summary

    rows: list[dict[str, Any]] = [summary(catalogue, one) for one in ids]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    told = ("id", "title", "currency", "zone")
    tell([{name: row[name] for name in told} | {"known": _spans(row)} for row in rows], False)


def _spans(row: dict[str, Any]) -> str:
    spans = (f"{one['from']} until {one['until'] or 'now'}" for one in row["known"])
    return ", ".join(spans) or "none"


def _month(text: str) -> "Month":
    from streams.tariffs.month import Month

    try:
        return Month.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--month") from error


def _this_month(catalogue: "Catalogue", tariff: str) -> "Month":
    from streams.tariffs.month import Month

    today = datetime.now(catalogue.tariff(tariff).zone)
    return Month(today.year, today.month)


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{document['id']} {document['month']}: {document['title']}")
    console.print(f"valid {document['from']} until {document['until'] or 'now'}")
    if "source" in document:
        console.print(f"source: {document['source']}")
    tell(list(_priced(document)), False)
    for name, schedule in document["schedules"].items():
        console.print(f"{name}:")
        for window in schedule["windows"]:
            days = " ".join(window.get("days", ["every day"]))
            months = ", ".join(map(str, window.get("months", [])))
            told = f"  {window['period']}: {window['from']} to {window['to']}, {days}"
            console.print(f"{told}, months {months}" if months else told)
        for kind, day in schedule.get("holidays", {}).items():
            console.print(f"  holidays of the kind {kind} count as {day}")


def _priced(document: dict[str, Any]) -> Iterator[dict[str, object]]:
    """A row a price, in the order of the bill."""
    currency = document["currency"]
    if "energy" in document:
        yield from _blocks("energy", document["energy"], f"{currency}/kWh")
    if "spot" in document:
        market = document["spot"]
        yield {"what": "energy", "price": f"that of the market {market}", "per": f"{currency}/kWh"}
    for one in document["surcharges"]:
        what = f"surcharge {one['name']} ({one['customer']})"
        yield {"what": what, "price": one["price"], "per": f"{currency}/kWh"}
    for one in document["demand"]:
        per = f"{currency}/kW of {one['measuring_minutes']} minutes"
        yield from _blocks(one["name"], one, per)
    for one in document["fixed"]:
        yield {"what": one["name"], "price": one["price"], "per": f"{currency}/{one['per']}"}
    if "minimum" in document:
        yield {"what": "minimum", "price": document["minimum"], "per": f"{currency}/month"}
    if "export_credit" in document:
        price = document["export_credit"]["price"]
        yield {"what": "export credit", "price": price, "per": f"{currency}/kWh"}
    for one in document["taxes"]:
        yield {"what": one["name"], "price": one["rate"], "per": "of the subtotal"}


def _blocks(what: str, prices: dict[str, Any], per: str) -> Iterator[dict[str, object]]:
    for period, blocks in prices["periods"].items():
        above = "0"
        for block in blocks:
            up_to = block.get("up_to")
            row = {"what": f"{what} {period}", "above": above, "up to": up_to}
            yield row | {"price": block["price"], "per": per}
            above = up_to
