"""`meterstream bill` and `meterstream compare`: what a home's own ledger costs."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.usage import instant_of
from streams.billing.words import Language

if TYPE_CHECKING:
    import psycopg

    from sinks.bill_reading import Asked
    from sinks.contracts import HomeLedger
    from sinks.registry import DeviceRow
    from streams.tariffs.contract import Contract
    from streams.tariffs.month import Month

LEAST_WIDTH = 120

Subject = Annotated[
    str, typer.Argument(help="A home's id, or a device's name, address or id.", metavar="HOME")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    app.command("bill")(bill)
    app.command("compare")(compare)


def bill(
    home: Subject,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The billing month.")],
    tariff: Annotated[
        str | None,
        typer.Option("--tariff", metavar="ID", help="As it would be under this one."),
    ] = None,
    version: Annotated[int | None, typer.Option("--version", min=1)] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="T", help="As it was known then.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the lines as CSV.")] = False,
    pdf: Annotated[
        Path | None, typer.Option("--pdf", metavar="FILE", help="Write a page for people.")
    ] = None,
    lang: Annotated[Language, typer.Option("--lang", help="Of the page.")] = Language.THAI,
) -> None:
    """Show the bill of a home's cycle: the newest that was issued, else a draft.

    A device that is no home's meter is billed by --tariff, on its own energy of the month.
    """
    from infra.cli.endings import told
    from streams.billing.page import bill_pdf
    from streams.billing.table import bill_csv
    from streams.tariffs.loading import known_tariffs
    from streams.tariffs.month import Month

    try:
        billing_month = Month.parse(month)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--month") from error
    if tariff is not None and (version is not None or as_of is not None):
        raise typer.BadParameter(
            "another tariff makes a draft, which has no versions; leave out one of them",
            param_hint="--tariff",
        )
    with told(), _snapshot() as conn:
        found = _asked(conn, home, billing_month, tariff, version, as_of)
        front = found.front(known_tariffs(), lang is Language.THAI)
    if pdf is not None:
        try:
            pdf.write_bytes(bill_pdf(found.document, front, lang))
        except OSError as error:
            raise typer.BadParameter(
                f"{pdf} cannot be written: {error.strerror}; name another file", param_hint="--pdf"
            ) from error
    if as_json:
        print(json.dumps(found.told(), ensure_ascii=False))
    elif as_csv:
        print(bill_csv(found.document), end="")
    else:
        _print_bill(found)


def compare(
    home: Subject,
    from_: Annotated[
        str, typer.Option("--from", metavar="T", help="A date, or RFC 3339; on a quarter hour.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="T", help="Exclusive.")],
    tariffs: Annotated[
        str | None,
        typer.Option("--tariffs", metavar="A,B,C", help="All that know the time if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the energy of [--from, --to) costs by several tariffs, cheapest first, and why."""
    from infra.cli.endings import told
    from sinks.bill_reading import home_or_device
    from sinks.contracts import Home, contracts, ledger_of
    from sinks.spot_prices import prices_by_market
    from streams.billing import what_if
    from streams.tariffs.errors import NotKnown
    from streams.tariffs.loading import known_tariffs

    with told(), _snapshot() as conn:
        catalogue = known_tariffs()
        wanted = catalogue.ids if tariffs is None else [one.strip() for one in tariffs.split(",")]
        subject = home_or_device(conn, home)
        zone = ZoneInfo(subject.zone)
        start, end = instant_of(from_, zone, "--from"), instant_of(to, zone, "--to")
        held: list[Contract] = []
        if isinstance(subject, Home):
            held = contracts(conn, subject.home_id)
            found = ledger_of(conn, subject.home_id, start, end)
        else:
            found = _device_ledger(conn, subject, start, end)
        spot = prices_by_market(conn, catalogue, wanted, start, end)
        offers = what_if.compare(catalogue, wanted, found.ledger, held, spot)
        if all(offer.unknown is not None for offer in offers):
            raise NotKnown(offers[0].unknown)
    if tariffs is None:
        offers = [offer for offer in offers if offer.unknown is None]
    rows = what_if.told(offers, found.ledger)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        _print_offers(rows)


def _snapshot() -> "psycopg.Connection[Any]":
    """A connection whose one transaction sees one instant and writes nothing."""
    import psycopg

    from schemas.connections import DatabaseConnection

    conn = psycopg.connect(DatabaseConnection().url)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.read_only = True
    return conn


def _asked(
    conn: "psycopg.Connection[Any]",
    text: str,
    month: "Month",
    tariff: str | None,
    version: int | None,
    as_of: str | None,
) -> "Asked":
    from sinks.bill_reading import device_bill, home_bill, home_or_device
    from sinks.contracts import Home
    from streams.tariffs.errors import BadUsage
    from streams.tariffs.loading import known_tariffs

    subject = home_or_device(conn, text)
    if isinstance(subject, Home):
        return home_bill(
            conn,
            known_tariffs(),
            subject.home_id,
            month,
            tariff_id=tariff,
            version=version,
            as_of=None if as_of is None else instant_of(as_of, subject.zone_info, "--as-of"),
        )
    if tariff is None:
        raise BadUsage(
            f"{text!r} is no home's meter, so it has no contract; give --tariff, or name it with "
            "`meterstream meter set`"
        )
    return device_bill(conn, known_tariffs(), subject, month, tariff)


def _device_ledger(
    conn: "psycopg.Connection[Any]", device: "DeviceRow", start: datetime, end: datetime
) -> "HomeLedger":
    from sinks.bill_drafts import device_ledger

    return device_ledger(conn, device, start, end)[0]


def _print_bill(found: "Asked") -> None:
    from rich.console import Console
    from rich.table import Table

    document, head = found.document, found.head
    console = Console(width=max(Console().width, LEAST_WIDTH))  # cut numbers would mislead
    version = f"version {head['version']}" if head["status"] == "issued" else "draft"
    console.print(f"{found.home_name} {document['month']}, {document['tariff']}: {version}")
    table = Table(box=None)
    table.add_column("line")
    for title in ("quantity", "price", document["currency"]):
        table.add_column(title, justify="right")
    for line in document["lines"]:
        quantity = f"{line['quantity']} {line['unit']}" if "quantity" in line else ""
        table.add_row(
            f"{line['kind']} {line['name']}", quantity, line.get("price", ""), line["amount"]
        )
        for part in line.get("parts", ()):
            share = f"{part['quantity']} {line['unit']}"
            table.add_row(f"  above {part['above']}", share, part["price"], "")
    table.add_row("total", "", "", document["total"])
    console.print(table)
    for name, one in document["by_quality"].items():
        console.print(f"{name}: {one['energy_kwh']} kWh in {one['quarter_hours']} quarter hours")


def _print_offers(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(Console().width, LEAST_WIDTH))
    table = Table(box=None)
    for title in ("tariff", "total", "", "why"):
        table.add_column(title, justify="right" if title == "total" else "left")
    for row in rows:
        total, why = row["total"] or "not known", row.get("reason") or row.get("error")
        table.add_row(str(row["tariff"]), str(total), str(row["currency"]), str(why))
    console.print(table)
