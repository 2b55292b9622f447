"""`meterstream chaos`: faults under load, one after the other, and the accounting of all of it."""

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.chaos.report import Report, Row

Seed = Annotated[int, typer.Option("--seed", help="The same seed makes the same faults.")]
Kills = Annotated[int, typer.Option("--kills", min=1, help="How many faults.")]
Target = Annotated[
    str, typer.Option("--target", help="all, or names of processes and hops, with commas.")
]
Kinds = Annotated[
    str,
    typer.Option("--kinds", help="all, net, or names with commas: `meterstream chaos kinds`."),
]
Rate = Annotated[float, typer.Option("--rate", help="Messages a second, of all nodes together.")]
Devices = Annotated[int, typer.Option("--devices", min=1, help="How many nodes.")]
DownS = Annotated[float, typer.Option("--down-s", help="How long `down` lasts.")]
ZombieS = Annotated[float, typer.Option("--zombie-s", help="How long `zombie` lasts.")]
Seconds = Annotated[
    float | None, typer.Option("--seconds", help="Begin faults for so long, in place of --kills.")
]
Every = Annotated[float, typer.Option("--every-s", help="From one fault to the next, at least.")]
Write = Annotated[
    Path | None, typer.Option("--write", help="Keep the run's tables in this document.")
]
Keep = Annotated[
    Path | None, typer.Option("--keep", help="Keep the swarm's record in this folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

SELFTEST = "infra.cli.chaos_selftest"


def register(app: typer.Typer) -> None:
    chaos = typer.Typer(
        help="Kill, stop, cut and fill up everything under load; nothing may be lost.",
        invoke_without_command=True,
    )
    chaos.callback()(run)
    chaos.command("kinds")(kinds)
    importlib.import_module(SELFTEST).mount(chaos)
    app.add_typer(chaos, name="chaos")


def run(
    context: typer.Context,
    seed: Seed = 1,
    kills: Kills = 25,
    target: Target = "all",
    rate: Rate = 1000.0,
    devices: Devices = 100,
    kinds: Kinds = "kill,kill2",
    down_s: DownS = 600.0,
    zombie_s: ZombieS = 60.0,
    seconds: Seconds = None,
    every_s: Every = 0.0,
    write: Write = None,
    keep: Keep = None,
    as_json: Json = False,
) -> None:
    """Faults under load, on a stack of its own; then every reading is accounted for.

    Exit 1 if anything is lost, doubled or invented, if the energy differs, or if the offsets or
    the announcements are not what is stored.
    """
    if context.invoked_subcommand is not None:
        return
    from infra.chaos import report as reports
    from infra.chaos.plan import BadPlan, kinds_of, targets_of
    from infra.chaos.run import Options, run_chaos
    from infra.chaos.switchings import NotSettled
    from infra.cli.endings import told
    from infra.cli.load import shown
    from infra.loads.steady import LoadFailed

    try:
        options = Options(
            seed=seed,
            kinds=kinds_of(kinds),
            targets=targets_of(target),
            count=None if seconds is not None else kills,
            seconds=seconds,
            every_s=every_s,
            rate=rate,
            devices=devices,
            down_s=down_s,
            zombie_s=zombie_s,
        )
    except BadPlan as error:
        raise typer.BadParameter(str(error)) from error
    try:
        with told(), shown() as progress:
            report = run_chaos(options, progress, keep)
    except (LoadFailed, NotSettled) as error:
        print(f"meterstream: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if write is not None:
        reports.write(report, write)
    if as_json:
        print(json.dumps(report.document()))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def kinds(as_json: Json = False) -> None:
    """The kinds of faults, and what each hits."""
    from rich.console import Console
    from rich.table import Table

    from infra.chaos.plan import KINDS

    if as_json:
        print(json.dumps([vars(kind) for kind in KINDS.values()]))
        return
    table = Table("kind", "what", "targets", "seconds", box=None)
    for kind in KINDS.values():
        span = f"{kind.least_s:g} to {kind.most_s:g}" if kind.most_s else ""
        table.add_row(kind.name, kind.what, ", ".join(kind.targets), span)
    Console().print(table)


# ---- for people


def _print(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    from infra.chaos.report import counted

    console = Console()
    faults = Table("", "fault", "target", "at", "lasted, s", "recovery, s", "every node, s", "",
                   box=None)  # fmt: skip
    for row in report.faults:
        faults.add_row(*_cells(row))
    console.print(faults)
    sums = Table("fault", "target", "times", "p50, s", "p95, s", "max, s", box=None)
    for one in report.recoveries():
        cells = (one.count, one.p50_s, one.p95_s, one.max_s)
        sums.add_row(one.kind, one.target, *("" if cell is None else f"{cell:g}" for cell in cells))
    console.print(sums)
    account = Table("", "", box=None, show_header=False)
    for name, value in report.account.items():
        account.add_row(name, f"{value:,}")
    for name, figures in report.memory.items():
        account.add_row(name, ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    console.print(account)
    if report.commands:
        console.print(f"commands: {counted(report.commands)}")
    for failure in report.failures:
        console.print(failure, markup=False, highlight=False, soft_wrap=True, style="red")
    if report.ok:
        console.print(
            f"nothing lost, nothing twice: {len(report.faults)} faults, seed {report.seed}, "
            f"commit {report.commit}, {report.duration_s:.0f} s"
        )


def _cells(row: "Row") -> tuple[str, ...]:
    said = [row.skipped and f"skipped: {row.skipped}"]
    said += [f"{name} {count}" for name, count in (("lost", row.lost), ("doubled", row.duplicates))
             if count]  # fmt: skip
    said += [f"{name} {value}" for name, value in row.notes.items()]
    return (
        str(row.number),
        row.kind,
        row.target,
        row.at[11:23],
        f"{row.lasted_s:g}",
        "" if row.recovery_s is None else f"{row.recovery_s:g}",
        "" if row.every_node_s is None else f"{row.every_node_s:g}",
        ", ".join(part for part in said if part),
    )
