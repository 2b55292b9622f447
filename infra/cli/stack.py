"""`meterstream up`, `down`, `status`: the local stack."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from infra.local.errors import StackError
from infra.local.parts import Progress
from infra.local.programs import ALL, SERVERS
from infra.local.settings import StackSettings
from infra.local.stack import ProcessStatus, Stack

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ServersOnly = Annotated[
    bool,
    typer.Option(
        "--servers-only",
        help="Only Mosquitto, Kafka and TimescaleDB, with topics and tables made.",
    ),
]
Wipe = Annotated[bool, typer.Option("--wipe", help="Remove the stack's data and logs too.")]


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(topics)
    app.command()(migrate)


def up(servers_only: ServersOnly = False, as_json: Json = False) -> None:
    """Start the stack, building what is missing, and wait until it answers."""
    stack = Stack(settings_from_environment(), SERVERS if servers_only else ALL)
    begun = time.monotonic()
    with shown_progress() as progress:
        started = stack.up(progress)
        if servers_only:
            stack.prepare(progress)
    processes = stack.status()
    if as_json:
        document = {"started": started, "processes": [one.document() for one in processes]}
        print(json.dumps(document))
    elif started:
        print(f"up in {time.monotonic() - begun:.1f} s")
        _print_table(processes)
    else:
        print("already up; nothing to do")


def down(wipe: Wipe = False) -> None:
    """Stop the stack cleanly; its data stays unless --wipe."""
    stack = Stack(settings_from_environment())
    with shown_progress() as progress:
        was_up = stack.down(progress)
        if wipe:
            stack.wipe(progress)
    print("stopped" if was_up else "was not running")
    if wipe:
        print(f"removed the data in {stack.settings.state_dir}")


def status(as_json: Json = False) -> None:
    """Show every process of the stack."""
    processes = Stack(settings_from_environment()).status()
    if as_json:
        print(json.dumps([one.document() for one in processes]))
    else:
        _print_table(processes)


def topics() -> None:
    """Create the declared topics; `up` does so too. For Kafka in Docker or a cluster."""
    from infra.local.topics import create_topics
    from schemas.connections import KafkaConnection

    create_topics(KafkaConnection().bootstrap)


def migrate() -> None:
    """Bring the database's tables up to date; `up` does so too."""
    from schemas.connections import DatabaseConnection
    from sinks import migrate as migrations

    print(f"schema {migrations.migrate(DatabaseConnection().url)}")


def settings_from_environment() -> StackSettings:
    """The stack's settings. Raises StackError that names the variable to mend."""
    try:
        return StackSettings()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise StackError(
            f"{StackSettings.variable(field)}={first['input']}: {first['msg']}"
        ) from error


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Progress on stderr: a moving line for a person, plain lines for a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    with console.status("…") as line:
        yield line.update


def _print_table(processes: list[ProcessStatus]) -> None:
    table = Table("process", "state", "pid", "up", "restarts", "port", "detail", box=None)
    for one in processes:
        up_for = "" if one.uptime_s is None else str(timedelta(seconds=round(one.uptime_s)))
        colour = "green" if one.state == "running" else "red"
        table.add_row(
            one.name,
            f"[{colour}]{one.state}[/]",
            str(one.pid or ""),
            up_for,
            str(one.restarts),
            str(one.port or ""),
            one.detail,
        )
    Console().print(table)
