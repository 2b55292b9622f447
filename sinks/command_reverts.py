"""Switchings that are taken back after a time: load that somebody shed, and forgot."""

from typing import Any, NamedTuple
from uuid import UUID

import psycopg

Connection = psycopg.Connection[Any]


class DueRevert(NamedTuple):
    command_id: UUID
    device_id: int
    channel: str | None
    kind: str


_DUE = """
    SELECT command_id, device_id, channel, kind FROM command
    WHERE revert_at <= now() ORDER BY revert_at LIMIT %s"""
_SETTLED = """
    UPDATE command c SET revert_at = NULL
    WHERE c.revert_at <= now() AND (
        EXISTS (SELECT FROM command n
                WHERE n.device_id = c.device_id AND n.command_seq > c.command_seq
                  AND n.channel IS NOT DISTINCT FROM c.channel AND n.kind IN ('on', 'off')
                  AND n.state = 'done')
        OR EXISTS (SELECT FROM device_state s
                   WHERE s.device_id = c.device_id AND s.channel = coalesce(c.channel, '')
                     AND s.field = 'relay' AND s.value = to_jsonb(c.kind = 'off')
                     AND s.measured_at > c.sent_at))"""
_UNDECIDED = """
    SELECT c.command_id FROM command c
    WHERE c.revert_at <= now() AND EXISTS (
        SELECT FROM command n
        WHERE n.device_id = c.device_id AND n.command_seq > c.command_seq
          AND n.channel IS NOT DISTINCT FROM c.channel AND n.kind IN ('on', 'off')
          AND n.state IN ('accepted', 'sent', 'received'))"""


def due_reverts(conn: Connection, most: int) -> list[DueRevert]:
    """Switchings that are to be taken back now.

    Not those after which another switching of the relay was done, or whose relay has gone back by
    itself; those with a newer one under way wait for its end.
    """
    with conn.transaction():
        conn.execute(_SETTLED)
        undecided = {one for (one,) in conn.execute(_UNDECIDED)}
        return [
            DueRevert(*row)
            for row in conn.execute(_DUE, [most + len(undecided)])
            if row[0] not in undecided
        ][:most]


def settle_revert(conn: Connection, command_id: UUID) -> None:
    conn.execute("UPDATE command SET revert_at = NULL WHERE command_id = %s", [command_id])
