"""`meterstream chaos selftest`: losses planted on purpose, which the accounting must see."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.chaos.selftest import SelfTest, Told

Seed = Annotated[int, typer.Option("--seed", help="The same seed says the same values.")]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="A plant by name; may be given several times.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def mount(chaos: typer.Typer) -> None:
    """Add the command to the group `chaos`."""
    chaos.command("selftest")(run_selftest)


def run_selftest(seed: Seed = 1, only: Only = None, as_json: Json = False) -> None:
    """Plant six losses, one at a time: each must be found, and none without its plant.

    Runs a stack of its own. Exit 1 if a plant was not caught or a plain run was not green.
    """
    from infra.chaos.selftest import SelfTestError, selftest
    from infra.cli.endings import told
    from infra.swarm.swarm import SwarmError

    try:
        with told(), _shown() as tell:
            result = selftest(seed, only or (), tell)
    except (SelfTestError, SwarmError) as error:
        print(f"meterstream: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(1)


@contextmanager
def _shown() -> "Iterator[Told]":
    """What is being done, on stderr: on a terminal in one line, else a line each."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    with console.status("…") as status:
        yield status.update


def _print(result: "SelfTest") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("plant", "planted: lost of sent", "without: lost, doubled", "s", "verdict")
    for one in result.plants:
        planted, plain = one.planted, one.plain
        verdict = "[green]caught[/]" if one.caught else "[red]NOT CAUGHT[/]"
        if not plain.green:
            verdict = "[red]red without it[/]"
        table.add_row(
            one.name,
            f"{planted.lost:,} of {planted.sent:,}",
            f"{plain.lost:,}, {plain.duplicates:,} of {plain.sent:,}",
            f"{planted.seconds + plain.seconds:.0f}",
            verdict,
        )
    console = Console()
    console.print(table)
    for one in result.plants:
        if not one.caught:
            console.print(f"{one.name}: planted, {one.what}; without it, {one.without}")
    console.print(f"seed {result.seed}, {result.seconds:.0f} s")
