"""What the downlink says of commands on `energy.command.event.v1`: sent, failed, expired."""

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import structlog
from confluent_kafka import Consumer, Message
from prometheus_client import Counter

from schemas.command import CommandEvent, CommandState
from schemas.topics import COMMAND_EVENT
from sinks import command_work
from sinks.command_work import Move
from streams.commands.settings import CommandSettings
from streams.following import commit_after, following
from streams.process import outlast_outages
from streams.rounds import ROUNDS

log = structlog.get_logger()

CLAIMS = Counter("meterstream_command_claims", "Events of the downlink taken from Kafka")
REFUSED = Counter("meterstream_command_claims_refused", "Records that were no event of a command")
RETRIES = Counter("meterstream_command_retries", "Work begun anew after an outage")

DOWNLINK = b"downlink"
ANSWERING_FAMILIES = frozenset({"homesync", "shelly", "wattaway"})
_NO_ANSWER = frozenset({"state", "nothing"})
_CLAIMED = frozenset(
    {
        CommandState.SENT,
        CommandState.RECEIVED,
        CommandState.DONE,
        CommandState.FAILED,
        CommandState.EXPIRED,
    }
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST = 1_000
_decode = msgspec.json.Decoder(CommandEvent).decode


def follow(
    settings: CommandSettings, database_url: str, bootstrap: str, stop: threading.Event
) -> None:
    """Make the moves that the downlink tells of, until `stop` is set.

    Offsets are committed after the moves: one that is told again is no legal move any more.
    """

    def work(conn: psycopg.Connection[Any]) -> None:
        # Only the state of commands waits for this, no relay: few fetches of many events.
        quick = {"fetch.wait.max.ms": 50, "fetch.min.bytes": 100_000}
        with following(bootstrap, settings.commands_group, COMMAND_EVENT, **quick) as consumer:
            while not stop.is_set():
                # One record at once; what has come with it in the same breath.
                messages = [
                    *consumer.consume(1, settings.commands_pause_s),
                    *consumer.consume(_MOST, 0.0),
                ]
                _take(conn, consumer, messages, settings.commands_patience_s)
                ROUNDS.note("claims")

    ROUNDS.note("claims")
    outlast_outages("command-claims", database_url, stop, work, RETRIES)


def _take(
    conn: psycopg.Connection[Any],
    consumer: Consumer,
    messages: Sequence[Message],
    patience_s: float,
) -> None:
    taken = [message for message in messages if message.error() is None]
    if not taken:
        return
    claims = claims_in(taken)
    if claims:
        make(conn, claims, patience_s)
        CLAIMS.inc(len(claims))
    commit_after(consumer, taken)


def make(conn: psycopg.Connection[Any], claims: Sequence[CommandEvent], patience_s: float) -> None:
    """Make the moves that the claims tell of; where the relay has changed already, the next too."""
    with conn.transaction():
        moves = [move_of(claim) for claim in claims]
        command_work.note_sent(conn, command_work.make_moves(conn, moves))
        command_work.confirm_by_state(conn, list({one.device_id for one in claims}), patience_s)


def claims_in(messages: Iterable[Message]) -> list[CommandEvent]:
    """The downlink's events; our own are passed over, and what is none is counted."""
    claims = []
    for message in messages:
        if dict(message.headers() or []).get("source") != DOWNLINK:
            continue
        try:
            claim = _decode(message.value() or b"")
            UUID(claim.command_id)
        except (msgspec.DecodeError, ValueError) as error:
            REFUSED.inc()
            log.error("not an event of a command", offset=message.offset(), error=str(error))
            continue
        if claim.state in _CLAIMED:
            claims.append(claim)
    return claims


def move_of(claim: CommandEvent) -> Move:
    if claim.state is not CommandState.SENT:
        return Move(UUID(claim.command_id), claim.state, claim.reason)
    if claim.confirmed_by is None:
        answers = claim.address.partition(":")[0] in ANSWERING_FAMILIES
    else:
        answers = claim.confirmed_by not in _NO_ANSWER
    sent_at = _EPOCH + timedelta(microseconds=claim.at_us)
    return Move(UUID(claim.command_id), claim.state, claim.reason, None, sent_at, answers)
