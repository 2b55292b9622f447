"""`meterstream firmware`: keys, signed images, and how far they are rolled out."""

import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.rate import decimal_of
from infra.cli.rows import Json, database, tell

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_DAY_S = 86_400
Id = Annotated[int, typer.Argument(metavar="ID", min=1)]
KeyFile = Annotated[Path, typer.Option("--key", exists=True, dir_okay=False, help="A secret key.")]
Percent = Annotated[Decimal, typer.Option(parser=decimal_of, metavar="X")]
Days = Annotated[int, typer.Option("--days", min=1, max=36_500, help="Until it expires.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Signed firmware for nodes, and its roll-outs.")
    group.command("keygen")(keygen)
    group.command("root")(root)
    group.command("cosign")(cosign)
    group.command("node-root")(node_root)
    group.command("pack")(pack)
    group.command("sign")(sign)
    group.command("publish")(publish)
    group.command("list")(list_firmware)
    group.command("rollout")(rollout)
    group.command("status")(status)
    group.command("halt")(halt)
    group.command("resume")(resume)
    app.add_typer(group, name="firmware")


def keygen(
    into: Annotated[Path, typer.Argument(metavar="FILE", help="Gets the secret; FILE.pub not.")],
) -> None:
    """Make a key. Root keys belong on a machine without a network."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from streams.firmware.documents import key_id

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    with _refusals():
        _write_new(into, secret, 0o600)
        public = key.public_key().public_bytes_raw().hex()
        _write_new(into.with_name(into.name + ".pub"), f"{public}\n".encode(), 0o644)
    print(key_id(key.public_key()))


def root(
    into: Annotated[Path, typer.Argument(metavar="FILE", help="The signed root document.")],
    root_keys: Annotated[
        list[Path], typer.Option("--root-key", help="Public keys (.pub) that sign roots.")
    ],
    targets_keys: Annotated[
        list[Path], typer.Option("--targets-key", help="Public keys (.pub) that sign firmware.")
    ],
    sign_with: Annotated[
        list[Path], typer.Option("--sign-with", help="Secret root keys, of this root and the last.")
    ],
    version: Annotated[int, typer.Option("--version", min=1, help="One more than the last.")] = 1,
    threshold: Annotated[int, typer.Option("--threshold", min=1, help="Root keys needed.")] = 2,
    days: Days = 3650,
) -> None:
    """Make a root document: whom nodes believe. Its first version goes on nodes by cable."""
    from schemas.firmware import Root
    from streams.firmware.documents import role, sign_root

    now_s = int(time.time())
    with _refusals():
        made = Root(
            version=version,
            created=now_s,
            expires=now_s + days * _DAY_S,
            root=role([_public(one) for one in root_keys], threshold),
            targets=role([_public(one) for one in targets_keys], 1),
        )
        envelope = sign_root(made, [_secret(one) for one in sign_with])
        into.write_text(_text(envelope))
    print(f"signed by {len(envelope.signatures)}; {threshold} are needed")


def cosign(
    document: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="A root document.")
    ],
    key: KeyFile,
) -> None:
    """Add a root key's signature: the keys need not lie on one machine."""
    from schemas.firmware import ROOT_KIND
    from streams.firmware.documents import add_signature, root_in

    with _refusals():
        envelope = _envelope(document)
        needed = root_in(envelope).root.threshold
        envelope = add_signature(envelope, ROOT_KIND, _secret(key))
        document.write_text(_text(envelope))
    print(f"signed by {len(envelope.signatures)}; {needed} are needed")


def node_root(
    document: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="A root document.")
    ],
    into: Annotated[Path, typer.Argument(metavar="RECORD", help="Goes to /images/root.0.")],
) -> None:
    """Make the file that puts a root on a node by cable."""
    from infra.firmware_bundle import record_of
    from streams.firmware.documents import first_root

    with _refusals():
        into.write_bytes(record_of(first_root(_envelope(document))))


def pack(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="FOLDER")],
    into: Annotated[Path, typer.Argument(metavar="IMAGE")],
    source: Annotated[
        bool, typer.Option("--source", help="Leave .py as they are: for boards with much memory.")
    ] = False,
) -> None:
    """Make an image of an application's modules, compiled to .mpy."""
    from infra.firmware_bundle import bundle_of, compiled, files_in

    with _refusals():
        files = files_in(folder)
        image = bundle_of(files if source else compiled(files))
        into.write_bytes(image)
    print(f"{len(image)} bytes")


def sign(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="IMAGE")],
    into: Annotated[Path, typer.Argument(metavar="MANIFEST")],
    key: KeyFile,
    product: Annotated[str, typer.Option("--product")],
    hw_rev: Annotated[str, typer.Option("--hw-rev")],
    version: Annotated[str, typer.Option("--version")],
    counter: Annotated[
        int, typer.Option("--counter", min=0, help="Raise it to bar all images before.")
    ],
    days: Days = 365,
    min_bootloader: Annotated[int, typer.Option("--min-bootloader", min=0)] = 1,
) -> None:
    """Sign an image's manifest with a targets key."""
    from streams.firmware.documents import manifest_of, sign_manifest

    now_s = int(time.time())
    with _refusals():
        secret = _secret(key)
        manifest = manifest_of(
            image.read_bytes(),
            product=product,
            hw_rev=hw_rev,
            version=version,
            security_counter=counter,
            created=now_s,
            expires=now_s + days * _DAY_S,
            signer=secret.public_key(),
            min_bootloader=min_bootloader,
        )
        into.write_text(_text(sign_manifest(manifest, secret)))


def publish(
    manifest: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, metavar="MANIFEST")
    ] = None,
    image: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, metavar="IMAGE")
    ] = None,
    roots: Annotated[
        list[Path] | None, typer.Option("--root", help="Root documents, the oldest first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring root documents, or a manifest and its image, into the database: all or nothing."""
    from sinks import firmware

    with _refusals(), database() as conn, conn.transaction():
        for one in roots or []:
            firmware.add_root(conn, _envelope(one))
        if manifest is not None and image is not None:
            made = firmware.add_manifest(conn, _envelope(manifest))
            firmware.add_image(conn, made.firmware_id, image.read_bytes())
            tell([_plain(firmware.find(conn, made.firmware_id))], as_json, one=True)


def list_firmware(as_json: Json = False) -> None:
    """List firmware, the newest first."""
    from sinks import firmware

    with database() as conn:
        tell([_plain(one) for one in firmware.list_all(conn)], as_json)


def rollout(
    firmware_id: Id,
    url: Annotated[str, typer.Option("--url", help="Where nodes find the API: http://host:port.")],
    percent: Percent = Decimal(100),
    max_failed_percent: Percent = Decimal(5),
    as_json: Json = False,
) -> None:
    """Roll an image out to a part of its devices, or widen the part that it may reach."""
    from sinks import firmware_rollouts as rollouts

    with _refusals(), database() as conn:
        running = [
            one
            for one in rollouts.list_all(conn)
            if one.firmware_id == firmware_id and one.state != "stopped"
        ]
        if running:
            row = rollouts.set_percent(conn, running[0].rollout_id, percent)
        else:
            row = rollouts.start(
                conn,
                firmware_id,
                base_url=url,
                percent=percent,
                max_failed_percent=max_failed_percent,
                made_by=_caller(),
            )
        tell([_plain(row)], as_json, one=True)


def status(
    rollout_id: Annotated[int | None, typer.Argument(metavar="ID", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Show how far roll-outs are; of one, the state of each device."""
    from sinks import firmware_rollouts as rollouts

    with _refusals(), database() as conn:
        if rollout_id is None:
            tell([_plain(one) for one in rollouts.list_all(conn)], as_json)
            return
        found = _plain(rollouts.find(conn, rollout_id))
        each = [_plain(one) for one in rollouts.devices(conn, rollout_id, 0, 100_000)]
    if as_json:
        print(json.dumps(found | {"devices": each}))
        return
    tell([found], False)
    tell(each, False)


def halt(rollout_id: Id, as_json: Json = False) -> None:
    """Tell no further device to update."""
    from sinks import firmware_rollouts as rollouts

    with _refusals(), database() as conn:
        tell([_plain(rollouts.halt(conn, rollout_id, _caller()))], as_json, one=True)


def resume(rollout_id: Id, as_json: Json = False) -> None:
    """Go on after a halt; what failed so far is forgiven."""
    from sinks import firmware_rollouts as rollouts

    with _refusals(), database() as conn:
        tell([_plain(rollouts.resume(conn, rollout_id))], as_json, one=True)


def _refusals() -> Any:
    """What is wrong with a key, a document or an image: one line, exit 65."""
    from contextlib import contextmanager

    import msgspec

    from streams.firmware.errors import FirmwareError

    @contextmanager
    def told() -> Any:
        try:
            yield
        except (FirmwareError, msgspec.ValidationError, msgspec.DecodeError, OSError) as error:
            typer.echo(f"meterstream: {error}", err=True)
            raise typer.Exit(os.EX_DATAERR) from error

    return told()


def _secret(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from streams.firmware.errors import NotTrusted

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise NotTrusted(f"{path} holds no secret key; make one with keygen") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise NotTrusted(f"{path} is no Ed25519 key; make one with keygen")
    return key


def _public(path: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from streams.firmware.errors import NotTrusted

    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(path.read_text().strip()))
    except ValueError as error:
        raise NotTrusted(f"{path} holds no public key; give the .pub of keygen") from error


def _envelope(path: Path) -> Any:
    import msgspec

    from schemas.firmware import Envelope

    return msgspec.json.decode(path.read_bytes(), type=Envelope)


def _text(envelope: object) -> str:
    import msgspec

    return msgspec.json.encode(envelope).decode() + "\n"


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """A secret is never overwritten, nor readable by others for a moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _plain(row: object) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(row)
    return plain


def _caller() -> str:
    return f"user:{os.environ.get('USER') or 'operator'}"
