"""`meterstream ca`: the certificate authority of this installation."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.rows import Json, tell

if TYPE_CHECKING:
    from infra.local.authority import Authority, Issued

Name = Annotated[str, typer.Argument(metavar="NAME", help="Common name: a device's user name.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="The certificate authority of this installation: what the broker and devices show.",
    )
    group.command("init")(init)
    group.command("issue")(issue)
    group.command("list")(list_issued)
    group.command("revoke")(revoke)
    group.command("renew")(renew)
    app.add_typer(group, name="ca")


def init() -> None:
    """Make root and issuing CA; `meterstream up` does so too."""
    authority = _authority()
    made = authority.init(datetime.now(UTC))
    print(f"{'made' if made else 'there already'}: {authority.root}")
    key = authority.folder / "root.key"
    if key.exists():
        print(f"move {key} to a place that no network reaches; issuing does not need it")


def issue(
    name: Name,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="HOST", help="For a server of this name or address."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and a certificate for 90 days: a client's, or with --server a server's."""
    authority = _authority()
    issued = authority.issue(name, datetime.now(UTC), tuple(server or ()))
    files = {"certificate": str(authority.certificate(name)), "key": str(authority.key(name))}
    tell([_row(issued) | files], as_json, one=True)


def list_issued(as_json: Json = False) -> None:
    """List every certificate that was ever issued."""
    tell([_row(one) for one in _authority().issued()], as_json)


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|SERIAL", help="A certificate's.")],
    as_json: Json = False,
) -> None:
    """Revoke certificates, write the CRL and let a running broker read it.

    A connection that stands is not ended by it: `meterstream device revoke` does that.
    """
    revoked = _authority().revoke(name, datetime.now(UTC))
    _tell_broker()
    tell([_row(one) for one in revoked], as_json)


def renew() -> None:
    """Renew the broker's certificate within a month of its end, and its CRL; `up` does so too."""
    print("renewed" if _tell_broker() else "the broker's certificate is good; a new CRL was made")


def _tell_broker() -> bool:
    """Give the broker its files; whether its certificate is a new one."""
    from infra.cli.stack import settings_from_environment
    from infra.local import broker
    from infra.local.errors import StackError
    from infra.local.stack import Stack

    settings = settings_from_environment()
    if not broker.folder_of(settings).is_dir():
        return False
    renewed = broker.write_certificates(settings)
    with suppress(StackError):  # it does not run: it reads them when it starts
        broker.reload(Stack(settings).server_pid("mosquitto"))
    return renewed


def _authority() -> "Authority":
    from infra.cli.stack import settings_from_environment
    from infra.local.broker import authority_of

    return authority_of(settings_from_environment())


def _row(issued: "Issued") -> dict[str, object]:
    return {
        "name": issued.name,
        "serial": issued.serial,
        "for": ", ".join(issued.server_names) or "client",
        "not_after": issued.not_after,
        "revoked_at": issued.revoked_at,
    }
