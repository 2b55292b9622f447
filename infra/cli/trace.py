"""`meterstream trace`: from a quarter hour of the ledger back to the bytes it was made of."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.registers import print_json
from infra.cli.usage import LEAST_WIDTH, instant_of
from schemas.usage import Quality

if TYPE_CHECKING:
    import psycopg

    from infra.tracing.bucket import BucketTrace, TracedReading

_PREVIEW_BYTES = 100


def register(app: typer.Typer) -> None:
    app.command("trace")(trace)


def trace(
    device: Annotated[
        str | None, typer.Argument(help="A name, address or id.", metavar="DEVICE")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="T", help="RFC 3339; without offset in the device's zone."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Else total, or the device's only one.")
    ] = None,
    bill: Annotated[
        int | None, typer.Option("--bill", metavar="ID", help="An issued bill, in place of DEVICE.")
    ] = None,
    line: Annotated[
        int, typer.Option("--line", metavar="N", min=1, help="Of the bill, from 1.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what the quarter hour that holds T was made of.

    Its minutes and gaps, the register segments and repairs behind them, the readings, and of each
    the partition, offset and original bytes in energy.raw.v1. With --bill first the quarter hours
    that its line counts, then the one that holds T (else the one of most energy).
    """
    if bill is not None:
        if device is not None:
            raise typer.BadParameter("give DEVICE or --bill, not both", param_hint="--bill")
        _trace_line(bill, line, at, as_json)
        return
    if device is None or at is None:
        raise typer.BadParameter("give DEVICE and --at, or --bill and --line")
    from infra.cli.endings import told
    from infra.tracing.bucket import ManyChannels, trace_bucket
    from infra.tracing.document import document
    from schemas.connections import KafkaConnection
    from sinks.registry import resolve_device

    with told(), _database() as conn:
        found = resolve_device(conn, device)
        zone = ZoneInfo(found.zone)
        instant = instant_of(at, zone, "--at")
        try:
            traced = trace_bucket(conn, KafkaConnection().bootstrap, found, channel, instant)
        except ManyChannels as error:
            print(f"meterstream: {error}", file=sys.stderr)
            raise typer.Exit(os.EX_DATAERR) from error
    if as_json:
        print_json(document(traced, zone))
    else:
        print_trace(traced, zone)


def _trace_line(bill: int, number: int, at: str | None, as_json: bool) -> None:
    from infra.cli.endings import told
    from infra.tracing.bill_line import trace_line
    from infra.tracing.bucket import trace_bucket
    from infra.tracing.document import document
    from schemas.connections import KafkaConnection
    from sinks.registry import resolve_device
    from streams.tariffs.loading import known_tariffs

    with told(), _database() as conn:
        found = trace_line(conn, known_tariffs(), bill, number)
        zone = ZoneInfo(found.bill.document["cycle"]["zone"])
        chosen = found.chosen(None if at is None else instant_of(at, zone, "--at"))
        traces = [
            trace_bucket(
                conn,
                KafkaConnection().bootstrap,
                resolve_device(conn, one.address),
                one.channel,
                one.start,
            )
            for one in chosen
        ]
    if as_json:
        print_json(found.document() | {"traces": [document(one, zone) for one in traces]})
        return
    print(
        f"bill {bill}, {found.bill.home_id} {found.bill.month:%Y-%m} version "
        f"{found.bill.version}, line {number}: {found.line['kind']} {found.line['name']} "
        f"{found.line['quantity']} {found.line['unit']} from {len(found.quarters)} quarter hours, "
        + ("which still add up to it" if found.agrees else "which have CHANGED since")
    )
    for traced in traces:
        print_trace(traced, zone)


def _database() -> "psycopg.Connection[Any]":
    """A connection that sees all tables at one instant."""
    import psycopg

    from schemas.connections import DatabaseConnection

    conn = psycopg.connect(DatabaseConnection().url)
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.read_only = True
    return conn


def print_trace(traced: "BucketTrace", zone: ZoneInfo) -> None:
    """The same for people: the sums, then each reading with the begin of its bytes."""
    from rich.console import Console
    from rich.table import Table

    from streams.repair_words import at_us, register_name, repair_of, told, wh

    console = Console(width=max(Console().width, LEAST_WIDTH), markup=False, highlight=False)
    rows, quarter = traced.rows, traced.rows.quarter
    assert quarter is not None
    name = traced.device.name or traced.device.address
    start = at_us(rows.start_us, zone)
    lines = [
        f"{name}, {traced.channel}, {start.isoformat()}: {wh(quarter.energy_uwh)} in, "
        f"{wh(quarter.export_uwh)} out, {Quality(quarter.quality).name.lower()}, "
        f"revision {quarter.revision}",
        f"{len(rows.minutes)} minutes sum to {wh(traced.minutes_uwh[0])} in; "
        f"{len(rows.gaps)} gaps give {wh(sum(share for share, _ in traced.gap_shares))}: "
        + ("the bucket" if traced.adds_up else "NOT the bucket"),
        "the minutes are what the readings say"
        if traced.minutes_follow
        else "the minutes are NOT what the readings say now",
    ]
    lines += [
        f"{register_name(one.is_export)} {at_us(one.segment.start_us, zone):%H:%M:%S}"
        f"–{at_us(one.segment.end_us, zone):%H:%M:%S} {wh(one.before_uwh)} → {wh(one.after_uwh)}: "
        f"{wh(one.segment.energy_uwh)}"
        for one in traced.segments
    ]
    lines += [f"repair: {told(repair_of(repair))}" for repair, _ in rows.repairs]
    for line in lines:
        console.print(line)
    table = Table("measured", "place", "bytes in the raw log", box=None)
    for one in (*traced.readings, *traced.conflicts):
        at = at_us(one.reading.measured_us, zone)
        place = f"{rows.part}:{one.reading.offset}"
        table.add_row(at.isoformat(timespec="milliseconds"), place, _bytes_of(one))
    console.print(table)


def _bytes_of(one: "TracedReading") -> str:
    if one.record is None:
        return one.missing or ""
    text = repr(one.record.value[:_PREVIEW_BYTES])[2:-1]
    return text if one.agrees else f"{text}  (does not decode to what is stored)"
