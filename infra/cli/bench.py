"""`meterstream bench`: each stage beside its peers, in one run, on a stack of its own."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from infra.local.parts import Progress
from infra.local.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from infra.bench.stream import Rate
    from infra.cli.load import LoadReport
    from infra.local.stack import Stack

RESULT = PROJECT_ROOT / "docs" / "benchmarks.md"
PACKAGES = ("faust-streaming", "aiokafka", "confluent-kafka", "paho-mqtt", "psycopg", "msgspec")


class Stage(StrEnum):
    UPLINK = "uplink"
    STREAM = "stream"
    SINK = "sink"
    END_TO_END = "end-to-end"


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is this row's speed (or, uplink, CPU) to `ratio_to`'s."""

    stage: str
    name: str
    messages_per_s: float | None = None
    readings_per_s: float | None = None
    cpu_us_per_message: float | None = None
    ratio_to: str | None = None
    ratio: float | None = None
    note: str = ""


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    stage: Annotated[
        list[Stage] | None, typer.Option("--stage", help="Only these; all if left out.")
    ] = None,
    readings: Annotated[
        int, typer.Option("--readings", min=100_000, help="Of the stream stage.")
    ] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the run in docs/benchmarks.md.")
    ] = False,
) -> None:
    """Measure the stages side by side; a message is one publish, a reading one row."""
    from infra.cli.stack import shown_progress

    with shown_progress() as progress:
        rows = measure(stage or list(Stage), readings, progress)
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        Console().print(f"{_machine()}; commit {_commit()}; {_versions()}", soft_wrap=True)
        Console().print(_table(rows))
    if write:
        RESULT.write_text(document(rows))


def measure(stages: Sequence[Stage], readings: int, progress: Progress) -> list[Row]:
    """Run the stages, each on a private stack with an empty state."""
    rows: list[Row] = []
    for stage in stages:
        folder = Path(tempfile.mkdtemp(prefix="meterstream-bench-"))
        try:
            rows += _STAGES[stage](folder, readings, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def _servers(folder: Path, progress: Progress) -> "Stack":
    from infra.local.programs import SERVERS
    from infra.local.settings import StackSettings
    from infra.local.stack import Stack

    stack = Stack(StackSettings.free(folder / "state"), SERVERS)
    stack.up(progress)
    stack.prepare(progress)
    return stack


def _uplink(folder: Path, _readings: int, progress: Progress) -> list[Row]:
    from infra.bench import uplink

    stack = _servers(folder, progress)
    try:
        progress("uplink beside stock paho")
        measured = uplink.run(stack.mqtt_port, stack.kafka_bootstrap)
    finally:
        stack.wipe(progress)
    stock = {row.feed: row for row in measured if row.connector == "stock paho"}
    return [
        Row(
            "uplink",
            f"{row.connector}, {row.feed}",
            messages_per_s=row.messages_per_s,
            cpu_us_per_message=row.cpu_us_per_message,
            ratio_to=f"stock paho, {row.feed}, CPU",
            ratio=stock[row.feed].cpu_us_per_message / row.cpu_us_per_message,
        )
        for row in measured
    ]


def _stream(folder: Path, readings: int, progress: Progress) -> list[Row]:
    from infra.bench import stream

    stack = _servers(folder, progress)
    try:
        filled = stream.fill(stack, readings, 1000, progress)
        peer = stream.measure_quix(stack, filled, progress, timeout_s=600)
        own = []
        for workers in (1, 2):
            progress(f"the full log, workers: {workers}")
            own.append(stream.measure_workers(stack, filled, workers, timeout_s=600))
    finally:
        stack.wipe(progress)
    return [_rate_row("stream", rate, peer) for rate in (*own, peer) if rate is not None]


def _sink(folder: Path, readings: int, progress: Progress) -> list[Row]:
    from infra.bench import sink

    stack = _servers(folder, progress)
    try:
        progress("COPY and staged merge")
        rates = sink.measure(stack, min(readings, 500_000))
    finally:
        stack.wipe(progress)
    return [_rate_row("sink", rate, rates[-1]) for rate in rates]


def _end_to_end(folder: Path, _readings: int, progress: Progress) -> list[Row]:
    from infra.cli.load import Options, run_load
    from infra.local.programs import OWN, SERVERS
    from infra.local.settings import StackSettings
    from infra.local.stack import Stack
    from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection

    own = tuple(program for program in OWN if program.name != "api")
    stack = Stack(StackSettings.free(folder / "state"), (*SERVERS, *own))
    rows = []
    try:
        stack.up(progress)
        mqtt = MqttConnection(port=stack.mqtt_port)
        kafka = KafkaConnection(bootstrap=stack.kafka_bootstrap)
        database = DatabaseConnection(url=stack.database_url)
        for options in (
            Options(devices=1000, rate=1000, seconds=60),
            Options(devices=1000, rate=10_000, seconds=60, seed=2),
            Options(devices=1000, rate=5_000, seconds=60, seed=3, phases=3),
        ):
            progress(f"{options.rate:,.0f} messages/s for {options.seconds:.0f} s")
            rows.append(_load_row(run_load(mqtt, kafka, database, options, folder=folder)))
    finally:
        stack.wipe(progress)
    return rows


_STAGES = {
    Stage.UPLINK: _uplink,
    Stage.STREAM: _stream,
    Stage.SINK: _sink,
    Stage.END_TO_END: _end_to_end,
}


def _rate_row(stage: str, rate: "Rate", peer: "Rate | None") -> Row:
    return Row(
        stage,
        rate.name,
        readings_per_s=rate.readings_per_s,
        cpu_us_per_message=rate.cpu_us_per_reading,
        ratio_to=peer.name if peer else None,
        ratio=rate.readings_per_s / peer.readings_per_s if peer else None,
    )


def _load_row(report: "LoadReport") -> Row:
    latency = report.latency_ms
    return Row(
        "end-to-end",
        f"{report.devices} devices, {report.phases} phase",
        messages_per_s=report.messages_per_s,
        readings_per_s=report.readings_per_s,
        note=(
            f"lost {report.lost}, duplicates {report.duplicates}, "
            f"energy difference {report.energy_difference_wh} Wh; "
            f"publish to commit p50 {latency.p50} p95 {latency.p95} p99 {latency.p99} ms"
        ),
    )


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "stage", "name", "messages/s", "readings/s", "CPU µs", "ratio", "to", "note", box=None
    )
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, digits: int = 0) -> str:
        return "" if value is None else f"{value:,.{digits}f}"

    return (
        row.stage,
        row.name,
        number(row.messages_per_s),
        number(row.readings_per_s),
        number(row.cpu_us_per_message, 1),
        number(row.ratio, 2),
        row.ratio_to or "",
        row.note,
    )


def document(rows: Sequence[Row]) -> str:
    """`docs/benchmarks.md`: the last run, with what it ran on."""
    lines = [
        "# Benchmarks",
        "",
        "The last run of `make bench`. A message is one publish, a reading one row. All of a stage "
        "ran on the same machine in the same run: trust the ratios, for machines are noisy.",
        "",
        f"{_machine()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; commit {_commit()}; {_versions()}",
        "",
        "| stage | name | messages/s | readings/s | CPU µs a message | ratio | to | note |",
        "|---|---|---:|---:|---:|---:|---|---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _machine() -> str:
    from infra.bench.sink import machine

    return machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT_ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)
