"""`meterstream device list|show|set|delete|presence`: what devices are, and if they are there."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.device_group import group
from infra.cli.rows import Json, database, print_table, tell

if TYPE_CHECKING:
    from sinks.device_details import DeviceDetails

Device = Annotated[str, typer.Argument(help="A name, address or id.", metavar="DEVICE")]
_NOTHING = "-"


def register(app: typer.Typer) -> None:
    group.command("list")(list_devices)
    group.command("show")(show_device)
    group.command("set")(set_device)
    group.command("delete")(delete_device)
    group.command("presence")(show_presence)


def list_devices(
    home: Annotated[str | None, typer.Option("--home", help="Only of this home.")] = None,
    unclaimed: Annotated[bool, typer.Option("--unclaimed", help="Only those of nobody.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Only deleted ones.")] = False,
    as_json: Json = False,
) -> None:
    """List devices, with home, model and presence."""
    from sinks.device_lists import ListFilter, list_devices

    with database() as conn:
        found = list_devices(conn, ListFilter(home, unclaimed, deleted))
    tell([_plain(asdict(one)) for one in found], as_json)


def show_device(device: Device, as_json: Json = False) -> None:
    """Show all that the registry knows of a device."""
    from sinks.device_details import details
    from sinks.device_homes import owners
    from sinks.device_sensors import list_sensors
    from sinks.registry import resolve_device

    with database() as conn:
        found = details(conn, resolve_device(conn, device).device_id)
        held = [_plain(asdict(one)) for one in owners(conn, found.device_id)]
        sensors = [_plain(asdict(one)) for one in list_sensors(conn, found.device_id)]
    document = record(found)
    if as_json:
        print(json.dumps(document | {"owners": held, "sensors": sensors}, ensure_ascii=False))
        return
    print_table([{"": name, " ": value} for name, value in document.items() if value is not None])
    print_table(held)
    print_table(sensors)


def set_device(
    device: Device,
    name: Annotated[str | None, typer.Option("--name")] = None,
    location: Annotated[str | None, typer.Option("--location")] = None,
    zone: Annotated[str | None, typer.Option("--zone", help="As Asia/Bangkok.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="See `device models`.")] = None,
    ip: Annotated[str | None, typer.Option("--ip")] = None,
    mac: Annotated[str | None, typer.Option("--mac")] = None,
    max_power_w: Annotated[str | None, typer.Option("--max-power-w", metavar="W")] = None,
    gap_limit_s: Annotated[str | None, typer.Option("--gap-limit-s", metavar="S")] = None,
    as_json: Json = False,
) -> None:
    """Change a device; what is not said stays, and - takes back what was set."""
    from sinks.device_details import change_device
    from sinks.registry import resolve_device

    said: dict[str, str | None] = {
        "name": name,
        "location": location,
        "zone": zone,
        "model": model,
        "ip": ip,
        "mac": mac,
        "max_power_w": max_power_w,
        "gap_limit_s": gap_limit_s,
    }
    changes = {
        field: None if text == _NOTHING else _number(field, text)
        for field, text in said.items()
        if text is not None
    }
    with database() as conn:
        found = change_device(conn, resolve_device(conn, device).device_id, changes)
        tell([record(found)], as_json, one=True)


def delete_device(
    device: Device,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a device; its readings and bills stay, and it is back once it speaks."""
    from sinks import device_homes
    from sinks.registry import resolve_device

    with database() as conn:
        found = resolve_device(conn, device)
        if not yes:
            typer.confirm(f"Delete {found.name or found.address}?", abort=True)
        device_homes.delete_device(conn, found.device_id)


def show_presence(
    device: Device,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Gaps of so many.")] = 30,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 100,
    as_json: Json = False,
) -> None:
    """Show when a device was online, late and offline, and the gaps in its data."""
    from sinks.device_details import details
    from sinks.presence_history import changes, gaps
    from sinks.registry import resolve_device

    now = datetime.now(UTC)
    with database() as conn:
        found = details(conn, resolve_device(conn, device).device_id)
        items = [_plain(asdict(one)) for one in changes(conn, found.device_id, limit)]
        silences = gaps(conn, found.device_id, now - timedelta(days=days), now)
    state: dict[str, object] = {
        "device_id": found.device_id,
        "state": found.presence,
        "since_at": _text(found.presence_since_at),
        "heard_at": _text(found.heard_at),
        "rssi_dbm": found.rssi_dbm,
        "contract": found.contract.name,
        "late_after_s": found.contract.late_after_s,
        "offline_after_s": found.contract.offline_after_s,
    }
    told_gaps = [_plain(asdict(one)) for one in silences]
    if as_json:
        print(json.dumps(state | {"items": items, "gaps": told_gaps}))
        return
    print_table([state])
    print_table(items)
    print_table(told_gaps)


def record(found: "DeviceDetails") -> dict[str, object]:
    """What is shown of a device's row."""
    told = _plain(asdict(found))
    del told["set_contract"]
    told["contract"] = found.contract.name
    return told


def _plain(row: dict[str, Any]) -> dict[str, object]:
    return {name: _text(value) for name, value in row.items()}


def _text(value: object) -> object:
    """As JSON can show it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float | str | dict | list):
        return value
    return str(value)


def _number(field: str, text: str) -> object:
    if field not in ("max_power_w", "gap_limit_s"):
        return text
    try:
        return int(text)
    except ValueError as error:
        option = "--" + field.replace("_", "-")
        raise typer.BadParameter(f"{text!r:.40} is no whole number", param_hint=option) from error
