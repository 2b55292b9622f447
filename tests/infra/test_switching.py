"""The account of a trial of commands: it sees each fault that is planted, and no other."""

import pytest

from infra.switches.device import WALL, Ran
from infra.switches.journal import Journal, read_journal
from infra.trials.switching import Asked, Attributed, account
from schemas.units import SECOND_US

NODE, GEN1 = ("homesync:h/n", 0), ("shelly1:s", 0)
NOW_US = 1_763_706_000_000_000


def at(seconds: float) -> int:
    return NOW_US + int(seconds * SECOND_US)


def asked(seq, relay, on, issued_s, state="done", confirmed_by="answer", was_sent=True):
    return Asked(
        f"id-{relay[0]}-{seq}", seq, relay, on, at(issued_s), at(issued_s + 30), state,
        confirmed_by, was_sent,
    )  # fmt: skip


def ran(at_s, relay, was_on, is_on, command, by="command"):
    return Ran(at(at_s), relay[0], relay[1], was_on, is_on, by, command)


ASKED = [
    asked(1, NODE, True, 0),
    asked(2, NODE, False, 10),
    asked(3, NODE, True, 20, state="failed", confirmed_by=None),
    asked(1, GEN1, True, 0, confirmed_by="state"),
    asked(2, GEN1, False, 10, confirmed_by="state"),
]
RAN = [
    ran(1, NODE, False, True, "id-homesync:h/n-1"),
    ran(11, NODE, True, False, "id-homesync:h/n-2"),
    ran(1, GEN1, False, True, "on"),
    ran(1.1, GEN1, True, True, "on"),
    ran(11, GEN1, True, False, "off"),
]
ATTRIBUTED = [
    Attributed(NODE, at(0), None, False, "device", "it does not say how", None),
    Attributed(NODE, at(1), False, True, "user", "trial", "id-homesync:h/n-1"),
    Attributed(NODE, at(11), True, False, "user", "trial", "id-homesync:h/n-2"),
]
OFF = {NODE: False, GEN1: False}


def test_a_sound_trial_has_no_faults():
    found = account(RAN, ASKED, ATTRIBUTED, OFF, OFF)
    assert found.faults == {}
    assert (found.ran, found.changed) == (5, 4)


def test_a_pressed_wall_switch_is_nobodys_fault():
    pressed = [*RAN, ran(15, NODE, False, True, "", by=WALL)]
    told = [*ATTRIBUTED, Attributed(NODE, at(15), False, True, "device", "?", None)]
    on = OFF | {NODE: True}
    assert account(pressed, ASKED, told, on, on).faults == {}


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        ("twice", ran(12, NODE, False, False, "id-homesync:h/n-1")),
        ("late", ran(41, NODE, False, False, "id-homesync:h/n-2")),
        ("not_asked", ran(12, NODE, False, False, "id-of-nobody")),
        ("not_asked", ran(16, GEN1, False, False, "toggle")),
        ("should_not_have", ran(21, NODE, False, True, "id-homesync:h/n-3")),
    ],
)
def test_one_run_too_many_is_seen(fault, more):
    runs = RAN if fault != "late" else [one for one in RAN if one.command != "id-homesync:h/n-2"]
    if fault == "not_asked" and more.address == GEN1[0]:
        more = more._replace(at_us=at(100))
    found = account([*runs, more], ASKED, ATTRIBUTED, OFF | {NODE: more.is_on}, OFF)
    assert fault in found.faults


def test_an_old_command_after_a_newer_one_is_seen():
    runs = [RAN[1]._replace(was_on=False, at_us=at(10.5)), RAN[0]._replace(at_us=at(12))]
    found = account(runs, ASKED[:2], [], {NODE: True}, {NODE: True})
    assert "disordered" in found.faults


def test_a_command_that_was_answered_and_did_not_run_is_seen():
    found = account(RAN[:1], ASKED[:2], [], {NODE: True}, {NODE: True})
    assert list(found.faults) == ["did_not"]


def test_a_relay_that_is_not_as_it_was_acknowledged_is_seen():
    found = account(RAN, ASKED, [], OFF | {NODE: True}, OFF | {NODE: True})
    assert list(found.faults) == ["other_state"]
    found = account(RAN, ASKED, [], OFF, OFF | {NODE: True})
    assert list(found.faults) == ["other_state"]


def test_a_switching_without_a_cause_is_seen():
    stray = Attributed(NODE, at(50), False, True, "device", "it does not say how", None)
    back = stray._replace(at_us=at(51), was_on=True, is_on=False, by_kind="wall switch")
    found = account(RAN, ASKED, [*ATTRIBUTED, stray, back], OFF, OFF)
    assert list(found.faults) == ["unattributed"]
    found = account(RAN, ASKED, ATTRIBUTED[:2], OFF, OFF)
    assert list(found.faults) == ["unattributed"]


def test_the_journal_keeps_what_ran(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.write(RAN[:2])
    journal.write([])
    journal.write(RAN[2:])
    journal.close()
    assert read_journal(tmp_path / "journal") == RAN
