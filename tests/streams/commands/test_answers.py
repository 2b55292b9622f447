"""From what a device said to the step that its command took."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from schemas.command import CommandState
from sinks.command_work import AnswerRow
from streams.commands.answers import ids_in, moves_of, seqs_in

T0 = datetime(2026, 11, 21, 12, tzinfo=UTC)
ONE, TWO = UUID(int=1), UUID(int=2)
DEVICE_OF = {ONE: 7, TWO: 8}
ID_OF = {(7, 41): ONE, (8, 41): TWO}


def answer(device: int = 7, **said: object) -> AnswerRow:
    return AnswerRow(device, "", T0, said, None, None)


def moves(*rows: AnswerRow):
    return [
        (one.command_id, one.state, one.reason, one.confirmed_by)
        for one in moves_of(rows, DEVICE_OF, ID_OF)
    ]


def test_by_id():
    assert moves(answer(command_id=str(ONE), outcome="done")) == [
        (ONE, CommandState.DONE, None, "answer")
    ]


def test_by_number_each_device_has_its_own():
    rows = [answer(command_seq=41, outcome="received"), answer(8, command_seq=41, outcome="done")]
    assert moves(*rows) == [
        (ONE, CommandState.RECEIVED, None, None),
        (TWO, CommandState.DONE, None, "answer"),
    ]


def test_a_failure_has_its_reason():
    said = answer(command_id=str(ONE), outcome="failed", reason="relay stuck")
    assert moves(said) == [(ONE, CommandState.FAILED, "relay stuck", None)]


def test_a_device_cannot_answer_for_another():
    assert moves(answer(8, command_id=str(ONE), outcome="done")) == []


def test_an_id_that_is_none_leaves_the_number():
    said = answer(command_id="7", command_seq=41, outcome="done")
    assert [one[0] for one in moves(said)] == [ONE]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"outcome": "done"},
        {"relay": "on", "outcome": "done"},
        {"command_id": str(ONE)},
        {"command_id": str(ONE), "outcome": "perhaps"},
        {"command_id": str(ONE), "outcome": True},
        {"command_id": str(ONE), "outcome": None},
        {"command_id": ["x"], "outcome": "done"},
        {"command_id": "x" * 10_000, "outcome": "done"},
        {"command_seq": "41", "outcome": "done"},
        {"command_seq": True, "outcome": "done"},
        {"command_seq": 41.0, "outcome": "done"},
        {"command_seq": 2**63, "outcome": "done"},
        {"command_seq": -41, "outcome": "done"},
        {"command_seq": 999, "outcome": "done"},
    ],
)
def test_what_names_no_command_or_no_outcome_says_nothing(said):
    row = answer(**said)
    assert moves(row) == []
    assert all(seq < 2**31 for _, seq in seqs_in([row]))
    assert all(isinstance(one, UUID) for one in ids_in([row]))


def test_a_report_of_a_relay_is_no_answer():
    assert moves(AnswerRow(7, "", T0, None, False, True)) == []


def test_an_odd_reason_is_left_out():
    said = answer(command_id=str(ONE), outcome="failed", reason=5)
    assert moves(said) == [(ONE, CommandState.FAILED, None, None)]
