"""From what a device said to the step that its command took. Pure."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from schemas.command import CommandState, Outcome
from sinks.command_work import AnswerRow, Move

_STATES = {
    Outcome.RECEIVED: CommandState.RECEIVED,
    Outcome.DONE: CommandState.DONE,
    Outcome.FAILED: CommandState.FAILED,
}
_MOST_SEQ = 2**31 - 1
Seq = tuple[int, int]
"""A device and the number of one of its commands."""


def ids_in(rows: Iterable[AnswerRow]) -> list[UUID]:
    return list({command_id for row in rows if (command_id := _id(row)) is not None})


def seqs_in(rows: Iterable[AnswerRow]) -> list[Seq]:
    return list({seq for row in rows if (seq := _seq(row)) is not None})


def _id(row: AnswerRow) -> UUID | None:
    """The id that an answer names, if it is one."""
    text = (row.answer or {}).get("command_id")
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _seq(row: AnswerRow) -> Seq | None:
    number = (row.answer or {}).get("command_seq")
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _MOST_SEQ:
        return row.device_id, number
    return None


def moves_of(
    rows: Iterable[AnswerRow], device_of: Mapping[UUID, int], id_of: Mapping[Seq, UUID]
) -> list[Move]:
    """The moves that answers say, in their order.

    An answer counts for a command of the device that gave it only; one that names no command of
    ours, or no outcome, says nothing.
    """
    moves = []
    for row in rows:
        if row.answer is None:
            continue
        command_id = _id(row)
        if command_id is None or device_of.get(command_id) != row.device_id:
            seq = _seq(row)
            command_id = None if seq is None else id_of.get(seq)
        outcome = row.answer.get("outcome")
        if command_id is None or not isinstance(outcome, str) or outcome not in _STATES:
            continue
        reason = row.answer.get("reason")
        moves.append(
            Move(
                command_id,
                _STATES[Outcome(outcome)],
                reason if isinstance(reason, str) else None,
                confirmed_by="answer" if outcome == Outcome.DONE else None,
            )
        )
    return moves
