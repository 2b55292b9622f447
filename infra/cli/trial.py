"""`meterstream trial`: long trials of what must always hold."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.trials.bills import BillTrial
    from infra.trials.commands import CommandTrial

MOST_WORKERS = 8
MOST_SAID = 20

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    trial = typer.Typer(help="Long trials, each on stacks of its own.", no_args_is_help=True)
    trial.callback()(_trials)
    trial.command("bills")(bills)
    trial.command("commands")(commands)
    app.add_typer(trial, name="trial")


def _trials() -> None:
    """Long trials, each on stacks of its own."""


def bills(
    readings: Annotated[
        int, typer.Option("--readings", min=1, help="Of the month, at least so many.")
    ] = 1_000_000,
    homes: Annotated[int, typer.Option("--homes", min=1, max=999)] = 12,
    workers: Annotated[
        str, typer.Option("--workers", metavar="A,B,C", help="One replay with each number.")
    ] = "1,3,7",
    seed: Annotated[int, typer.Option("--seed", help="The same seed measures the same.")] = 1,
    as_json: Json = False,
) -> None:
    """Replay a month, shuffled anew for each number of workers: are all bills the same?

    Exit 1 if any differs, from the others or from what the registers alone make of it.
    """
    import structlog

    from infra.cli.endings import told
    from infra.cli.load import shown
    from infra.trials.bills import run_trial

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    counts = [int(word) if word.isdecimal() else 0 for word in workers.split(",")]
    if not all(1 <= count <= MOST_WORKERS for count in counts):
        raise typer.BadParameter(
            f"{workers!r:.40}: give numbers from 1 to {MOST_WORKERS}", param_hint="--workers"
        )
    with told(), shown() as progress:
        try:
            trial = run_trial(readings, homes, counts, seed, lambda text: progress(text, 0, 0))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--readings") from error
    print(json.dumps({"ok": trial.ok, **asdict(trial)})) if as_json else _print(trial)
    if not trial.ok:
        raise typer.Exit(1)


def commands(
    commands: Annotated[int, typer.Option("--commands", min=1, help="Accepted, so many.")] = 500,
    seed: Annotated[int, typer.Option("--seed", help="The same seed asks the same.")] = 1,
    kill_every_s: Annotated[
        float, typer.Option("--kill-every-s", min=1, help="A broker or process, so often.")
    ] = 15.0,
    rate: Annotated[
        float, typer.Option("--rate", min=0.1, help="Commands asked a second, at most.")
    ] = 50.0,
    as_json: Json = False,
) -> None:
    """Commands under reconnects, duplicates, disorder, power cuts and kills.

    Exit 1 if any ran twice, late or unasked, if a relay is not as the last acknowledged command
    left it, or if a switching is put down to nobody.
    """
    from infra.cli.endings import told
    from infra.cli.load import shown
    from infra.trials.commands import run_trial

    with told(), shown() as progress:
        trial = run_trial(commands, seed, kill_every_s, rate, progress)
    if as_json:
        print(json.dumps({"ok": trial.ok, **asdict(trial)}))
    else:
        _print_commands(trial)
    if not trial.ok:
        raise typer.Exit(1)


def _print_commands(trial: "CommandTrial") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("", "", box=None, show_header=False)
    table.add_row(
        "commands", f"{trial.accepted:,} for {trial.devices} devices, {trial.relays} relays"
    )
    table.add_row("ended", ", ".join(f"{name} {count:,}" for name, count in trial.states.items()))
    table.add_row("refused", ", ".join(f"{name} {n:,}" for name, n in trial.refused.items()))
    table.add_row("ran", f"{trial.account.ran:,}, {trial.account.changed:,} changed a relay")
    table.add_row("befell", ", ".join(f"{name} {n:,}" for name, n in trial.events.items()))
    table.add_row("killed", ", ".join(trial.kills))
    console.print(table)
    for name, found in trial.account.faults.items():
        for sentence in found[:MOST_SAID]:
            console.print(f"{name}: {sentence}", style="red", markup=False, soft_wrap=True)
    if trial.open:
        console.print(f"{trial.open} commands did not end", style="red")
    if trial.ok:
        console.print(f"once, in time, as asked: seed {trial.seed}, {trial.duration_s:.0f} s")


def _print(trial: "BillTrial") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("workers", "records", "filled, s", "streamed, s", "bills", box=None)
    for one in trial.replays:
        table.add_row(
            str(one.workers),
            f"{one.records:,}",
            f"{one.filled_s:g}",
            f"{one.streamed_s:g}",
            one.sha256[:16] if not one.differing else f"differ: {', '.join(one.differing)}",
        )
    console.print(table)
    console.print(
        f"{trial.readings:,} readings of {trial.homes} homes each {trial.step_s} s, seed "
        f"{trial.seed}; by the registers alone {trial.sha256[:16]}: "
        + ("all the same" if trial.ok else "NOT THE SAME")
    )
