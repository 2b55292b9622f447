"""`meterstream command`: give a device a command, see what became of it, who switched what."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from infra.cli.rows import Json, database, tell

if TYPE_CHECKING:
    from sinks.commands import CommandRow

_POLL_S = 0.05


class KindWord(StrEnum):
    ON = "on"
    OFF = "off"
    TOGGLE = "toggle"
    REBOOT = "reboot"
    CONFIG = "config"
    CALIBRATE = "calibrate"
    RESET_ENERGY = "reset_energy"
    OTA = "ota"


DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help="A name, address or id.")]
Id = Annotated[UUID, typer.Argument(metavar="ID", help="The id of a command.")]
Most = Annotated[int, typer.Option("--most", min=1, max=1000, help="How many, the newest first.")]


def register(app: typer.Typer) -> None:
    command = typer.Typer(no_args_is_help=True, help="Commands to devices, and who switched what.")
    command.command("send")(send)
    command.command("list")(list_commands)
    command.command("show")(show)
    command.command("cancel")(cancel)
    command.command("switches")(switches)
    command.command("limit")(limit)
    app.add_typer(command, name="command")


def send(
    device: DeviceName,
    kind: KindWord,
    relay: Annotated[
        str | None, typer.Option("--relay", help="The relay, where there are several: switch:0.")
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option("--parameters", metavar="JSON", help="Of config, calibrate and ota."),
    ] = None,
    expires_s: Annotated[
        float | None, typer.Option("--expires-s", help="Never run later. Default: by kind.")
    ] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Wait for an offline device.")] = False,
    revert_after_s: Annotated[
        int | None, typer.Option("--revert-after-s", help="Take it back after so long.")
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Of what is dangerous.")] = False,
    key: Annotated[
        str | None, typer.Option("--key", help="The same key and command again: nothing new.")
    ] = None,
    wait_s: Annotated[
        float, typer.Option("--wait-s", help="Wait so long for its end; 0: do not wait.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Give a device a command. With --wait-s, exit 1 if it is not done by then."""
    from sinks.command_keys import once
    from sinks.commands import accept
    from sinks.registry import resolve_device

    ask = _ask(kind, relay, parameters, expires_s, queue, revert_after_s, confirm)
    caller = f"user:{os.environ.get('USER') or 'operator'}"
    with _told():
        with database() as conn:
            device_id = resolve_device(conn, device).device_id
            body = {"device": device_id, "ask": _plain(ask)}
            done = once(conn, caller, key, body, lambda: [accept(conn, device_id, ask, caller)])
        row = _ended(done.commands[0].command_id, wait_s) if wait_s > 0 else done.commands[0]
    tell([_document(row)], as_json, one=True)
    if wait_s > 0 and row.state != "done":
        raise typer.Exit(1)


def list_commands(device: DeviceName, most: Most = 20, as_json: Json = False) -> None:
    """List the commands of a device."""
    from sinks import commands
    from sinks.registry import resolve_device

    with database() as conn:
        found = commands.history(conn, resolve_device(conn, device).device_id, None, most)
    tell([_document(one) for one in found], as_json)


def show(command_id: Id, as_json: Json = False) -> None:
    """Show a command and its life."""
    from sinks import commands

    with _told(), database() as conn:
        row, events = commands.find(conn, command_id), commands.events(conn, command_id)
    life: list[dict[str, object]] = [
        {
            "at": one.at.isoformat(),
            "state": one.state,
            "reason": one.reason,
            "confirmed_by": one.confirmed_by,
            "late": one.late,
        }
        for one in events
    ]
    if as_json:
        print(json.dumps(_document(row) | {"events": life}, ensure_ascii=False))
        return
    tell([_document(row)], False)
    tell(life, False)


def cancel(command_id: Id, as_json: Json = False) -> None:
    """Cancel a command that has not set out yet."""
    from sinks import commands

    with _told(), database() as conn:
        row = commands.cancel(conn, command_id)
    tell([_document(row)], as_json, one=True)


def switches(device: DeviceName, most: Most = 20, as_json: Json = False) -> None:
    """List who switched a device's relays."""
    from sinks import commands
    from sinks.registry import resolve_device

    with database() as conn:
        found = commands.switches(conn, resolve_device(conn, device).device_id, None, most)
    tell(
        [
            {
                "at": one.at.isoformat(),
                "relay": one.channel,
                "was_on": one.was_on,
                "is_on": one.is_on,
                "by": one.by_kind,
                "whom": one.by_whom,
                "command_id": None if one.command_id is None else str(one.command_id),
            }
            for one in found
        ],
        as_json,
    )


def limit(
    target: Annotated[str, typer.Argument(metavar="DEVICE|MODEL")],
    seconds: Annotated[float, typer.Argument(min=0, max=86_400)],
    model: Annotated[bool, typer.Option("--model", help="TARGET is a model.")] = False,
) -> None:
    """Set the least time between two switchings of a relay."""
    from sinks.commands import set_switch_interval
    from sinks.registry import resolve_device

    with database() as conn:
        if model:
            set_switch_interval(conn, seconds, model=target)
        else:
            device_id = resolve_device(conn, target).device_id
            set_switch_interval(conn, seconds, device_id=device_id)


def _ask(
    kind: KindWord,
    relay: str | None,
    parameters: str | None,
    expires_s: float | None,
    queue: bool,
    revert_after_s: int | None,
    confirm: bool,
) -> Any:
    from schemas.command import Kind
    from sinks.commands import Ask

    try:
        given = json.loads(parameters) if parameters else {}
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint="--parameters") from error
    if not isinstance(given, dict):
        raise typer.BadParameter("give a JSON object", param_hint="--parameters")
    return Ask(Kind(kind.value), relay, given, expires_s, queue, revert_after_s, confirm)


def _ended(command_id: UUID, wait_s: float) -> "CommandRow":
    """The command as it ended, or as it is when the wait is over."""
    import psycopg

    from schemas.connections import DatabaseConnection
    from sinks import commands

    deadline = time.monotonic() + wait_s
    conn: psycopg.Connection[Any]
    with psycopg.connect(DatabaseConnection().url, autocommit=True) as conn:
        while True:
            row = commands.find(conn, command_id)
            if row.ended_at is not None or time.monotonic() >= deadline:
                return row
            time.sleep(_POLL_S)


@contextmanager
def _told() -> Iterator[None]:
    """Exit 65: what was asked makes no sense. Exit 1: not as things are."""
    from sinks import command_errors as errors

    try:
        yield
    except errors.CommandError as error:
        print(f"meterstream: {error}", file=sys.stderr)
        wrong = (errors.BadCommand, errors.NotConfirmed, errors.UnknownRelay)
        raise typer.Exit(os.EX_DATAERR if isinstance(error, wrong) else 1) from error


def _plain(ask: Any) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(ask)


def _document(row: "CommandRow") -> dict[str, object]:
    return {
        "id": str(row.command_id),
        "device_id": row.device_id,
        "seq": row.command_seq,
        "kind": row.kind,
        "relay": row.channel,
        "state": row.state,
        "confirmed_by": row.confirmed_by,
        "reason": row.reason,
        "issued_by": row.issued_by,
        "issued_at": row.issued_at.isoformat(),
        "expires_at": row.expires_at.isoformat(),
        "ended_at": row.ended_at and row.ended_at.isoformat(),
    }
