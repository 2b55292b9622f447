"""`meterstream fuzz`: bad messages through the running stack, and what became of each."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.fuzz.run import FuzzReport

LINE_EACH = 50_000  # messages, where there is no terminal

Seed = Annotated[int, typer.Option("--seed", help="The same seed mutates in the same way.")]
Payloads = Annotated[int, typer.Option("--payloads", min=1, help="How many messages.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    app.command("fuzz")(fuzz)


def fuzz(seed: Seed = 1, payloads: Payloads = 10_000, as_json: Json = False) -> None:
    """Send mutated messages of every family through the stack and account for each of them.

    Nobody else may speak meanwhile: a record that was not sent here is a failure.
    """
    from infra.cli.endings import told
    from infra.fuzz.run import Fuzz
    from infra.local import Stack, StackSettings
    from infra.local.door import NEED_ANONYMOUS, knock
    from schemas.connections import MqttConnection

    with told(), shown(payloads) as progress:
        knock(MqttConnection(), None, NEED_ANONYMOUS)
        report = Fuzz(Stack(StackSettings()), seed).run(payloads, progress)
    print(json.dumps(report.document())) if as_json else _print(report)
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def shown(payloads: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else a line now and then; on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(console=console) as bars:
            task = bars.add_task("fuzzing", total=payloads)
            yield lambda sent, failed: bars.update(
                task, completed=sent, description=f"fuzzing, {failed} failures"
            )
        return

    def told(sent: int, failed: int) -> None:
        if sent % LINE_EACH == 0 or sent == payloads:
            console.print(f"{sent:,} of {payloads:,} sent, {failed} failures")

    yield told


def _print(report: "FuzzReport") -> None:
    from rich.console import Console
    from rich.table import Table

    console, tally = Console(), report.tally
    table = Table("what", "messages", title=f"fuzz, seed {report.seed}", title_justify="left")
    rows = {
        "sent": tally.sent,
        "to topics that nobody hears": tally.unheard,
        "again, for a topic that matches two filters": tally.copies,
        "again, redelivered": tally.redelivered,
        "records in the raw topic": tally.records,
        **{f"  refused: {reason}": count for reason, count in sorted(tally.refused.items())},
        "  readings, all stored": tally.readings,
        "  states and events only, all stored": tally.states_only,
        "  redelivered without a clock, dropped": tally.repeated,
        "  that say nothing": tally.silent,
        "failures": tally.failed,
    }
    for what, count in rows.items():
        table.add_row(what, f"{count:,}")
    console.print(table)
    middle, slow, most = report.good_ms
    console.print(
        f"{tally.rows:,} rows, {tally.conflicts:,} conflicts, {report.addresses} devices, "
        f"{report.seconds:.0f} s; a good message behind each batch: {middle:.0f} ms in the middle, "
        f"{slow:.0f} for one of 20, {most:.0f} at most"
    )
    for name, size in report.sizes.items():
        console.print(f"{name}: {size.first} MiB in the first third, {size.last} in the last")
    for trouble in report.troubles:
        console.print(f"TROUBLE: {trouble}", markup=False)
    for failure in tally.failures:
        console.print(
            f"FAILURE: {failure.what}\n  {failure.place} {failure.topic} {failure.payload}",
            markup=False,
        )
    console.print("all accounted for" if report.ok else "NOT OK")
