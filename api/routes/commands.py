"""Commands to devices: given, looked at, cancelled; and who switched what."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response

from api import command_models as models
from api import cursors
from api.auth import Operator, require_operator
from api.command_problems import problem_of
from api.database import CommandsPool, Reading, SyncConnection
from api.parameters import DeviceText, PageQuery
from api.problems import Problem, ProblemDocument
from schemas.command import Kind
from sinks import commands
from sinks.command_errors import CommandError, NotConfirmed
from sinks.command_keys import once
from sinks.commands import Ask, CommandRow
from sinks.registry import RegistryError, resolve_device

router = APIRouter(prefix="/api/v1", tags=["commands"])
Caller = Annotated[Operator, Depends(require_operator)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Same key and body: the same command. Kept for two days.",
    ),
]
_LARGEST = 2**63 - 1

COMMAND_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemDocument, "description": "No such device, or no such command."},
    409: {"model": ProblemDocument, "description": "Not as things are; `detail` says why."},
    429: {"model": ProblemDocument, "description": "Too soon; see Retry-After."},
}
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": models.Command, "description": "The key was there: the command of that time."},
    202: {"model": models.Command, "description": "The command is on its way."},
    **COMMAND_ERRORS,
}


class Before(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]


# ---------------------------------------------------------------- giving


@router.post(
    "/devices/{device:path}/commands",
    operation_id="giveCommand",
    summary="Give a command",
    status_code=202,
    responses=_ACCEPTED,
)
def give_command(
    device: DeviceText,
    body: models.GiveCommand,
    pool: CommandsPool,
    caller: Caller,
    response: Response,
    key: Key = None,
) -> models.Command:
    """Answers when it is stored; what becomes of it is told by the command and on
    `energy.command.event.v1`. With an `Idempotency-Key` it can be sent again without harm.
    """
    with pool.connection() as conn:
        command, repeated = _give(conn, device, body, caller, key)
    response.status_code = 200 if repeated else 202
    return _command(command)


@router.post(
    "/devices/{device:path}/command",
    operation_id="giveOldCommand",
    summary="Switch a relay, as PowerTrack did",
    responses=COMMAND_ERRORS,
)
def give_old_command(
    device: DeviceText, body: models.OldCommand, pool: CommandsPool, caller: Caller, key: Key = None
) -> models.OldAnswer:
    """`newState` is what the relay will be, not what it is: look at the command for that."""
    asked = models.GiveCommand(
        kind=body.command, channel=None if body.relay is None else str(body.relay)
    )
    with pool.connection() as conn:
        command, _ = _give(conn, device, asked, caller, key)
    return models.OldAnswer.model_validate(
        {"newState": command.kind, "commandId": command.command_id}
    )


@router.post(
    "/commands",
    operation_id="giveCommands",
    summary="Give several devices a command",
    status_code=202,
    responses=COMMAND_ERRORS,
)
def give_commands(
    body: models.GiveCommands, pool: CommandsPool, caller: Caller, key: Key = None
) -> models.Commands:
    """Each device takes it or refuses it by itself; 409 if all refuse. Needs `confirm`."""
    if not body.confirm:
        raise NotConfirmed(f"this is for {len(body.devices)} devices; ask again with confirm: true")
    ask = _ask(body)
    commands.check(ask)
    refused: list[models.Refused] = []

    def work(conn: SyncConnection) -> list[CommandRow]:
        wanted: dict[int, str] = {}
        for text in body.devices:
            try:
                wanted.setdefault(resolve_device(conn, text).device_id, text)
            except RegistryError as error:
                refused.append(models.Refused(device=text, problem="not-found", detail=str(error)))
        taken = []
        for device_id, text in sorted(wanted.items()):
            try:
                taken.append(commands.accept(conn, device_id, ask, f"user:{caller}"))
            except CommandError as error:
                kind = problem_of(error).kind
                refused.append(models.Refused(device=text, problem=kind, detail=str(error)))
        if not taken:
            raise Problem(
                409,
                "none-accepted",
                "no device took the command; `refused` says why",
                refused=[one.model_dump() for one in refused],
            )
        return taken

    with pool.connection() as conn, conn.transaction():
        done = once(conn, caller, key, body.model_dump(), lambda: work(conn))
    return models.Commands(items=[_command(one) for one in done.commands], refused=refused)


def _give(
    conn: SyncConnection, device: str, body: models.GiveCommand, caller: str, key: str | None
) -> tuple[CommandRow, bool]:
    device_id = resolve_device(conn, device).device_id
    asked = {"device": device_id, **body.model_dump()}
    done = once(
        conn,
        caller,
        key,
        asked,
        lambda: [commands.accept(conn, device_id, _ask(body), f"user:{caller}")],
    )
    return done.commands[0], done.repeated


def _ask(body: models.GiveCommand) -> Ask:
    return Ask(
        Kind(body.kind),
        body.channel,
        body.parameters,
        body.expires_in_s,
        body.queue_while_offline,
        body.revert_after_s,
        body.confirm,
    )


# ---------------------------------------------------------------- looking, cancelling


@router.get(
    "/commands/{command_id}",
    operation_id="getCommand",
    summary="Look at a command",
    responses=COMMAND_ERRORS,
)
def get_command(command_id: UUID, conn: Reading) -> models.CommandDetail:
    found = commands.find(conn, command_id)
    return models.CommandDetail.model_validate(
        {
            **_fields(found),
            "events": [
                models.CommandEvent.model_validate(one, from_attributes=True)
                for one in commands.events(conn, command_id)
            ],
        }
    )


@router.post(
    "/commands/{command_id}/cancel",
    operation_id="cancelCommand",
    summary="Cancel a command",
    responses=COMMAND_ERRORS,
)
def cancel_command(command_id: UUID, pool: CommandsPool) -> models.Command:
    """Only while it has not set out: one that waits for its device, above all."""
    with pool.connection() as conn:
        return _command(commands.cancel(conn, command_id))


@router.get(
    "/devices/{device:path}/commands",
    operation_id="listCommands",
    summary="List the commands of a device",
    responses=COMMAND_ERRORS,
)
def list_commands(
    device: DeviceText, query: Annotated[PageQuery, Query()], conn: Reading
) -> models.CommandPage:
    """The newest first."""
    device_id = resolve_device(conn, device).device_id
    question = ("commands", device_id)
    before = _before(query.cursor, question)
    found = commands.history(conn, device_id, before, query.limit + 1)
    page, following = cursors.page_of(
        found, query.limit, lambda one: Before(one.command_seq), question
    )
    return models.CommandPage(items=[_command(one) for one in page], next_cursor=following)


@router.get(
    "/devices/{device:path}/switches",
    operation_id="listSwitches",
    summary="Who switched a device's relays",
    responses=COMMAND_ERRORS,
)
def list_switches(
    device: DeviceText, query: Annotated[PageQuery, Query()], conn: Reading
) -> models.SwitchPage:
    """Every change, the newest first."""
    device_id = resolve_device(conn, device).device_id
    question = ("switches", device_id)
    before = _before(query.cursor, question)
    found = commands.switches(conn, device_id, before, query.limit + 1)
    page, following = cursors.page_of(
        found, query.limit, lambda one: Before(one.switch_no), question
    )
    return models.SwitchPage(
        items=[
            models.Switch.model_validate(
                {
                    "channel": one.channel or None,
                    "at": one.at,
                    "was_on": one.was_on,
                    "is_on": one.is_on,
                    "by": one.by_kind,
                    "whom": one.by_whom,
                    "command_id": one.command_id,
                }
            )
            for one in page
        ],
        next_cursor=following,
    )


@router.put(
    "/devices/{device:path}/command-limit",
    operation_id="setCommandLimit",
    summary="Set the least time between two switchings",
    responses=COMMAND_ERRORS,
)
def set_command_limit(
    device: DeviceText, body: models.CommandLimit, pool: CommandsPool
) -> models.CommandLimit:
    with pool.connection() as conn:
        device_id = resolve_device(conn, device).device_id
        commands.set_switch_interval(conn, body.switch_interval_s, device_id=device_id)
    return body


def _before(cursor: str | None, question: object) -> int | None:
    return None if cursor is None else cursors.decode(cursor, Before, question).number


def _command(row: CommandRow) -> models.Command:
    return models.Command.model_validate(_fields(row))


def _fields(row: CommandRow) -> dict[str, object]:
    return {
        "id": row.command_id,
        "device_id": row.device_id,
        "seq": row.command_seq,
        "channel": row.channel,
        "kind": row.kind,
        "asked": row.asked,
        "parameters": row.parameters,
        "issued_by": row.issued_by,
        "issued_at": row.issued_at,
        "expires_at": row.expires_at,
        "queue_while_offline": row.queued,
        "revert_after_s": row.revert_after_s,
        "revert_at": row.revert_at,
        "state": row.state,
        "reason": row.reason,
        "confirmed_by": row.confirmed_by,
        "sent_at": row.sent_at,
        "ended_at": row.ended_at,
        "late_answer": row.late_answer,
        "superseded_by": row.superseded_by,
    }
