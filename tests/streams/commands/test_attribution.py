"""Whom a change of a relay is put down to."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from sinks.command_work import AnswerRow, Suspect
from streams.commands.attribution import who_switched

T0 = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def change(
    seconds: float, is_on: object = True, was_on: object = False, said_by: object = None
) -> AnswerRow:
    return AnswerRow(1, "switch:0", at(seconds), None, was_on, is_on, said_by)


def suspect(number: int, since: float, until: float = 30, on: bool = True, device: int = 1):
    return Suspect(
        UUID(int=number), device, "switch:0", on, f"user:u{number}", at(since), at(until)
    )


def told(rows, suspects):
    return [(one.by_kind, one.by_whom) for one in who_switched(rows, suspects)]


def test_a_command_under_way_is_the_culprit():
    (one,) = who_switched([change(1)], [suspect(1, 0)])
    assert (one.by_kind, one.by_whom, one.command_id) == ("user", "u1", UUID(int=1))
    assert (one.was_on, one.is_on, one.at) == (False, True, at(1))


@pytest.mark.parametrize(
    "innocent",
    [
        suspect(1, 0, on=False),
        suspect(1, 0, device=2),
        suspect(1, 12.1),  # set out more than a second later
        suspect(1, -60, until=-20),  # over for more than half a minute
    ],
)
def test_a_command_that_cannot_have_done_it_is_not(innocent):
    assert told([change(11)], [innocent]) == [("device", "it does not say how")]


def test_a_device_that_names_its_button_is_believed_against_a_command():
    assert told([change(1, said_by="button")], [suspect(1, 0)]) == [("wall switch", "button")]


def test_a_device_that_names_its_timer_is_believed():
    assert told([change(1, said_by="timer")], []) == [("device", "timer")]


def test_what_the_device_named_another_time_does_not_count():
    rows = [change(1, said_by="MQTT"), change(1.2, False, True, said_by="button")]
    assert told(rows, [suspect(1, 0)]) == [("user", "u1"), ("wall switch", "button")]


def test_a_word_for_the_network_is_no_alibi_for_a_command():
    assert told([change(1, said_by="MQTT")], [suspect(1, 0)]) == [("user", "u1")]
    assert told([change(1, said_by="MQTT")], []) == [("device", "MQTT")]


def test_of_two_commands_it_is_the_newer_one_that_had_set_out():
    newest_first = [suspect(3, 20), suspect(2, 10), suspect(1, 0)]
    assert told([change(11)], newest_first) == [("user", "u2")]


def test_a_command_switches_once():
    rows = [change(1), change(2, False, True), change(3)]
    assert told(rows, [suspect(1, 0)]) == [
        ("user", "u1"),
        ("device", "it does not say how"),
        ("device", "it does not say how"),
    ]


@pytest.mark.parametrize(
    "row",
    [
        change(1, True, True),
        change(1, "on", False),
        change(1, None, True),
        AnswerRow(1, "switch:0", at(1), {"outcome": "done"}, None, None),
    ],
)
def test_what_is_no_change_is_passed_over(row):
    assert who_switched([row], [suspect(1, 0)]) == []


def test_a_relay_heard_for_the_first_time_was_nothing():
    (one,) = who_switched([change(1, True, None)], [])
    assert one.was_on is None


def test_odd_words_of_a_device_do_no_harm():
    assert told([change(1, said_by=["button"])], []) == [("device", "it does not say how")]
