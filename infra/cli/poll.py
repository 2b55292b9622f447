"""`meterstream poll`: devices that are asked over HTTP, and silences that are asked for."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.rows import Json, database, tell

if TYPE_CHECKING:
    import psycopg

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Name, address or id.")]


def register(app: typer.Typer) -> None:
    poll = typer.Typer(
        no_args_is_help=True, help="Devices that are asked themselves, and for what they stored."
    )
    poll.command("set")(set_poll)
    poll.command("list")(list_polls)
    poll.command("drop")(drop_poll)
    poll.command("silences")(list_silences)
    app.add_typer(poll, name="poll")


def set_poll(
    device: Device,
    host: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="Default: the registry's ip.")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(metavar="NAME", help="A file of the poller's folder of secrets.")
    ] = None,
    every_s: Annotated[int, typer.Option(min=1, max=3600, help="While it is asked.")] = 10,
    silent_after_s: Annotated[
        int | None, typer.Option(min=1, help="Default: when its model's contract calls it late.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a Shelly over HTTP while its MQTT is silent, or change how."""
    from ingest.poller.http_status import CannotAsk, can_be_asked, require_host, require_secret_name
    from sinks.polled_devices import poll_device
    from sinks.registry import resolve_device

    with database() as conn:
        found = resolve_device(conn, device)
        if not can_be_asked(found.address):
            raise typer.BadParameter(f"{found.address} is no Shelly; only these can be asked")
        try:
            if host is not None:
                require_host(host)
            if secret is not None:
                require_secret_name(secret)
        except CannotAsk as error:
            raise typer.BadParameter(str(error)) from None
        poll_device(conn, found.device_id, host, secret, every_s, silent_after_s)
        tell(_polled(conn), as_json)


def list_polls(as_json: Json = False) -> None:
    """List the devices that are asked while they are silent."""
    with database() as conn:
        tell(_polled(conn), as_json)


def drop_poll(device: Device, as_json: Json = False) -> None:
    """Ask a device no more."""
    from sinks.polled_devices import leave_device
    from sinks.registry import resolve_device

    with database() as conn:
        leave_device(conn, resolve_device(conn, device).device_id)
        tell(_polled(conn), as_json)


def list_silences(device: Device, as_json: Json = False) -> None:
    """List the silences of a meter that were noted, and how far they are asked for."""
    from sinks.backfills import backfills_of
    from sinks.registry import resolve_device

    with database() as conn:
        found = backfills_of(conn, resolve_device(conn, device).device_id)
        tell(found, as_json)


def _polled(conn: "psycopg.Connection[Any]") -> list[dict[str, object]]:
    from sinks.polled_devices import listed_devices

    return listed_devices(conn)
