"""`meterstream import`: a file of measurements into the raw log, with its own times."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from infra.household import Layout
    from infra.household.node import Node
    from infra.household.raw_log import RawLog
    from infra.household.survey import Survey
    from schemas.connections import DatabaseConnection, KafkaConnection

SHARD = "import"
SOURCE = "import"
FINAL_TIMEOUT_S = 600.0
SHOWN_EVERY = 1_000

File = Annotated[Path, typer.Argument(help="The file: plain, .gz or .zip.", metavar="FILE")]
Format = Annotated[str, typer.Option("--format", help="What the file is: refit or uci.")]
Device = Annotated[str, typer.Option("--device", help="The name that its device has or gets.")]
Zone = Annotated[str, typer.Option("--zone", help="Of the file's clock, like Europe/London.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Timeout = Annotated[
    float, typer.Option("--timeout", help="Seconds to wait until the usage is final.")
]


def register(app: typer.Typer) -> None:
    app.command("import")(import_)


@dataclass(frozen=True)
class Imported:
    """What an import came to. `kwh` is the ledger's, `file_kwh` the sum of the file's minutes."""

    device: str
    address: str
    start: str
    end: str
    rows: int
    missing: int
    absent: int
    absurd: int
    stored: int
    seconds: float
    kwh: float
    file_kwh: float
    warnings: list[str]


def import_(
    file: File,
    format: Format,
    device: Device,
    zone: Zone,
    timeout_s: Timeout = FINAL_TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Store a file of measurements with its own times, each row the energy of a minute."""
    from infra.cli.endings import told
    from infra.household import layout_named
    from schemas.connections import DatabaseConnection, KafkaConnection
    from sinks.registry import check_zone

    with told():
        done = import_file(
            file,
            layout_named(format),
            device,
            check_zone(zone),
            DatabaseConnection(),
            KafkaConnection(),
            timeout_s,
        )
    if as_json:
        print(json.dumps(asdict(done)))
        return
    print_warnings(done.warnings)
    print(
        f"{done.device} ({done.address}), {done.start} to {done.end}: {done.rows} rows, "
        f"{done.missing} missing, {done.absent} absent, {done.stored} stored "
        f"in {done.seconds:.1f} s, {done.kwh:.3f} kWh"
    )


def import_file(
    path: Path,
    layout: "Layout",
    name: str,
    zone: ZoneInfo,
    database: "DatabaseConnection",
    kafka: "KafkaConnection",
    timeout_s: float = FINAL_TIMEOUT_S,
) -> Imported:
    """Import a file and wait until its usage is final. Nothing is written if it is refused."""
    import psycopg

    from infra.household.node import claim_node, stored_between
    from infra.household.raw_log import RawLog
    from infra.household.survey import survey_file

    begun = time.monotonic()
    survey = survey_file(path, layout, zone)
    with psycopg.connect(database.url) as conn, RawLog(kafka.bootstrap) as log:
        node = claim_node(conn, name, zone.key)
        conn.commit()
        with shown_bar("importing", survey.report.measured) as advance:
            write_rows(survey, node, log, advance)
    wait_until_final(node.address, database, kafka, timeout_s)
    with psycopg.connect(database.url) as conn:
        stored = stored_between(conn, node.address, survey.start_us, survey.end_us)
    report = survey.report
    return Imported(
        device=name,
        address=node.address,
        start=told_at(survey.start_us, zone),
        end=told_at(survey.end_us, zone),
        rows=report.rows,
        missing=report.missing,
        absent=report.absent,
        absurd=report.absurd,
        stored=stored.readings,
        seconds=round(time.monotonic() - begun, 3),
        kwh=stored.kwh,
        file_kwh=survey.energy_uwh / 1e9,
        warnings=report.warnings,
    )


def write_rows(
    survey: "Survey", node: "Node", log: "RawLog", advance: Callable[[int], None]
) -> None:
    """Write each row that has a value to the raw log, as what the node measured then."""
    from infra.household.raw_log import raw_headers
    from infra.household.survey import boot_of, interval_payload

    boot = boot_of(survey.digest, node.address)
    key = node.address.encode()
    received_us = time.time_ns() // 1000
    waiting = 0
    for minute in survey.minutes():
        if minute.power_w is None:
            continue
        headers = raw_headers(node.topic, received_us, SOURCE, SHARD)
        log.write(key, interval_payload(minute, boot), headers)
        received_us += 1
        waiting += 1
        if waiting == SHOWN_EVERY:
            advance(waiting)
            waiting = 0
    advance(waiting)


def wait_until_final(
    address: str, database: "DatabaseConnection", kafka: "KafkaConnection", timeout_s: float
) -> None:
    """Wait, and show what for. Raises NotFinal."""
    from sinks.finality import wait_final

    with Console(stderr=True).status("waiting until the usage is final") as line:
        wait_final(
            database.url,
            kafka.bootstrap,
            [address],
            timeout_s=timeout_s,
            progress=lambda missing: line.update(f"not final yet: {missing}"),
        )


def told_at(at_us: int, zone: ZoneInfo) -> str:
    """RFC 3339 in a zone."""
    return datetime.fromtimestamp(at_us / 1_000_000, zone).isoformat()


def print_warnings(warnings: list[str]) -> None:
    console = Console(stderr=True, highlight=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


@contextmanager
def shown_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, moved on by what this gives; silent where nobody looks."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(text, total=total)
        yield lambda count: progress.advance(task, count)
