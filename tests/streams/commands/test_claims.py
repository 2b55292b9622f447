"""What the downlink says of a command."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from schemas.command import CommandEvent, CommandState
from streams.commands.claims import move_of

ID = UUID(int=5)


def claim(state: CommandState, address: str = "homesync:h/n", **more: object) -> CommandEvent:
    return CommandEvent(str(ID), 1, address, state, 1_763_726_400_000_000, **more)  # type: ignore[arg-type]


def test_sent_has_its_instant():
    move = move_of(claim(CommandState.SENT))
    assert move.sent_at == datetime(2025, 11, 21, 12, tzinfo=UTC)
    assert (move.command_id, move.state, move.confirmed_by) == (ID, CommandState.SENT, None)


@pytest.mark.parametrize(
    ("address", "said", "answers"),
    [
        ("homesync:h/n", None, True),
        ("shelly:p", None, True),
        ("wattaway:9", None, True),
        ("tasmota:t", None, False),
        ("shelly1:s", None, False),
        ("z2m:plug", None, False),
        ("home:h/d", None, False),
        ("shelly:p", "state", False),
        ("shelly:p", "seq", True),
        ("tasmota:t", "answer", True),
        ("homesync:h/n", "nothing", False),
    ],
)
def test_whether_an_answer_is_expected(address: str, said: str | None, answers: bool):
    move = move_of(claim(CommandState.SENT, address, confirmed_by=said))
    assert move.answers is answers


def test_a_failure_has_its_reason():
    move = move_of(claim(CommandState.FAILED, reason="this family has no reboot"))
    assert (move.reason, move.sent_at, move.answers) == ("this family has no reboot", None, None)
