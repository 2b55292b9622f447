"""What the command process does with the database, over and over."""

import time
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from prometheus_client import Counter

from schemas.command import Kind
from sinks import command_reverts, command_work, firmware_rollouts
from sinks.command_errors import CommandError, TooSoon
from sinks.command_keys import forget_old_keys
from sinks.command_reverts import DueRevert
from sinks.command_rules import OPPOSITE, REVERT_EXPIRES_IN_S
from sinks.commands import Ask, accept
from streams.commands.answers import ids_in, moves_of, seqs_in
from streams.commands.attribution import is_change, who_switched
from streams.commands.settings import CommandSettings

log = structlog.get_logger()

ANSWERS = Counter("meterstream_command_answers", "Answers of devices and reports of relays")
LATE = Counter("meterstream_command_late_answers", "Answers to commands that had ended")
SWITCHED = Counter("meterstream_switches", "Changes of relays", ["by"])
EXPIRED = Counter("meterstream_commands_expired", "Commands that ended unconfirmed")
REVERTED = Counter("meterstream_commands_reverted", "Switchings taken back")

MOST_ANSWERS = 1_000
_MOST_REVERTS = 200
_FORGET_EVERY_S = 3_600.0
_ROLL_OUT_EVERY_S = 5.0


def take_answers(conn: psycopg.Connection[Any], patience_s: float) -> int:
    """Look at a batch of what devices said: moves, changes of relays, confirmations by state.

    One transaction; returns how much there was.
    """
    with conn.transaction():
        rows = command_work.take_answers(conn, MOST_ANSWERS)
        if not rows:
            return 0
        device_of = command_work.devices_of(conn, ids_in(rows))
        moves = moves_of(rows, device_of, command_work.ids_of_seqs(conn, seqs_in(rows)))
        late = command_work.note_late(conn, command_work.make_moves(conn, moves)) if moves else 0
        changed = [row for row in rows if is_change(row)]
        switched = []
        if changed:
            devices = list({row.device_id for row in changed})
            switched = who_switched(changed, command_work.suspects(conn, devices))
            command_work.keep_switched(conn, switched)
        reported = list({row.device_id for row in rows if row.answer is None})
        if reported:
            command_work.confirm_by_state(conn, reported, patience_s)
    ANSWERS.inc(len(rows))
    LATE.inc(late)
    for one in switched:
        SWITCHED.labels(one.by_kind).inc()
    return len(rows)


@dataclass
class Sweep:
    """What the clock brings: commands expire, devices come back, switchings are taken back,
    firmware goes on to further devices.
    """

    settings: CommandSettings
    _forget_at_s: float = 0.0
    _roll_out_at_s: float = 0.0

    def run(self, conn: psycopg.Connection[Any]) -> None:
        settings = self.settings
        command_work.release_held(conn)
        command_work.confirm_by_state(conn, None, settings.commands_patience_s)
        EXPIRED.inc(
            command_work.expire(conn, settings.commands_grace_s, settings.commands_longest_s)
        )
        for due in command_reverts.due_reverts(conn, _MOST_REVERTS):
            take_back(conn, due)
        if time.monotonic() >= self._roll_out_at_s:
            firmware_rollouts.advance(conn)
            self._roll_out_at_s = time.monotonic() + _ROLL_OUT_EVERY_S
        if time.monotonic() >= self._forget_at_s:
            forget_old_keys(conn)
            self._forget_at_s = time.monotonic() + _FORGET_EVERY_S


def take_back(conn: psycopg.Connection[Any], due: DueRevert) -> None:
    """Give the opposite command, in one transaction with the word that this is done.

    What comes too soon for the relay comes with a later sweep.
    """
    ask = Ask(
        OPPOSITE[Kind(due.kind)],
        due.channel,
        expires_in_s=REVERT_EXPIRES_IN_S,
        queue_while_offline=True,
    )
    try:
        with conn.transaction():
            accept(conn, due.device_id, ask, f"revert:{due.command_id}")
            command_reverts.settle_revert(conn, due.command_id)
    except TooSoon:
        return
    except CommandError as error:
        log.error("not taken back", command_id=str(due.command_id), error=str(error))
        command_reverts.settle_revert(conn, due.command_id)
    else:
        REVERTED.inc()
