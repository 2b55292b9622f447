"""`meterstream device code|claim|move|owners`: whose a device is."""

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from infra.cli.device_group import group
from infra.cli.devices import Device, record
from infra.cli.rows import HomeId, Json, database, instant_at, tell

if TYPE_CHECKING:
    from sinks.device_homes import Ownership

OPERATOR = "operator"


def register(app: typer.Typer) -> None:
    group.command("code")(make_code)
    group.command("claim")(claim)
    group.command("move")(move)
    group.command("owners")(list_owners)


def make_code(
    device: Device,
    code: Annotated[str | None, typer.Option("--code", help="Default: drawn by lot.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="It lives so long.")] = 30,
    as_json: Json = False,
) -> None:
    """Make a code that claims a device once; it is shown only now."""
    from sinks import claims
    from sinks.registry import resolve_device

    with database() as conn:
        found = resolve_device(conn, device)
        made, expires_at = claims.make_code(
            conn, found.device_id, OPERATOR, life=timedelta(days=days), code=code
        )
        row: dict[str, object] = {
            "device_id": found.device_id,
            "code": made,
            "expires_at": expires_at.isoformat(),
        }
        tell([row], as_json, one=True)


def claim(
    home: HomeId,
    code: Annotated[str | None, typer.Option("--code", help="The device's code, or")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="an unclaimed device, as the operator.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What people shall call it.")] = None,
    as_json: Json = False,
) -> None:
    """Give an unclaimed device to a home, by --code or by --device."""
    from sinks import claims
    from sinks.device_details import details

    if (code is None) == (device is None):
        raise typer.BadParameter("give either --code or --device")
    with database() as conn:
        if code is not None:
            claims.count_attempt(conn, OPERATOR)
            conn.commit()
            device_id = claims.claim_by_code(conn, OPERATOR, code, home, name)
        else:
            assert device is not None
            device_id = claims.claim_as_operator(conn, device, home, name)
        tell([record(details(conn, device_id))], as_json, one=True)


def move(
    device: Device,
    home: HomeId,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="T", help="Default: now; without offset in device time."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a device to another home; the old one keeps what was measured in its time."""
    from sinks.device_homes import move_device
    from sinks.registry import resolve_device

    with database() as conn:
        found = resolve_device(conn, device)
        instant = None if at is None else instant_at(at, ZoneInfo(found.zone), "--at")
        held = move_device(conn, found.device_id, home, instant)
        tell([_owner(one) for one in held], as_json)


def list_owners(device: Device, as_json: Json = False) -> None:
    """List whose a device is and was."""
    from sinks.device_homes import owners
    from sinks.registry import resolve_device

    with database() as conn:
        held = owners(conn, resolve_device(conn, device).device_id)
        tell([_owner(one) for one in held], as_json)


def _owner(one: "Ownership") -> dict[str, object]:
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(one).items()
    }
