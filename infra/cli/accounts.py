"""`meterstream device provision|revoke|accounts`, `meterstream accounts`: accounts of devices."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.device_group import group as device_group
from infra.cli.rows import Json, database, tell

if TYPE_CHECKING:
    from schemas.connections import AccountsConnection
    from sinks.accounts import AccountRow
    from sinks.broker_control import BrokerControl
    from sinks.dynamic_security import Drift
    from sinks.provisioning import Provisioned

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Name, address or id.")]
EXIT_DRIFT = 1


def register(app: typer.Typer) -> None:
    device_group.command("provision")(provision)
    device_group.command("revoke")(revoke)
    device_group.command("accounts")(list_accounts)
    accounts = typer.Typer(no_args_is_help=True, help="Accounts on the broker, and their truth.")
    accounts.command("reconcile")(reconcile)
    app.add_typer(accounts, name="accounts")


def provision(
    node_id: Annotated[str, typer.Argument(metavar="NODE", help="a-z, 0-9 and -; up to 64.")],
    home: Annotated[str, typer.Option("--home", metavar="HOME", help="The id of its home.")],
    name: Annotated[str | None, typer.Option("--name", help="Else the node's.")] = None,
    location: Annotated[str | None, typer.Option("--location")] = None,
    family: Annotated[str, typer.Option("--family")] = "homesync",
    rotate: Annotated[
        bool, typer.Option("--rotate", help="A new token for a device that has an account.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register a device and give it an account on the broker; its token is shown this once."""
    from schemas.mqtt_rights import NoAccount, address_of_node
    from sinks import provisioning
    from sinks.registry import resolve_device

    with _told(), database() as conn:
        if rotate:
            try:
                address = address_of_node(family, home, node_id)
            except NoAccount as error:
                raise provisioning.NotProvisionable(str(error)) from error
            made = provisioning.rotate_token(conn, _control(), resolve_device(conn, address))
        else:
            made = provisioning.provision(
                conn,
                _control(),
                node_id=node_id,
                name=name or node_id,
                home_id=home,
                family=family,
                location=location,
            )
    _tell_provisioned(made, as_json)


def revoke(device: Device) -> None:
    """Take a device's account away; it is off at once."""
    from sinks import provisioning
    from sinks.registry import resolve_device

    with _told(), database() as conn:
        provisioning.revoke(conn, _control(), resolve_device(conn, device))


def list_accounts(as_json: Json = False) -> None:
    """List devices' accounts on the broker."""
    from sinks import accounts

    with database() as conn:
        tell([_row(one) for one in accounts.list_accounts(conn)], as_json)


def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell; exit 1 if they differ.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Bring missing accounts back: restarts the local broker."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the broker's accounts those of the database.

    Accounts that should not be are removed and changed ones mended at once. Missing ones come back
    from the database with a restart only, for the broker takes a password's hash from no one.
    """
    from infra.cli.stack import settings_from_environment
    from infra.local import broker
    from infra.local.stack import Stack
    from sinks import provisioning

    services = broker.service_accounts()
    with _told(), database() as conn:
        look = provisioning.look_for_drift if dry_run else provisioning.reconcile
        found = look(conn, _control(), services)
    if found.missing and restart and not dry_run:
        Stack(settings_from_environment()).restart_broker()
        with _told(), database() as conn:
            left = provisioning.look_for_drift(conn, _control(), services)
    else:
        left = found if dry_run else found._replace(extra=[], changed=[])
    _tell_drift(found, left, as_json)
    if left:
        raise typer.Exit(EXIT_DRIFT)


def _tell_provisioned(made: "Provisioned", as_json: bool) -> None:
    connection = _connection()
    config = {
        "host": connection.device_host,
        "port": connection.port,
        "tls": True,
        "caFile": str(connection.ca_file),
        "user": made.user_name,
        "clientId": made.user_name,
        "token": made.token,
        "topics": made.rights._asdict(),
    }
    device = {"id": made.device_id, "address": made.address}
    if as_json:
        print(json.dumps({"device": device, "mqttConfig": config}))
        return
    for name, value in (device | config).items():
        print(f"{name:9} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")


def _tell_drift(found: "Drift", left: "Drift", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"found": found._asdict(), "left": left._asdict()}))
        return
    if not found:
        print("broker and database agree")
    for what, names in found._asdict().items():
        for name in names:
            print(f"{what}: {name}{'' if name not in getattr(left, what) else ' (still)'}")


def _connection() -> "AccountsConnection":
    """As the environment says, else of the local stack."""
    from infra.cli.stack import settings_from_environment
    from infra.local.broker import accounts_connection
    from schemas.connections import AccountsConnection

    given = AccountsConnection()
    if given.admin_password_file is not None:
        return given
    return accounts_connection(settings_from_environment())


def _control() -> "BrokerControl":
    from sinks.broker_control import BrokerControl

    return BrokerControl(_connection())


@contextmanager
def _told() -> Iterator[None]:
    """The broker's troubles in one line; those of the database are `rows.database`'s."""
    from infra.local.errors import StackError
    from sinks.broker_control import BrokerAway, BrokerRefused

    try:
        yield
    except (BrokerAway, BrokerRefused) as error:
        raise StackError(f"{error}; nothing was changed") from error


def _row(one: "AccountRow") -> dict[str, object]:
    return {
        "device_id": one.device_id,
        "address": one.address,
        "name": one.name,
        "user": one.user_name,
        "state": "active" if one.revoked_at is None else "revoked",
        "token_at": one.token_at.isoformat(),
        "revoked_at": one.revoked_at and one.revoked_at.isoformat(),
    }
