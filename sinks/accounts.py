"""Devices' accounts on the MQTT broker: the database's side, which is the truth.

Never the token: its PBKDF2 hash as the broker stores it, and its SHA-256 for HTTP.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import psycopg
from psycopg.rows import class_row

from schemas.mqtt_rights import name_in_all_homes, rights_of
from sinks.dynamic_security import Account, Hash, hash_password
from sinks.registry import RegistryError

TOKEN_CHARACTERS = 64
"""Hexadecimal ones."""


class NoSuchAccount(RegistryError):
    """The device has no account, or no more."""


class NodeNameTaken(RegistryError):
    """Another home's device has this name, on topics that name no home."""


@dataclass(frozen=True)
class AccountRow:
    """A device's account; `revoked_at` is set when it may not connect any more."""

    device_id: int
    address: str
    name: str | None
    home_id: str | None
    user_name: str
    created_at: datetime
    token_at: datetime
    revoked_at: datetime | None

    @property
    def account(self) -> Account:
        """As the broker has it; the client id is the user's name."""
        return Account(self.user_name, self.user_name, rights_of(self.address))


_SELECT = """
    SELECT device_id, address, name, home_id, user_name, created_at, token_at, revoked_at
    FROM mqtt_account JOIN device USING (device_id)
"""


def lock_accounts(conn: psycopg.Connection[Any]) -> None:
    """One change of accounts at a time, until the transaction's end: database and broker agree."""
    conn.execute("SELECT pg_advisory_xact_lock(7308)")


def list_accounts(conn: psycopg.Connection[Any]) -> list[AccountRow]:
    """Every account, revoked ones too, by device."""
    with conn.cursor(row_factory=class_row(AccountRow)) as cursor:
        return cursor.execute(_SELECT + "ORDER BY device_id").fetchall()


def find_account(conn: psycopg.Connection[Any], device_id: int) -> AccountRow | None:
    with conn.cursor(row_factory=class_row(AccountRow)) as cursor:
        return cursor.execute(_SELECT + "WHERE device_id = %s", [device_id]).fetchone()


def active_accounts(conn: psycopg.Connection[Any]) -> list[tuple[Account, Hash]]:
    """What the broker should have; none if the database has no such table yet."""
    found = conn.execute("SELECT to_regclass('mqtt_account') IS NOT NULL").fetchone()
    if not (found and found[0]):
        return []
    rows = conn.execute(
        "SELECT user_name, address, password_hash, password_salt, password_rounds "
        "FROM mqtt_account JOIN device USING (device_id) WHERE revoked_at IS NULL "
        "ORDER BY device_id"
    ).fetchall()
    return [
        (Account(user, user, rights_of(address)), Hash(bytes(digest), bytes(salt), rounds))
        for user, address, digest, salt, rounds in rows
    ]


def keep_token(conn: psycopg.Connection[Any], device_id: int, address: str, token: str) -> str:
    """Make a device's account, or let its account have this token. Returns its user name.

    Raises NodeNameTaken.
    """
    hash = hash_password(token)
    family = address.partition(":")[0]
    try:
        row = conn.execute(
            _KEEP,
            {
                "device_id": device_id,
                "user_name": f"{family}-{device_id}",
                "digest": hash.digest,
                "salt": hash.salt,
                "rounds": hash.rounds,
                "token_sha256": sha256(token.encode()).digest(),
                "node": name_in_all_homes(address),
            },
        ).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise NodeNameTaken(
            f"another home's device is named {name_in_all_homes(address)!r}, and the topics "
            "device/… and cmd/… of this family name no home; choose another node_id"
        ) from error
    assert row is not None
    return str(row[0])


_KEEP = """
    INSERT INTO mqtt_account (device_id, user_name, password_hash, password_salt, password_rounds,
                              token_sha256, node)
    VALUES (%(device_id)s, %(user_name)s, %(digest)s, %(salt)s, %(rounds)s, %(token_sha256)s,
            %(node)s)
    ON CONFLICT (device_id) DO UPDATE SET
        password_hash = excluded.password_hash, password_salt = excluded.password_salt,
        password_rounds = excluded.password_rounds, token_sha256 = excluded.token_sha256,
        token_at = now(), revoked_at = NULL
    RETURNING user_name"""


def mark_revoked(conn: psycopg.Connection[Any], device_id: int) -> None:
    conn.execute("UPDATE mqtt_account SET revoked_at = now() WHERE device_id = %s", [device_id])
