"""Firmware in the database: root documents, manifests, images. Nothing unsigned gets in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from schemas.firmware import Envelope, Manifest, Root
from streams.firmware.documents import (
    first_root,
    next_root,
    require_image,
    root_in,
    trusted_manifest,
)
from streams.firmware.errors import BadImage, NotTrusted, UnknownFirmware

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class FirmwareRow:
    """A row of `firmware`; without its image (`has_image`) it cannot be rolled out."""

    firmware_id: int
    sha256: str
    product: str
    hw_rev: str
    version: str
    security_counter: int
    size_bytes: int
    expires_at: datetime
    added_at: datetime
    has_image: bool


_SELECT = """
    SELECT firmware_id, sha256, product, hw_rev, version, security_counter, size_bytes,
           expires_at, added_at, EXISTS (SELECT FROM firmware_image i WHERE i.sha256 = f.sha256)
           AS has_image
    FROM firmware f"""


def add_root(conn: Connection, envelope: Envelope) -> Root:
    """Believe this root from now on; the first one because a person says so.

    The same again changes nothing. Raises NotTrusted.
    """
    with conn.transaction():
        conn.execute("LOCK TABLE firmware_root IN EXCLUSIVE MODE")
        known = roots(conn)
        said = root_in(envelope)
        if any(one.payload == envelope.payload for one in known):
            return said
        root = next_root(root_in(known[-1]), envelope) if known else first_root(envelope)
        conn.execute(
            "INSERT INTO firmware_root (version, envelope) VALUES (%s, %s)",
            [root.version, Jsonb(msgspec.to_builtins(envelope))],
        )
    return root


def roots(conn: Connection) -> list[Envelope]:
    """All root documents, the oldest first."""
    rows = conn.execute("SELECT envelope FROM firmware_root ORDER BY version").fetchall()
    return [msgspec.convert(row[0], Envelope) for row in rows]


def newest_root(conn: Connection) -> Root:
    """Raises NotTrusted if there is none."""
    known = roots(conn)
    if not known:
        raise NotTrusted("no root is known; `meterstream firmware root` brings the first")
    return root_in(known[-1])


def add_manifest(conn: Connection, envelope: Envelope) -> FirmwareRow:
    """Register a signed manifest; its image follows. The same again changes nothing.

    Raises NotTrusted.
    """
    with conn.transaction():
        manifest = trusted_manifest(envelope, newest_root(conn))
        _require_newer(conn, manifest)
        conn.execute(
            """
            INSERT INTO firmware (sha256, product, hw_rev, version, security_counter, size_bytes,
                                  expires_at, envelope)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (sha256) DO UPDATE
            SET envelope = excluded.envelope, expires_at = excluded.expires_at,
                security_counter = excluded.security_counter""",
            [
                manifest.sha256,
                manifest.product,
                manifest.hw_rev,
                manifest.version,
                manifest.security_counter,
                manifest.size,
                datetime.fromtimestamp(manifest.expires, UTC),
                Jsonb(msgspec.to_builtins(envelope)),
            ],
        )
        found = _find_all(conn, "WHERE sha256 = %s", [manifest.sha256])
    return found[0]


def _require_newer(conn: Connection, manifest: Manifest) -> None:
    """An image keeps its name, a name its image, and a manifest signed anew its counter."""
    where = "WHERE sha256 = %s OR (product, hw_rev, version) = (%s, %s, %s)"
    names = (manifest.product, manifest.hw_rev, manifest.version)
    for one in _find_all(conn, where, [manifest.sha256, *names]):
        if one.sha256 != manifest.sha256:
            raise NotTrusted(f"version {manifest.version} is another image; give a new version")
        if (one.product, one.hw_rev, one.version) != names:
            raise NotTrusted(f"this image is {one.product} {one.hw_rev} {one.version} already")
        if one.security_counter > manifest.security_counter:
            raise NotTrusted(f"its security counter was {one.security_counter} already")


def add_image(conn: Connection, firmware_id: int, image: bytes) -> None:
    """Raises UnknownFirmware, and BadImage if it is not the one that was signed."""
    with conn.transaction():
        row = find(conn, firmware_id)
        require_image(_manifest(conn, firmware_id), image)
        conn.execute(
            "INSERT INTO firmware_image (sha256, image) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [row.sha256, image],
        )


def find(conn: Connection, firmware_id: int) -> FirmwareRow:
    """Raises UnknownFirmware."""
    found = _find_all(conn, "WHERE firmware_id = %s", [firmware_id])
    if not found:
        raise UnknownFirmware(f"no firmware has the id {firmware_id}; see the list")
    return found[0]


def list_all(conn: Connection) -> list[FirmwareRow]:
    """The newest first."""
    return _find_all(conn, "ORDER BY firmware_id DESC", [])


def envelope_of(conn: Connection, firmware_id: int) -> Envelope:
    """Raises UnknownFirmware."""
    row = conn.execute(
        "SELECT envelope FROM firmware WHERE firmware_id = %s", [firmware_id]
    ).fetchone()
    if row is None:
        raise UnknownFirmware(f"no firmware has the id {firmware_id}; see the list")
    return msgspec.convert(row[0], Envelope)


def piece(conn: Connection, sha256: str, offset: int, length: int) -> tuple[bytes, int]:
    """Bytes of an image, fewer at its end, and its whole size. Raises UnknownFirmware."""
    row = conn.execute(
        "SELECT substring(image FROM %s::integer FOR %s::integer), length(image) "
        "FROM firmware_image WHERE sha256 = %s",
        [offset + 1, length, sha256],
    ).fetchone()
    if row is None:
        raise UnknownFirmware("there is no image of this name")
    return bytes(row[0]), row[1]


def require_complete(row: FirmwareRow) -> None:
    """Raises BadImage while the image is missing."""
    if not row.has_image:
        raise BadImage(f"the image of firmware {row.firmware_id} is missing; upload it first")


def _manifest(conn: Connection, firmware_id: int) -> Manifest:
    return trusted_manifest(envelope_of(conn, firmware_id), newest_root(conn))


def _find_all(conn: Connection, where: str, values: Sequence[object]) -> list[FirmwareRow]:
    with conn.cursor(row_factory=class_row(FirmwareRow)) as cursor:
        return cursor.execute(f"{_SELECT} {where}".encode(), values).fetchall()
