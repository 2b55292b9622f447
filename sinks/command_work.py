"""What the command process does with the tables, a batch a statement."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import class_row

from schemas.command import CommandEvent, CommandRequest, CommandState, Kind

Connection = psycopg.Connection[Any]
CHANNEL = "command"
"""What the triggers NOTIFY."""
URGENT = "request"
"""What they say with it when a request waits; anything else can wait for a moment."""

# ---------------------------------------------------------------- what Kafka is to have


class Outgoing(NamedTuple):
    """A row of the outbox; `said` None: a request that nobody wants any more."""

    outbox_no: int
    identity: str
    said: CommandRequest | CommandEvent | None


_TAKE = """
    WITH arrived AS (DELETE FROM command_outbox WHERE outbox_no = ANY (%s))
    SELECT outbox_no, command_id, event_no FROM command_outbox
    WHERE NOT held AND outbox_no <> ALL (%s) ORDER BY outbox_no LIMIT %s"""
_REQUEST = """
    UPDATE command c
    SET requested_at = coalesce(c.requested_at, now()),
        revert_at = coalesce(c.revert_at, now() + c.revert_after_s * interval '1 second')
    FROM device d
    WHERE c.command_id = ANY (%s) AND c.state = 'accepted' AND c.expires_at > now()
      AND d.device_id = c.device_id
    RETURNING c.command_id, c.command_seq, c.device_id, d.address, c.kind, c.channel,
              c.parameters::text, to_us(c.issued_at), to_us(c.expires_at), c.issued_by"""
_EVENTS = """
    SELECT e.event_no, e.command_id, c.device_id, d.address, e.state, to_us(e.at), c.kind,
           c.channel, e.reason, e.confirmed_by, c.issued_by
    FROM command_event e JOIN command c USING (command_id) JOIN device d USING (device_id)
    WHERE e.event_no = ANY (%s)"""


def take_outbox(
    conn: Connection, in_flight: Collection[int], most: int, arrived: Sequence[int] = ()
) -> list[Outgoing]:
    """The oldest rows that are not in flight; those that have arrived are forgotten.

    Requests are marked: from now on Kafka may have them, and nobody cancels them any more. On a
    connection in autocommit mode, so that they are marked before they are published.
    """
    taken = conn.execute(_TAKE, [list(arrived), [*in_flight, *arrived], most]).fetchall()
    wanted = sorted(command_id for _, command_id, event_no in taken if event_no is None)
    numbers = [event_no for _, _, event_no in taken if event_no is not None]
    requests, events = {}, {}
    if wanted:
        requests = {row[0]: _request(row) for row in conn.execute(_REQUEST, [wanted])}
    if numbers:
        events = {row[0]: _event(row[1:]) for row in conn.execute(_EVENTS, [numbers])}
    return [
        Outgoing(number, str(command_id), requests.get(command_id))
        if event_no is None
        else Outgoing(number, f"{command_id}/{event_no}", events[event_no])
        for number, command_id, event_no in taken
    ]


def _request(row: tuple[Any, ...]) -> CommandRequest:
    command_id, seq, device_id, address, kind, channel, parameters, issued, expires, by = row
    as_stored: Any = msgspec.Raw(parameters.encode())  # Python would write numbers its own way
    return CommandRequest(
        str(command_id),
        seq,
        device_id,
        address,
        Kind(kind),
        channel,
        as_stored,
        issued,
        expires,
        by,
    )


def _event(row: tuple[Any, ...]) -> CommandEvent:
    command_id, device_id, address, state, at_us, kind, *rest = row
    return CommandEvent(
        str(command_id), device_id, address, CommandState(state), at_us, Kind(kind), *rest
    )


# ---------------------------------------------------------------- moves


@dataclass(frozen=True)
class Move:
    """A step that a device or the downlink says that a command took.

    `answers`, of a `sent` one: whether the device is expected to answer.
    """

    command_id: UUID
    state: CommandState
    reason: str | None = None
    confirmed_by: str | None = None
    sent_at: datetime | None = None
    answers: bool | None = None


_LOCK = """
    SELECT command_id, state FROM command WHERE command_id = ANY (%s)
    ORDER BY command_id FOR UPDATE"""
_MOVE = """
    UPDATE command c
    SET state = v.state, reason = coalesce(v.reason, c.reason), confirmed_by = v.confirmed_by,
        sent_at = coalesce(v.sent_at, c.sent_at), answers = coalesce(v.answers, c.answers)
    FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::boolean[])
         AS v (command_id, state, reason, confirmed_by, sent_at, answers)
    WHERE c.command_id = v.command_id AND legal_command_move(c.state, v.state)
    RETURNING c.command_id"""
_LATE = """
    WITH said AS (
        SELECT DISTINCT ON (command_id) * FROM unnest(%s::uuid[], %s::text[], %s::text[])
            AS v (command_id, state, reason)
    ), told AS (
        UPDATE command c SET late_answer = said.state FROM said
        WHERE c.command_id = said.command_id AND c.state <> said.state
          AND c.state IN ('done', 'failed', 'expired', 'superseded')
          AND c.late_answer IS DISTINCT FROM said.state
        RETURNING c.command_id
    )
    INSERT INTO command_event (command_id, state, reason, confirmed_by, late)
    SELECT command_id, state, reason, 'answer', true FROM said JOIN told USING (command_id)"""


def make_moves(conn: Connection, moves: Sequence[Move]) -> list[Move]:
    """Make the legal moves, in their order; returns those that were not. In a transaction."""
    refused = []
    left = list(moves)
    conn.execute(_LOCK, [list({move.command_id for move in moves})])
    while left:
        wave: dict[UUID, Move] = {}
        later = []
        for move in left:
            if move.command_id in wave:
                later.append(move)
            else:
                wave[move.command_id] = move
        made = {one for (one,) in conn.execute(_MOVE, _columns(list(wave.values())))}
        refused += [move for one, move in wave.items() if one not in made]
        left = later
    return refused


def _columns(moves: Sequence[Move]) -> list[list[Any]]:
    return [
        [move.command_id for move in moves],
        [move.state.value for move in moves],
        [move.reason for move in moves],
        [move.confirmed_by for move in moves],
        [move.sent_at for move in moves],
        [move.answers for move in moves],
    ]


def note_late(conn: Connection, moves: Sequence[Move]) -> int:
    """Add to the lives of commands that have ended what their devices said afterwards: `done` or
    `failed`, where they ended otherwise. Returns how many.
    """
    final = [one for one in moves if one.state in (CommandState.DONE, CommandState.FAILED)]
    return conn.execute(_LATE, _columns(final)[:3]).rowcount if final else 0


def note_sent(conn: Connection, moves: Sequence[Move]) -> None:
    """When commands were sent whose answers were quicker than this word."""
    sent = [move for move in moves if move.sent_at is not None]
    if sent:
        conn.execute(
            "UPDATE command c SET sent_at = v.sent_at "
            "FROM unnest(%s::uuid[], %s::timestamptz[]) AS v (command_id, sent_at) "
            "WHERE c.command_id = v.command_id AND c.sent_at IS NULL",
            [[move.command_id for move in sent], [move.sent_at for move in sent]],
        )


_BY_STATE = """
    UPDATE command c SET state = 'done', confirmed_by = 'state'
    FROM device_state s
    WHERE c.state IN ('sent', 'received') AND c.kind IN ('on', 'off')
      AND (%(devices)s::integer[] IS NULL OR c.device_id = ANY (%(devices)s))
      AND s.device_id = c.device_id AND s.channel = coalesce(c.channel, '') AND s.field = 'relay'
      AND s.value = to_jsonb(c.kind = 'on')
      AND s.measured_at >= coalesce(c.sent_at, c.requested_at) - interval '1 second'
      AND (NOT coalesce(c.answers, true)
           OR c.sent_at + %(patience)s * interval '1 second' < clock_timestamp())"""


def confirm_by_state(conn: Connection, device_ids: Sequence[int] | None, patience_s: float) -> int:
    """End the commands whose relay is now as it was asked for, measured after they were sent.

    Where the device should have answered, only after so much patience. None: of all devices.
    The second before the sending is granted to the device's clock.
    """
    devices = None if device_ids is None else list(device_ids)
    return conn.execute(_BY_STATE, {"devices": devices, "patience": patience_s}).rowcount


_EXPIRE = """
    UPDATE command SET state = 'expired',
        reason = CASE WHEN sent_at IS NULL AND state = 'accepted' THEN 'it was not sent in time'
                      WHEN NOT answers AND kind NOT IN ('on', 'off')
                          THEN 'it was sent; this device cannot say whether it ran'
                      ELSE 'the device has not answered in time' END
    WHERE state IN ('accepted', 'sent', 'received') AND (
        requested_at IS NULL AND expires_at <= now()
        OR sent_at IS NULL AND state = 'accepted' AND expires_at + %(grace)s <= now()
        OR expires_at + %(grace)s <= (SELECT min(stream_time) FROM stream_progress)
        OR expires_at + %(longest)s <= now())"""


def expire(conn: Connection, grace_s: float, longest_s: float) -> int:
    """End what can no longer run. A command that was sent waits until the stream has stored all
    that came until `grace_s` after its expiry, at most for `longest_s`.
    """
    return conn.execute(
        _EXPIRE.replace("%(grace)s", "%(grace)s * interval '1 second'")
        .replace("%(longest)s", "%(longest)s * interval '1 second'")
        .encode(),
        {"grace": grace_s, "longest": longest_s},
    ).rowcount


_RELEASE = """
    UPDATE command_outbox o SET held = false FROM command c
    WHERE o.held AND c.command_id = o.command_id
      AND (c.state <> 'accepted' OR NOT device_offline(c.device_id))"""


def release_held(conn: Connection) -> int:
    """Let requests go whose devices are back, and those that nobody wants any more."""
    return conn.execute(_RELEASE).rowcount


# ---------------------------------------------------------------- what devices said


class AnswerRow(NamedTuple):
    """An answer (its attributes), or what a relay was and is, as JSON said it.

    `said_by`: what the device named as the switching one in the same message.
    """

    device_id: int
    channel: str
    at: datetime
    answer: dict[str, object] | None
    was_on: object
    is_on: object
    said_by: object = None


def take_answers(conn: Connection, most: int) -> list[AnswerRow]:
    """The oldest, gone with the transaction."""
    rows = conn.execute(
        """
        WITH taken AS (
            DELETE FROM command_answer WHERE answer_no IN (
                SELECT answer_no FROM command_answer ORDER BY answer_no LIMIT %s
                FOR UPDATE SKIP LOCKED)
            RETURNING answer_no, device_id, channel, at, answer, was_on, is_on, said_by)
        SELECT device_id, channel, at, answer, was_on, is_on, said_by
        FROM taken ORDER BY answer_no""",
        [most],
    )
    return [AnswerRow(*row) for row in rows]


def ids_of_seqs(conn: Connection, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], UUID]:
    """The commands of (device, number)."""
    if not wanted:
        return {}
    rows = conn.execute(
        "SELECT c.device_id, c.command_seq, c.command_id "
        "FROM unnest(%s::integer[], %s::bigint[]) AS v (device_id, seq) "
        "JOIN command c ON c.device_id = v.device_id AND c.command_seq = v.seq",
        [list(column) for column in zip(*wanted, strict=True)],
    )
    return {(device_id, seq): command_id for device_id, seq, command_id in rows}


def devices_of(conn: Connection, command_ids: Sequence[UUID]) -> dict[UUID, int]:
    if not command_ids:
        return {}
    rows = conn.execute(
        "SELECT command_id, device_id FROM command WHERE command_id = ANY (%s)",
        [list(command_ids)],
    )
    return dict(rows.fetchall())


# ---------------------------------------------------------------- who switched what


@dataclass(frozen=True)
class Suspect:
    """A command that may have switched a relay: it set out at `since`, and is over at `until`."""

    command_id: UUID
    device_id: int
    channel: str
    turns_on: bool
    issued_by: str
    since: datetime
    until: datetime


class Switched(NamedTuple):
    device_id: int
    channel: str
    at: datetime
    was_on: bool | None
    is_on: bool
    by_kind: str
    by_whom: str
    command_id: UUID | None


_SUSPECTS = """
    SELECT c.command_id, c.device_id, coalesce(c.channel, '') AS channel, c.kind = 'on' AS turns_on,
           c.issued_by, coalesce(c.sent_at, c.requested_at) AS since,
           CASE WHEN c.state = 'done' THEN least(c.ended_at, c.expires_at) ELSE c.expires_at END
               AS until
    FROM unnest(%s::integer[]) AS v (device_id)
    CROSS JOIN LATERAL (
        SELECT * FROM command
        WHERE command.device_id = v.device_id AND kind IN ('on', 'off')
          AND requested_at IS NOT NULL
        ORDER BY command_seq DESC LIMIT 20) AS c
    LEFT JOIN switch_event s ON s.command_id = c.command_id
    WHERE s.command_id IS NULL
    ORDER BY c.device_id, c.command_seq DESC"""


def suspects(conn: Connection, device_ids: Sequence[int]) -> list[Suspect]:
    """The newest switching commands of these devices that no change is put down to yet, newest
    first.
    """
    with conn.cursor(row_factory=class_row(Suspect)) as cursor:
        return cursor.execute(_SUSPECTS, [list(device_ids)]).fetchall()


def keep_switched(conn: Connection, switched: Sequence[Switched]) -> None:
    conn.cursor().executemany(
        "INSERT INTO switch_event "
        "(device_id, channel, at, was_on, is_on, by_kind, by_whom, command_id) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        switched,
    )
