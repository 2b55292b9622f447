"""Idempotency keys: the same key and body are the same command, however often they come."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from sinks.command_errors import KeyReused
from sinks.commands import CommandRow, find_all

KEPT = "48 hours"


class Answered(NamedTuple):
    commands: list[CommandRow]
    repeated: bool


def once(
    conn: psycopg.Connection[Any],
    principal: str,
    key: str | None,
    body: object,
    work: Callable[[], Sequence[CommandRow]],
) -> Answered:
    """Do `work`, once for each key of a principal; the same key again gives the same commands.

    A second request waits for the first. Work that raises leaves no key. `body` is what JSON can
    say. Raises KeyReused if the key came with another body.
    """
    if key is None:
        return Answered(list(work()), False)
    body_sha256 = hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()
    with conn.transaction():
        mine = conn.execute(
            "INSERT INTO command_key (principal, key, body_sha256) VALUES (%s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            [principal, key, body_sha256],
        ).rowcount
        if not mine:
            known = conn.execute(
                "SELECT body_sha256, command_ids FROM command_key "
                "WHERE principal = %s AND key = %s",
                [principal, key],
            ).fetchone()
            assert known is not None
            if bytes(known[0]) != body_sha256:
                raise KeyReused(
                    "this Idempotency-Key came with another command; take a new key for a new one"
                )
            ids: list[UUID] = known[1]
            return Answered(find_all(conn, ids), True)
        done = list(work())
        conn.execute(
            "UPDATE command_key SET command_ids = %s WHERE principal = %s AND key = %s",
            [[one.command_id for one in done], principal, key],
        )
    return Answered(done, False)


def forget_old_keys(conn: psycopg.Connection[Any]) -> None:
    conn.execute("DELETE FROM command_key WHERE made_at < now() - %s::interval", [KEPT])
