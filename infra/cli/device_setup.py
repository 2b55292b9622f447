"""`meterstream device config|sensors|sensor|models|model`: how devices are set up."""

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.device_group import group
from infra.cli.device_owners import OPERATOR
from infra.cli.devices import Device
from infra.cli.rate import decimal_of
from infra.cli.rows import Json, database, print_table, tell

if TYPE_CHECKING:
    from schemas.models import Model
    from sinks.device_configs import Configuration
    from sinks.device_sensors import Sensor


def register(app: typer.Typer) -> None:
    group.command("config")(config)
    group.command("sensors")(list_sensors)
    group.command("sensor")(set_sensor)
    group.command("models")(list_models)
    group.command("model")(set_model)


def config(
    device: Device,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]…", help="Values are JSON, else text."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Only these; else the others stay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how a device shall be set up and how it is, or set it: a new version."""
    from sinks.device_configs import configuration, set_desired, versions
    from sinks.registry import resolve_device

    wanted = dict(_setting(text) for text in settings or ())
    with database() as conn:
        found = resolve_device(conn, device)
        if wanted or replace:
            newest = versions(conn, found.device_id, 1)
            before = newest[0].config if newest and not replace else {}
            set_desired(conn, found.device_id, before | wanted, OPERATOR)
        document = _configuration(configuration(conn, found.device_id))
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
        return
    desired = document["desired"]
    if desired:
        rows = {"version": desired["version"], **desired["config"]}
        print_table([{"desired": name, "": json.dumps(value)} for name, value in rows.items()])
    reported = document["reported"]
    print_table([{"reported": name, "": json.dumps(value)} for name, value in reported.items()])
    print_table(document["differences"])


def list_sensors(device: Device, as_json: Json = False) -> None:
    """List what hangs on the channels of a device."""
    from sinks.device_sensors import list_sensors
    from sinks.registry import resolve_device

    with database() as conn:
        found = list_sensors(conn, resolve_device(conn, device).device_id)
        tell([_sensor(one) for one in found], as_json)


def set_sensor(
    device: Device,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL")],
    sensor_type: Annotated[str, typer.Argument(metavar="TYPE", help="PZEM-004T, CT-clamp, …")],
    address: Annotated[
        str | None, typer.Option("--address", help="On its bus, or its pin.")
    ] = None,
    ct_ratio: Annotated[
        Decimal | None, typer.Option("--ct-ratio", parser=decimal_of, metavar="X")
    ] = None,
    calibration: Annotated[
        list[str] | None, typer.Option("--calibration", metavar="VALUE=FACTOR")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="It is gone.")] = False,
    as_json: Json = False,
) -> None:
    """Set or remove a sensor of a channel."""
    from sinks import device_sensors
    from sinks.registry import resolve_device

    factors = dict(_setting(text) for text in calibration or ())
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in factors.values()):
        raise typer.BadParameter(
            "a factor is a number, as power_w=1.02", param_hint="--calibration"
        )
    with database() as conn:
        device_id = resolve_device(conn, device).device_id
        if remove:
            device_sensors.remove_sensor(conn, device_id, channel, sensor_type)
        else:
            sensor = device_sensors.Sensor(channel, sensor_type, address, ct_ratio, factors)
            device_sensors.set_sensor(conn, device_id, sensor)
        tell([_sensor(one) for one in device_sensors.list_sensors(conn, device_id)], as_json)


def list_models(as_json: Json = False) -> None:
    """List models and what each promises; family:… holds for devices of no known model."""
    from sinks.presence import models

    with database() as conn:
        tell([_model(one) for one in models(conn).values()], as_json)


def set_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="As devices say it.")],
    family: Annotated[str | None, typer.Option("--family")] = None,
    interval_s: Annotated[
        int | None, typer.Option("--interval-s", help="It speaks so often.")
    ] = None,
    late_s: Annotated[int | None, typer.Option("--late-s", help="Late after so long.")] = None,
    offline_s: Annotated[
        int | None, typer.Option("--offline-s", help="Offline after that.")
    ] = None,
    gap_s: Annotated[int | None, typer.Option("--gap-s", help="The longest gap bridged.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="As it is shipped again.")] = False,
    as_json: Json = False,
) -> None:
    """Set what a model promises; what is not said stays as it was."""
    from msgspec.structs import replace

    from schemas.models import Model
    from sinks import models
    from sinks.presence import models as all_models

    with database() as conn:
        if remove:
            models.remove_model(conn, name)
        else:
            known = all_models(conn).get(name)
            if known is None:
                if family is None or interval_s is None or late_s is None or offline_s is None:
                    raise typer.BadParameter(
                        "a new model needs --family, --interval-s, --late-s and --offline-s"
                    )
                known = Model(name, family, interval_s, late_s, offline_s)
            said = {
                "family": family,
                "expected_interval_s": interval_s,
                "late_after_s": late_s,
                "offline_after_s": offline_s,
                "longest_gap_s": gap_s,
            }
            changes: dict[str, Any] = {n: value for n, value in said.items() if value is not None}
            models.set_model(conn, replace(known, **changes))
        tell([_model(one) for one in all_models(conn).values() if one.name == name], as_json)


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{text!r:.60} is no NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _configuration(found: "Configuration") -> dict[str, Any]:
    desired = None
    if found.desired is not None:
        desired = asdict(found.desired) | {"set_at": found.desired.set_at.isoformat()}
    return {
        "desired": desired,
        "reported": found.reported,
        "reported_version": found.reported_version,
        "reported_at": None if found.reported_at is None else found.reported_at.isoformat(),
        "in_step": found.in_step,
        "differences": [one._asdict() for one in found.differences],
    }


def _sensor(one: "Sensor") -> dict[str, object]:
    ratio = None if one.ct_ratio is None else f"{one.ct_ratio:f}"
    return asdict(one) | {"ct_ratio": ratio}


def _model(one: "Model") -> dict[str, object]:
    from msgspec import to_builtins

    found: dict[str, object] = to_builtins(one)
    return found | {"capabilities": list(one.capabilities)}
