"""Who switched a relay: a command, the wall switch, or the device itself. Pure."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from sinks.command_work import AnswerRow, Suspect, Switched

SKEW = timedelta(seconds=1)
"""How far a device's clock may be off when it says when it switched."""
SLACK = timedelta(seconds=30)
"""How long after a command's end its change may be reported by a device that reports rarely."""

WALL_SWITCH, DEVICE = "wall switch", "device"
_HAND = frozenset({"button", "input", "switch", "sw", "local", "wall", "wall switch", "manual"})
_OWN = frozenset({"timer", "schedule", "init", "overpower", "overvoltage", "overtemp", "limit"})
_UNSAID = "it does not say how"


def is_change(row: AnswerRow) -> bool:
    return row.answer is None and isinstance(row.is_on, bool) and row.is_on != row.was_on


def who_switched(rows: Iterable[AnswerRow], suspects: Sequence[Suspect]) -> list[Switched]:
    """Each change of a relay, and whom it is put down to. `suspects`: the newest first.

    A device that names its button or its timer is believed. Else it is the newest command that
    wanted this state, had set out by then, and has not switched yet. Else it is the device, in the
    word it has for it.
    """
    used: set[UUID] = set()
    switched = []
    for row in rows:
        if not is_change(row):
            continue
        word = row.said_by if isinstance(row.said_by, str) else ""
        command = None if word.lower() in _HAND | _OWN else _culprit(row, suspects, used)
        if command is not None:
            used.add(command.command_id)
            kind, whom = command.issued_by.split(":", 1)
            command_id = command.command_id
        else:
            kind = WALL_SWITCH if word.lower() in _HAND else DEVICE
            whom, command_id = word or _UNSAID, None
        was_on = row.was_on if isinstance(row.was_on, bool) else None
        switched.append(
            Switched(
                row.device_id, row.channel, row.at, was_on, bool(row.is_on), kind, whom, command_id
            )
        )
    return switched


def _culprit(row: AnswerRow, suspects: Sequence[Suspect], used: set[UUID]) -> Suspect | None:
    able = [
        one
        for one in suspects
        if (one.device_id, one.channel, one.turns_on) == (row.device_id, row.channel, row.is_on)
        and one.command_id not in used
        and one.since - SKEW <= row.at <= one.until + SLACK
    ]
    before = [one for one in able if one.since <= row.at]
    return before[0] if before else able[-1] if able else None
