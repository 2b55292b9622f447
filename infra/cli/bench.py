"""`meterstream bench`: each stage beside its peers, in one run, on stacks of its own."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from infra.local.settings import MAX_WORKERS, PROJECT_ROOT

if TYPE_CHECKING:
    from infra.bench.results import Document
    from infra.bench.stages import Stage

DOCS = PROJECT_ROOT / "docs"


class Wanted(StrEnum):
    UPLINK = "uplink"
    STREAM = "stream"
    SINK = "sink"
    RATING = "rating"
    END_TO_END = "end-to-end"
    COMMANDS = "commands"
    GROWTH = "growth"
    GROWTH_DEVICES = "growth-devices"
    GROWTH_STORED = "growth-stored"


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    stage: Annotated[
        list[Wanted] | None,
        typer.Option("--stage", help="Only these; all but growth (an hour) if left out."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, help="Default 3; of growth 1.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=MAX_WORKERS, help="End to end, and growth.")
    ] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Of each load at full rate, end to end.")
    ] = 300.0,
    latency_seconds: Annotated[
        float, typer.Option("--latency-seconds", min=1, help="Of each load for latency.")
    ] = 60.0,
    command_seconds: Annotated[
        float, typer.Option("--command-seconds", min=1, help="Of each load of the commands stage.")
    ] = 60.0,
    messages: Annotated[
        int, typer.Option("--messages", min=1000, help="Of the uplink stage.")
    ] = 200_000,
    readings: Annotated[
        int, typer.Option("--readings", min=100_000, help="Of the stream stage.")
    ] = 1_000_000,
    rows: Annotated[int, typer.Option("--rows", min=20_000, help="Of the sink stage.")] = 400_000,
    homes: Annotated[int, typer.Option("--homes", min=1, help="Of the rating stage.")] = 1_000,
    growth_readings: Annotated[
        int, typer.Option("--growth-readings", min=100_000, help="Of each size of growth.")
    ] = 3_600_000,
    devices: Annotated[
        list[int] | None, typer.Option("--devices", min=1, help="Sizes; 1,000 to 100,000.")
    ] = None,
    stored: Annotated[
        list[int] | None, typer.Option("--stored", min=1000, help="Rows; 1 to 50 million.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Merge the run into docs/benchmarks.json, .md, plots.")
    ] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Measure nothing; write text and plots anew.")
    ] = False,
) -> None:
    """Measure the stages side by side; a message is one publish, a reading one row."""
    from infra.bench import document, results, stages
    from infra.cli.stack import shown_progress

    if render:
        document.publish(document.kept(DOCS), DOCS)
        return
    default = stages.Sizes()
    sizes = stages.Sizes(
        messages=messages,
        readings=readings,
        rows=rows,
        homes=homes,
        seconds=seconds,
        latency_seconds=latency_seconds,
        command_seconds=command_seconds,
        growth_readings=growth_readings,
        devices=tuple(devices or default.devices),
        stored=tuple(stored or default.stored),
        workers=workers,
        repeats=repeats,
    )
    found = results.Document()
    for one in wanted_stages(stage):
        with shown_progress() as progress:
            run = stages.run(one, sizes, progress)
        found = results.merged(found, results.Document({run.stage: run}))
        if write:  # what is measured is kept, whatever becomes of the next stage
            document.publish(results.merged(document.kept(DOCS), found), DOCS)
    if as_json:
        print(results.as_json(found), end="")
    else:
        _show(found)
    if not all(run.ok for run in found.stages.values()):
        raise typer.Exit(1)


def wanted_stages(asked: Sequence[Wanted] | None) -> "list[Stage]":
    """In the order of the document, each once."""
    from infra.bench.stages import GROWTH, USUAL, Stage

    if not asked:
        return list(USUAL)
    chosen = {Stage(one.value) for one in asked if one is not Wanted.GROWTH}
    if Wanted.GROWTH in asked:
        chosen |= set(GROWTH)
    return [stage for stage in Stage if stage in chosen]


def _show(found: "Document") -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    from infra.bench.document import section

    console = Console()
    for run in found.stages.values():
        if console.is_terminal:
            console.print(Markdown(section(run)))
        else:
            print(section(run))
