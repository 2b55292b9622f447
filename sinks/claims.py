"""Claiming a device: by its code, or by showing that one stands beside it."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from schemas.topics import RAW
from sinks.contracts import find_home
from sinks.registry import BadEntry, RegistryError, UnknownDevice, claim_device, resolve_device

CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without 0 O 1 I, which look alike: 32 letters, so 8 of them are 40 bits."""

CODE_LENGTH = 8
CODE_LIFE = timedelta(days=30)
LONGEST_CODE_LIFE = timedelta(days=366)
PROOF_S = 60
MOST_ATTEMPTS = 10  # of one person in a quarter of an hour
MOST_ATTEMPTS_OF_ALL = 300
_ATTEMPTS_WITHIN = timedelta(minutes=15)
_PRESSES = ("sys_btn_push", "btn_down", "btn_up", "single_push", "double_push", "long_push",
            "input_event", "button")  # fmt: skip


class BadClaim(BadEntry):
    """A claim that does not hold: a wrong or old code, or nothing was pressed in time."""


class AlreadyClaimed(RegistryError):
    """The device has a home."""


class TooManyClaims(RegistryError):
    """Somebody guesses codes; `retry_after_s` says when to try again."""

    retry_after_s = int(_ATTEMPTS_WITHIN.total_seconds())


@dataclass(frozen=True, slots=True)
class Proof:
    """What was asked of somebody who stands beside the device."""

    proof_id: UUID
    device_id: int
    home_id: str
    expires_at: datetime


# ---------------------------------------------------------------- codes


def make_code(
    conn: psycopg.Connection[Any],
    device_id: int,
    made_by: str,
    *,
    life: timedelta = CODE_LIFE,
    code: str | None = None,
) -> tuple[str, datetime]:
    """A new code that claims the device once, and when it ends. Only its hash is kept.

    The device's earlier code is void. Raises BadClaim, AlreadyClaimed and UnknownDevice.
    """
    if not timedelta(0) < life <= LONGEST_CODE_LIFE:
        raise BadClaim(f"a code cannot live {life}; give at most {LONGEST_CODE_LIFE.days} days")
    given = _spelt(code) if code is not None else _random_code()
    if len(given) != CODE_LENGTH or not set(given) <= set(CODE_LETTERS):
        raise BadClaim(f"a code has {CODE_LENGTH} letters of {CODE_LETTERS}")
    expires_at = datetime.now(UTC) + life
    with conn.transaction():
        _unclaimed(conn, device_id)
        conn.execute("DELETE FROM claim_code WHERE device_id = %s", [device_id])
        made = conn.execute(
            "INSERT INTO claim_code (code_sha256, device_id, made_by, expires_at) "
            "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [_hash(given), device_id, made_by, expires_at],
        )
        if not made.rowcount:
            raise BadClaim("another device has this code; take another one")
    return given, expires_at


def count_attempt(conn: psycopg.Connection[Any], who: str) -> None:
    """Note that somebody tries a code; the caller commits it whatever comes of it.

    Raises TooManyClaims.
    """
    conn.execute("DELETE FROM claim_attempt WHERE at < now() - %s::interval", [_ATTEMPTS_WITHIN])
    conn.execute("INSERT INTO claim_attempt (who) VALUES (%s)", [who])
    row = conn.execute(
        "SELECT count(*) FILTER (WHERE who = %s), count(*) FROM claim_attempt", [who]
    ).fetchone()
    assert row is not None
    if row[0] > MOST_ATTEMPTS or row[1] > MOST_ATTEMPTS_OF_ALL:
        raise TooManyClaims("too many codes were tried; wait a quarter of an hour")


def claim_by_code(
    conn: psycopg.Connection[Any], who: str, code: str, home_id: str, name: str | None = None
) -> int:
    """Give the device of this code to the home; returns its id. The code is used up.

    To be called after `count_attempt`, which forgets what succeeded. Raises BadClaim,
    AlreadyClaimed, UnknownHome and NameTaken.
    """
    with conn.transaction():
        home = find_home(conn, home_id)
        row = conn.execute(
            "DELETE FROM claim_code WHERE code_sha256 = %s AND expires_at > clock_timestamp() "
            "RETURNING device_id",
            [_hash(_spelt(code))],
        ).fetchone()
        if row is None:
            raise BadClaim("no device waits for this code; it may be mistyped, used or too old")
        address = _unclaimed(conn, row[0])
        conn.execute(
            "DELETE FROM claim_attempt WHERE ctid = (SELECT ctid FROM claim_attempt "
            "WHERE who = %s ORDER BY at DESC LIMIT 1)",
            [who],
        )
        return claim_device(conn, address, name, home_id, home.zone)


def claim_as_operator(
    conn: psycopg.Connection[Any], device: str, home_id: str, name: str | None
) -> int:
    """Give an unclaimed device to the home, without code or proof; returns its id.

    Raises UnknownDevice, AmbiguousDevice, AlreadyClaimed, UnknownHome and NameTaken.
    """
    with conn.transaction():
        home = find_home(conn, home_id)
        address = _unclaimed(conn, resolve_device(conn, device).device_id)
        return claim_device(conn, address, name, home_id, home.zone)


# ---------------------------------------------------------------- presence


def ask_for_proof(
    conn: psycopg.Connection[Any], device_id: int, home_id: str, asked_by: str, name: str | None
) -> Proof:
    """Ask somebody to press the device's button or to switch its relay within `PROOF_S`.

    One at a time may ask for a device. Raises BadClaim, AlreadyClaimed, UnknownHome, UnknownDevice.
    """
    expires_at = datetime.now(UTC) + timedelta(seconds=PROOF_S)
    proof = Proof(uuid4(), device_id, home_id, expires_at)
    with conn.transaction():
        find_home(conn, home_id)
        _unclaimed(conn, device_id)
        conn.execute(
            "DELETE FROM claim_proof WHERE device_id = %s AND expires_at < clock_timestamp()",
            [device_id],
        )
        made = conn.execute(
            """
            INSERT INTO claim_proof (proof_id, device_id, home_id, name, asked_by, expires_at,
                                     offsets, relays)
            SELECT %s, %s, %s, %s, %s, %s,
                   (SELECT coalesce(jsonb_object_agg(part, next_offset), '{}') FROM stream_progress
                    WHERE topic = %s),
                   (SELECT coalesce(jsonb_object_agg(channel, value), '{}') FROM device_state
                    WHERE device_id = %s AND field = 'relay')
            ON CONFLICT (device_id) DO NOTHING""",
            [
                proof.proof_id,
                device_id,
                home_id,
                name,
                asked_by,
                expires_at,
                RAW.name,
                device_id,
            ],
        )
        if not made.rowcount:
            raise BadClaim(f"somebody else is claiming the device; try again in {PROOF_S} s")
    return proof


def claim_by_proof(conn: psycopg.Connection[Any], proof_id: UUID, asked_by: str) -> int | None:
    """Give the device to the home if it was pressed or switched since; None: not yet.

    Raises BadClaim when the time is over or somebody else asked, AlreadyClaimed and NameTaken.
    """
    with conn.transaction():
        row = conn.execute(_PROOF, [proof_id, asked_by]).fetchone()
        if row is None:
            raise BadClaim("nobody waits for this proof, or its time is over; ask anew")
        device_id, home_id, name, offsets, relays = row
        address = _unclaimed(conn, device_id)
        if not (_pressed(conn, device_id, offsets) or _switched(conn, device_id, relays)):
            return None
        conn.execute("DELETE FROM claim_proof WHERE proof_id = %s", [proof_id])
        return claim_device(conn, address, name, home_id, find_home(conn, home_id).zone)


_PROOF = """
    SELECT device_id, home_id, name, offsets, relays FROM claim_proof
    WHERE proof_id = %s AND asked_by = %s AND expires_at > clock_timestamp() FOR UPDATE"""


def _pressed(conn: psycopg.Connection[Any], device_id: int, offsets: dict[str, int]) -> bool:
    """Whether the log has the press of a button after these offsets."""
    row = conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM device_event e
            WHERE e.device_id = %s AND e.name = ANY (%s)
              AND e.log_offset >= coalesce((%s::jsonb ->> e.part::text)::bigint, 0))""",
        [device_id, list(_PRESSES), json.dumps(offsets)],
    ).fetchone()
    assert row is not None
    return bool(row[0])


def _switched(conn: psycopg.Connection[Any], device_id: int, relays: dict[str, object]) -> bool:
    """Whether a relay that was known is now the other way round."""
    row = conn.execute(
        """
        SELECT EXISTS (
            SELECT FROM device_state
            WHERE device_id = %(device)s AND field = 'relay'
              AND (%(relays)s::jsonb -> channel) IS DISTINCT FROM value
              AND %(relays)s::jsonb ? channel)""",
        {"device": device_id, "relays": Jsonb(relays)},
    ).fetchone()
    assert row is not None
    return bool(row[0])


def _unclaimed(conn: psycopg.Connection[Any], device_id: int) -> str:
    """The address of the device, which is locked. Raises UnknownDevice and AlreadyClaimed."""
    row = conn.execute(
        "SELECT address, home_id FROM device WHERE device_id = %s FOR UPDATE", [device_id]
    ).fetchone()
    if row is None:
        raise UnknownDevice(f"no device has the id {device_id}; see the list of devices")
    if row[1] is not None:
        raise AlreadyClaimed("the device has a home already; who has it can move it")
    return str(row[0])


def _random_code() -> str:
    return "".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_LENGTH))


def _spelt(code: str) -> str:
    """As it is compared: people write `abcd-efgh` too."""
    return code.upper().replace("-", "").replace(" ", "")


def _hash(code: str) -> bytes:
    return sha256(code.encode(errors="replace")).digest()
