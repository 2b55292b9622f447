"""Commands: accepted under the device's lock, found, cancelled.

What follows from an accepted command (its first event, the request for Kafka) is written by the
tables' triggers in the same transaction.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from schemas.command import SWITCHING, Kind
from sinks.command_errors import (
    BadCommand,
    DeviceOffline,
    NotCancellable,
    NotConfirmed,
    TooSoon,
    UnknownCommand,
    UnknownRelay,
    UnknownState,
)
from sinks.command_rules import LONGEST_REVERT_S, OPPOSITE, RULES, SHORTEST_S, KindRule

Connection = psycopg.Connection[Any]
_LONGEST_PARAMETERS = 32 * 1024


@dataclass(frozen=True)
class Ask:
    """What somebody wants of a device. `channel` None: its only relay, or the device as a whole.

    `queue_while_offline`: wait, while the device is offline, until it expires. `revert_after_s`:
    the system takes an `on` or `off` back after so long, unless it is renewed. `confirm`: whoever
    asks knows that this is dangerous.
    """

    kind: Kind
    channel: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    expires_in_s: float | None = None
    queue_while_offline: bool = False
    revert_after_s: int | None = None
    confirm: bool = False


@dataclass(frozen=True)
class CommandRow:
    """A row of `command`; `asked` is the kind that was asked for, a toggle."""

    command_id: UUID
    device_id: int
    command_seq: int
    channel: str | None
    kind: str
    asked: str
    parameters: dict[str, object]
    issued_by: str
    issued_at: datetime
    expires_at: datetime
    queued: bool
    revert_after_s: int | None
    revert_at: datetime | None
    state: str
    reason: str | None
    confirmed_by: str | None
    requested_at: datetime | None
    sent_at: datetime | None
    ended_at: datetime | None
    late_answer: str | None
    superseded_by: UUID | None


COLUMNS = (
    "command_id, device_id, command_seq, channel, kind, asked, parameters, issued_by, issued_at, "
    "expires_at, queued, revert_after_s, revert_at, state, reason, confirmed_by, requested_at, "
    "sent_at, ended_at, late_answer, superseded_by"
)

# ---------------------------------------------------------------- accepting

_NEXT_SEQ = """
    INSERT INTO command_counter AS c (device_id, last_seq) VALUES (%s, 1)
    ON CONFLICT (device_id) DO UPDATE SET last_seq = c.last_seq + 1
    RETURNING last_seq"""
_LOOK = """
    SELECT clock_timestamp(), device_offline(%(device)s), switch_interval_s(%(device)s),
           (SELECT jsonb_object_agg(channel, value) FROM device_state
            WHERE device_id = %(device)s AND field = 'relay'),
           (SELECT issued_at FROM command
            WHERE device_id = %(device)s AND kind = ANY (%(kinds)s)
            ORDER BY command_seq DESC OFFSET %(most)s - 1 LIMIT 1)"""
_LAST_SWITCHED = """
    SELECT (SELECT issued_at FROM command
            WHERE device_id = %(device)s AND kind IN ('on', 'off')
              AND channel IS NOT DISTINCT FROM %(channel)s AND state NOT IN ('failed', 'cancelled')
            ORDER BY command_seq DESC LIMIT 1),
           (SELECT max(at) FROM switch_event
            WHERE device_id = %(device)s AND channel = coalesce(%(channel)s, '')
              AND at <= %(now)s AND at > %(now)s - interval '1 day'),
           (SELECT kind FROM command
            WHERE device_id = %(device)s AND kind IN ('on', 'off')
              AND channel IS NOT DISTINCT FROM %(channel)s
              AND state IN ('accepted', 'sent', 'received')
            ORDER BY command_seq DESC LIMIT 1)"""
_INSERT = f"""
    INSERT INTO command (command_id, device_id, command_seq, channel, kind, asked, parameters,
                         issued_by, issued_at, expires_at, queued, revert_after_s)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    RETURNING {COLUMNS}"""
_SUPERSEDE = """
    UPDATE command SET state = 'superseded', superseded_by = %(id)s,
           reason = 'a newer command for the same relay took its place'
    WHERE device_id = %(device)s AND kind IN ('on', 'off') AND command_seq < %(seq)s
      AND channel IS NOT DISTINCT FROM %(channel)s AND state IN ('accepted', 'sent', 'received')"""


def check(ask: Ask) -> KindRule:
    """The rule of the kind. Raises BadCommand and NotConfirmed."""
    rule = RULES[ask.kind]
    if rule.dangerous and not ask.confirm:
        raise NotConfirmed(f"{ask.kind} cannot be taken back; ask again with confirm: true")
    expires_in_s = rule.expires_in_s if ask.expires_in_s is None else ask.expires_in_s
    if not SHORTEST_S <= expires_in_s <= rule.longest_s:
        raise BadCommand(
            f"expires_in_s of {ask.kind} lies between {SHORTEST_S} and {rule.longest_s}, "
            f"not at {expires_in_s}"
        )
    if ask.revert_after_s is not None:
        if ask.kind not in SWITCHING:
            raise BadCommand(
                f"only a switching is reverted; leave revert_after_s out of {ask.kind}"
            )
        if not 1 <= ask.revert_after_s <= LONGEST_REVERT_S:
            raise BadCommand(f"revert_after_s lies between 1 and {LONGEST_REVERT_S}")
    if ask.kind in SWITCHING and ask.parameters.keys() - {"via"}:
        raise BadCommand(f"{ask.kind} has no parameters but via; leave the others out")
    _check_parameters(ask.parameters)
    return rule


def _check_parameters(parameters: Mapping[str, object]) -> None:
    """What the table, Kafka and the device's own JSON can all hold."""
    try:
        text = json.dumps(parameters, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise BadCommand(f"the parameters are no JSON that a device can read: {error}") from error
    if size > _LONGEST_PARAMETERS:
        raise BadCommand(f"the parameters have {size} bytes; at most {_LONGEST_PARAMETERS}")
    if "\\u0000" in text:
        raise BadCommand("the parameters hold a NUL; leave it out")


def accept(conn: Connection, device_id: int, ask: Ask, issued_by: str) -> CommandRow:
    """Take a command for a device, superseding older ones of its relay. One transaction.

    `issued_by` is `user:…`, `rule:…`, `schedule:…`, `scene:…` or `revert:<command id>`.
    Raises CommandError: nothing is stored.
    """
    rule = check(ask)
    kinds = list(SWITCHING) if ask.kind in SWITCHING else [ask.kind]
    with conn.transaction():
        (seq,) = _row(conn, _NEXT_SEQ, [device_id])
        now, offline, interval_s, relays, nth_last_at = _row(
            conn, _LOOK, {"device": device_id, "kinds": kinds, "most": rule.rate.most}
        )
        if offline and not ask.queue_while_offline:
            raise DeviceOffline(
                "the device is offline; ask again when it is back, or with queue_while_offline"
            )
        _check_rate(rule, ask.kind, nth_last_at, now)
        channel, kind, pending = ask.channel, ask.kind, None
        parameters = dict(ask.parameters)
        if ask.kind in SWITCHING:
            channel = relay_of(ask.channel, relays or {})
            last_at, switched_at, pending = _row(
                conn, _LAST_SWITCHED, {"device": device_id, "channel": channel, "now": now}
            )
            _check_interval(interval_s, [last_at, switched_at], now)
            kind = _intended(ask.kind, pending, (relays or {}).get(channel or ""))
            if ask.revert_after_s is not None:
                parameters["revert_after_s"] = ask.revert_after_s
        expires_in_s = rule.expires_in_s if ask.expires_in_s is None else ask.expires_in_s
        text = Jsonb(parameters)
        command_id = new_id(now)
        if pending is not None:
            conn.execute(
                _SUPERSEDE,
                {"id": command_id, "device": device_id, "seq": seq, "channel": channel},
            )
        with conn.cursor(row_factory=class_row(CommandRow)) as cursor:
            row = cursor.execute(
                _INSERT.encode(),
                [command_id, device_id, seq, channel, kind, ask.kind, text, issued_by, now,
                 now + timedelta(seconds=expires_in_s), ask.queue_while_offline,
                 ask.revert_after_s],
            ).fetchone()  # fmt: skip
    assert row is not None
    return row


def relay_of(asked: str | None, relays: Mapping[str, object]) -> str | None:
    """The channel of the relay that is meant, among those the device has reported.

    A bare number means the relay of that number. Raises UnknownRelay.
    """
    known = sorted(relays)
    if asked is None:
        if len(known) > 1 and "" not in known:
            raise UnknownRelay(f"the device has several relays; name one of {', '.join(known)}")
        return known[0] or None if known else None
    if asked in relays or not known:
        return asked
    if asked.isdigit():
        numbered = [one for one in known if one.rpartition(":")[2] == asked]
        if len(numbered) == 1:
            return numbered[0]
        if known == [""] and asked in ("0", "1"):
            return None
    names = ", ".join(one or "its only one, without a name" for one in known)
    raise UnknownRelay(f"the device has no relay {asked!r:.60}; it has {names}")


def _intended(kind: Kind, pending: str | None, reported: object) -> Kind:
    """What a toggle comes to: the opposite of what is under way, else of what was reported."""
    if kind is not Kind.TOGGLE:
        return kind
    if pending is not None:
        return OPPOSITE[Kind(pending)]
    if not isinstance(reported, bool):
        raise UnknownState("nobody knows whether the relay is on; say on or off")
    return Kind.OFF if reported else Kind.ON


def _check_rate(rule: KindRule, kind: Kind, nth_last_at: datetime | None, now: datetime) -> None:
    if nth_last_at is None:
        return
    wait_s = rule.rate.seconds - (now - nth_last_at).total_seconds()
    if wait_s > 0:
        raise TooSoon(
            f"a device takes {rule.rate.most} {kind} in {rule.rate.seconds} s; "
            f"ask again in {wait_s:.0f} s",
            wait_s,
        )


def _check_interval(interval_s: float, before: Sequence[datetime | None], now: datetime) -> None:
    latest = max((at for at in before if at is not None), default=None)
    if latest is None:
        return
    wait_s = interval_s - (now - latest).total_seconds()
    if wait_s > 0:
        raise TooSoon(
            f"between two switchings of this relay lie {interval_s:g} s; "
            f"ask again in {wait_s:.1f} s",
            wait_s,
        )


def new_id(at: datetime) -> UUID:
    """A UUID of version 7 (RFC 9562): the millisecond, then chance."""
    value = (round(at.timestamp() * 1000) & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    return UUID(int=value & ~(3 << 62) | 2 << 62)


# ---------------------------------------------------------------- looking, cancelling


def find(conn: Connection, command_id: UUID) -> CommandRow:
    """Raises UnknownCommand."""
    found = find_all(conn, [command_id])
    if not found:
        raise UnknownCommand(f"no command has the id {command_id}")
    return found[0]


def find_all(conn: Connection, command_ids: Sequence[UUID]) -> list[CommandRow]:
    """Those of the commands that are there, in the order in which they were issued."""
    with conn.cursor(row_factory=class_row(CommandRow)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM command WHERE command_id = ANY (%s) "
            "ORDER BY command_id".encode(),
            [list(command_ids)],
        ).fetchall()


def history(
    conn: Connection, device_id: int, before_seq: int | None, most: int
) -> list[CommandRow]:
    """Commands of a device, the newest first, from before a number."""
    with conn.cursor(row_factory=class_row(CommandRow)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM command WHERE device_id = %s "
            "AND command_seq < coalesce(%s::integer, 2147483647) "
            "ORDER BY command_seq DESC LIMIT %s".encode(),
            [device_id, before_seq, most],
        ).fetchall()


@dataclass(frozen=True)
class EventRow:
    """A step of a command's life; `late` ones came when it had ended, and moved nothing."""

    state: str
    at: datetime
    reason: str | None
    confirmed_by: str | None
    late: bool


def events(conn: Connection, command_id: UUID) -> list[EventRow]:
    with conn.cursor(row_factory=class_row(EventRow)) as cursor:
        return cursor.execute(
            "SELECT state, at, reason, confirmed_by, late FROM command_event "
            "WHERE command_id = %s ORDER BY event_no",
            [command_id],
        ).fetchall()


@dataclass(frozen=True)
class SwitchRow:
    """A relay changed, by somebody. `was_on` None: it was heard for the first time."""

    switch_no: int
    channel: str
    at: datetime
    was_on: bool | None
    is_on: bool
    by_kind: str
    by_whom: str
    command_id: UUID | None


def switches(conn: Connection, device_id: int, before_no: int | None, most: int) -> list[SwitchRow]:
    """Changes of a device's relays, the newest first."""
    with conn.cursor(row_factory=class_row(SwitchRow)) as cursor:
        return cursor.execute(
            "SELECT switch_no, channel, at, was_on, is_on, by_kind, by_whom, command_id "
            "FROM switch_event WHERE device_id = %s "
            "AND switch_no < coalesce(%s::bigint, 9223372036854775807) "
            "ORDER BY switch_no DESC LIMIT %s",
            [device_id, before_no, most],
        ).fetchall()


def cancel(conn: Connection, command_id: UUID) -> CommandRow:
    """Take back a command that Kafka does not have yet; again changes nothing.

    Raises UnknownCommand and NotCancellable.
    """
    with conn.transaction(), conn.cursor(row_factory=class_row(CommandRow)) as cursor:
        row = cursor.execute(
            f"UPDATE command SET state = 'cancelled' WHERE command_id = %s "
            f"AND state = 'accepted' AND requested_at IS NULL RETURNING {COLUMNS}".encode(),
            [command_id],
        ).fetchone()
    if row is not None:
        return row
    found = find(conn, command_id)
    if found.state == "cancelled":
        return found
    if found.ended_at is not None:
        raise NotCancellable(f"the command has ended: {found.state}")
    raise NotCancellable("the command is on its way to the device; give the opposite one")


def set_switch_interval(
    conn: Connection, interval_s: float, *, device_id: int | None = None, model: str | None = None
) -> None:
    """The least time between two switchings of a relay, of a device or of a model."""
    target = "device_id" if device_id is not None else "model"
    conn.execute(
        f"INSERT INTO command_limit ({target}, switch_interval_s) VALUES (%s, %s) "
        f"ON CONFLICT ({target}) DO UPDATE "
        "SET switch_interval_s = excluded.switch_interval_s".encode(),
        [device_id if device_id is not None else model, interval_s],
    )


def _row(conn: Connection, query: str, parameters: Any) -> tuple[Any, ...]:
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return tuple(row)
