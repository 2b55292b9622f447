"""Commands in the real database: accepted, refused, repeated, confirmed, expired, taken back."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb

from schemas.command import CommandRequest, CommandState, Kind
from sinks import command_errors as errors
from sinks import command_reverts, command_work
from sinks.command_keys import once
from sinks.command_rules import RULES
from sinks.command_work import Move
from sinks.commands import (
    Ask,
    CommandRow,
    accept,
    cancel,
    events,
    find,
    history,
    new_id,
    set_switch_interval,
    switches,
)
from streams.commands.rounds import take_answers, take_back

pytestmark = [pytest.mark.stack]

Connection = psycopg.Connection[Any]
ON, OFF, TOGGLE = Ask(Kind.ON), Ask(Kind.OFF), Ask(Kind.TOGGLE)
PATIENCE_S = 5.0


@pytest.fixture
def plug(db: Connection) -> int:
    """A device without an interlock."""
    device_id = device(db, "tasmota:plug")
    set_switch_interval(db, 0, device_id=device_id)
    return device_id


def device(db: Connection, address: str) -> int:
    row = db.execute(
        "INSERT INTO device (address, family) VALUES (%s, split_part(%s, ':', 1)) "
        "RETURNING device_id",
        [address, address],
    ).fetchone()
    assert row is not None
    return int(row[0])


def state(
    db: Connection,
    device_id: int,
    field: str,
    value: object,
    channel: str = "",
    at: datetime | None = None,
) -> None:
    """What the worker stores when a device says this."""
    db.execute(
        "INSERT INTO device_state AS s VALUES (%s, %s, %s, %s, coalesce(%s, clock_timestamp()), 1) "
        "ON CONFLICT (device_id, channel, field) DO UPDATE "
        "SET value = excluded.value, measured_at = excluded.measured_at",
        [device_id, channel, field, Jsonb(value), at],
    )


_offsets = iter(range(1, 1_000_000))


def event(db: Connection, device_id: int, name: str = "command_response", **said: object) -> None:
    db.execute(
        "INSERT INTO device_event VALUES (0, %s, 0, %s, NULL, %s, clock_timestamp(), %s)",
        [next(_offsets), device_id, name, Jsonb(said)],
    )


def request(db: Connection) -> list[CommandRequest]:
    """What is published now, as Kafka gets it; it is off the outbox."""
    out = command_work.take_outbox(db, [], 1000)
    command_work.take_outbox(db, [], 0, [one.outbox_no for one in out])
    return [one.said for one in out if isinstance(one.said, CommandRequest)]


def sent(db: Connection, row: CommandRow, answers: bool = False) -> None:
    request(db)
    move = Move(row.command_id, CommandState.SENT, sent_at=datetime.now(UTC), answers=answers)
    assert command_work.make_moves(db, [move]) == []


def look(db: Connection) -> None:
    while take_answers(db, PATIENCE_S):
        pass


def states(db: Connection, row: CommandRow) -> list[str]:
    return [one.state + (" late" if one.late else "") for one in events(db, row.command_id)]


def now_state(db: Connection, row: CommandRow) -> str:
    return find(db, row.command_id).state


# ---------------------------------------------------------------- accepted


def test_an_accepted_command_is_stored_numbered_and_to_be_published(db, plug):
    row = accept(db, plug, Ask(Kind.ON, expires_in_s=10), "user:ann")
    assert (row.command_seq, row.kind, row.state, row.issued_by) == (
        1,
        "on",
        "accepted",
        "user:ann",
    )
    assert row.expires_at - row.issued_at == timedelta(seconds=10)
    assert row.command_id.version == 7
    (asked,) = request(db)
    assert asked.command_id == str(row.command_id)
    assert (asked.command_seq, asked.device_id, asked.address) == (1, plug, "tasmota:plug")
    assert asked.expires_us - asked.issued_us == 10_000_000
    assert states(db, row) == ["accepted"]
    assert accept(db, plug, OFF, "user:ann").command_seq == 2


def test_numbers_rise_without_holes_whoever_asks_at_once(db, sinks_url, plug):
    def ask() -> None:
        with psycopg.connect(sinks_url, autocommit=True) as conn:
            for _ in range(10):
                accept(conn, plug, Ask(Kind.CONFIG, parameters={"a": 1}), "user:ann")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [row.command_seq for row in history(db, plug, None, 100)] == list(range(40, 0, -1))


def test_ids_rise_with_time_and_differ():
    at = datetime(2026, 11, 21, tzinfo=UTC)
    ids = [new_id(at + timedelta(milliseconds=n)) for n in range(1000)]
    assert ids == sorted(ids)
    assert len({new_id(at) for _ in range(1000)}) == 1000
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}


def test_every_kind_has_a_rule():
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (Ask(Kind.ON, expires_in_s=0.5), errors.BadCommand),
        (Ask(Kind.ON, expires_in_s=1e9), errors.BadCommand),
        (Ask(Kind.ON, expires_in_s=float("nan")), errors.BadCommand),
        (Ask(Kind.ON, parameters={"x": 1}), errors.BadCommand),
        (Ask(Kind.ON, revert_after_s=0), errors.BadCommand),
        (Ask(Kind.REBOOT, revert_after_s=10, confirm=True), errors.BadCommand),
        (Ask(Kind.CONFIG, parameters={"x": float("nan")}), errors.BadCommand),
        (Ask(Kind.CONFIG, parameters={"x": "\0"}), errors.BadCommand),
        (Ask(Kind.CONFIG, parameters={"x": "\ud800"}), errors.BadCommand),
        (Ask(Kind.CONFIG, parameters={"x": "y" * 40_000}), errors.BadCommand),
        (Ask(Kind.REBOOT), errors.NotConfirmed),
        (Ask(Kind.OTA), errors.NotConfirmed),
        (Ask(Kind.CALIBRATE), errors.NotConfirmed),
        (Ask(Kind.RESET_ENERGY), errors.NotConfirmed),
        (TOGGLE, errors.UnknownState),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(db, plug, ask, error):
    with pytest.raises(error):
        accept(db, plug, ask, "user:ann")
    assert history(db, plug, None, 10) == []
    assert accept(db, plug, ON, "user:ann").command_seq == 1


def test_parameters_reach_kafka_as_they_were_given(db, plug):
    given = {"gain": 1.25, "big": 2**62, "deep": {"list": [1, None, "ü"]}}
    accept(db, plug, Ask(Kind.CONFIG, parameters=given), "user:ann")
    (asked,) = request(db)
    read = msgspec.json.decode(msgspec.json.encode(asked), type=CommandRequest)
    assert read.parameters == given


# ---------------------------------------------------------------- relays, toggles


def test_the_only_relay_needs_no_name(db, plug):
    state(db, plug, "relay", False, "switch:0")
    assert accept(db, plug, ON, "user:ann").channel == "switch:0"
    assert accept(db, plug, Ask(Kind.OFF, "0"), "user:ann").channel == "switch:0"


def test_of_several_relays_one_must_be_named(db, plug):
    state(db, plug, "relay", False, "switch:0")
    state(db, plug, "relay", True, "switch:1")
    for channel in (None, "switch:2", "2", "total"):
        with pytest.raises(errors.UnknownRelay, match="switch:0, switch:1"):
            accept(db, plug, Ask(Kind.ON, channel), "user:ann")
    assert accept(db, plug, Ask(Kind.TOGGLE, "1"), "user:ann").kind == "off"


def test_a_toggle_is_the_opposite_of_the_last_known_state(db, plug):
    state(db, plug, "relay", True)
    row = accept(db, plug, TOGGLE, "user:ann")
    assert (row.kind, row.asked) == ("off", "toggle")


def test_a_toggle_is_the_opposite_of_what_is_under_way(db, plug):
    state(db, plug, "relay", True)
    assert accept(db, plug, TOGGLE, "user:ann").kind == "off"
    assert accept(db, plug, TOGGLE, "user:ann").kind == "on"


def test_a_toggle_of_what_nobody_knows_is_refused(db, plug):
    state(db, plug, "relay", "perhaps")
    with pytest.raises(errors.UnknownState, match="say on or off"):
        accept(db, plug, TOGGLE, "user:ann")


# ---------------------------------------------------------------- superseding, pace


def test_a_newer_switching_takes_the_place_of_an_older_one_of_its_relay(db, plug):
    first = accept(db, plug, Ask(Kind.ON, "switch:0"), "user:ann")
    other = accept(db, plug, Ask(Kind.ON, "switch:1"), "user:ann")
    config = accept(db, plug, Ask(Kind.CONFIG, parameters={"a": 1}), "user:ann")
    second = accept(db, plug, Ask(Kind.OFF, "switch:0"), "user:bob")
    assert now_state(db, first) == "superseded"
    assert find(db, first.command_id).superseded_by == second.command_id
    assert [now_state(db, row) for row in (other, config, second)] == ["accepted"] * 3
    assert [asked.command_seq for asked in request(db)] == [2, 3, 4]  # not the superseded one


def test_a_relay_is_not_switched_faster_than_its_interlock(db):
    device_id = device(db, "tasmota:fridge")
    accept(db, device_id, ON, "user:ann")
    with pytest.raises(errors.TooSoon, match="lie 1 s") as refused:
        accept(db, device_id, OFF, "user:ann")
    assert 0 < refused.value.wait_s <= 1
    assert accept(db, device_id, Ask(Kind.OFF, "switch:7"), "user:ann")  # another relay
    set_switch_interval(db, 600, device_id=device_id)
    db.execute("ALTER TABLE command DISABLE TRIGGER command_checked")
    db.execute("UPDATE command SET issued_at = issued_at - interval '599 s'")
    db.execute("ALTER TABLE command ENABLE TRIGGER command_checked")
    with pytest.raises(errors.TooSoon, match="lie 600 s"):
        accept(db, device_id, OFF, "user:ann")
    set_switch_interval(db, 0, device_id=device_id)
    accept(db, device_id, OFF, "user:ann")


def test_the_interlock_is_the_model_s_where_the_device_has_none(db):
    device_id = device(db, "tasmota:pump")
    set_switch_interval(db, 300, model="Pump 3000")
    state(db, device_id, "model", "Pump 3000")
    accept(db, device_id, ON, "user:ann")
    with pytest.raises(errors.TooSoon, match="lie 300 s"):
        accept(db, device_id, OFF, "user:ann")


def test_the_wall_switch_counts_for_the_interlock(db):
    device_id = device(db, "tasmota:pump")
    set_switch_interval(db, 300, device_id=device_id)
    state(db, device_id, "relay", False)
    state(db, device_id, "relay", True)
    look(db)
    with pytest.raises(errors.TooSoon):
        accept(db, device_id, OFF, "user:ann")


def test_no_kind_comes_more_often_than_its_rate(db, plug):
    for _ in range(6):
        accept(db, plug, Ask(Kind.REBOOT, confirm=True), "user:ann")
    with pytest.raises(errors.TooSoon, match="6 reboot in 3600 s"):
        accept(db, plug, Ask(Kind.REBOOT, confirm=True), "user:ann")
    accept(db, plug, ON, "user:ann")


# ---------------------------------------------------------------- once


def give(db: Connection, device_id: int, key: str | None, who: str = "ann", kind: Kind = Kind.ON):
    def work() -> list[CommandRow]:
        return [accept(db, device_id, Ask(kind), f"user:{who}")]

    return once(db, who, key, {"device": device_id, "kind": kind}, work)


def test_the_same_key_is_the_same_command(db, plug):
    first, again = give(db, plug, "k1"), give(db, plug, "k1")
    assert (first.repeated, again.repeated) == (False, True)
    assert again.commands == first.commands
    assert len(history(db, plug, None, 10)) == 1


def test_the_same_key_with_another_command_is_refused(db, plug):
    give(db, plug, "k1")
    with pytest.raises(errors.KeyReused):
        give(db, plug, "k1", kind=Kind.OFF)
    assert len(history(db, plug, None, 10)) == 1


def test_keys_of_others_are_others(db, plug):
    assert not give(db, plug, "k1").repeated
    assert not give(db, plug, "k1", who="bob").repeated
    assert not give(db, plug, None).repeated


def test_a_refused_command_leaves_no_key(db, plug):
    with pytest.raises(errors.UnknownState):
        give(db, plug, "k1", kind=Kind.TOGGLE)
    state(db, plug, "relay", True)
    assert not give(db, plug, "k1", kind=Kind.TOGGLE).repeated


def test_one_key_at_the_same_moment_is_one_command(db, sinks_url, plug):
    repeated = []

    def ask() -> None:
        with psycopg.connect(sinks_url, autocommit=True) as conn:
            repeated.append(give(conn, plug, "k1").repeated)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(repeated) == [False] + [True] * 5
    assert len(history(db, plug, None, 10)) == 1


# ---------------------------------------------------------------- offline


def test_an_offline_device_takes_no_command(db, plug):
    state(db, plug, "online", False)
    with pytest.raises(errors.DeviceOffline, match="queue_while_offline"):
        accept(db, plug, ON, "user:ann")


def test_what_came_after_the_word_offline_is_a_sign_of_life(db, plug):
    state(db, plug, "online", False)
    state(db, plug, "rssi_dbm", -60)
    accept(db, plug, ON, "user:ann")


def test_a_queued_command_waits_for_its_device(db, plug):
    state(db, plug, "online", False)
    row = accept(db, plug, Ask(Kind.ON, queue_while_offline=True), "user:ann")
    assert request(db) == []
    assert command_work.release_held(db) == 0
    state(db, plug, "online", True)
    assert command_work.release_held(db) == 1
    assert [asked.command_id for asked in request(db)] == [str(row.command_id)]


def test_a_waiting_command_can_be_cancelled_one_on_its_way_cannot(db, plug):
    state(db, plug, "online", False)
    waits = accept(db, plug, Ask(Kind.ON, queue_while_offline=True), "user:ann")
    assert cancel(db, waits.command_id).state == "cancelled"
    assert cancel(db, waits.command_id).state == "cancelled"
    state(db, plug, "online", True)
    command_work.release_held(db)
    assert request(db) == []
    goes = accept(db, plug, ON, "user:ann")
    request(db)
    with pytest.raises(errors.NotCancellable, match="on its way"):
        cancel(db, goes.command_id)
    with pytest.raises(errors.UnknownCommand):
        cancel(db, UUID(int=7))


# ---------------------------------------------------------------- what devices say


def test_answers_move_a_command_to_its_end(db, plug):
    row = accept(db, plug, ON, "user:ann")
    sent(db, row, answers=True)
    event(db, plug, command_id=str(row.command_id), outcome="received")
    event(db, plug, command_id=str(row.command_id), outcome="done")
    look(db)
    assert states(db, row) == ["accepted", "sent", "received", "done"]
    assert find(db, row.command_id).confirmed_by == "answer"


def test_an_answer_may_overtake_the_word_that_it_was_sent(db, plug):
    row = accept(db, plug, ON, "user:ann")
    request(db)
    event(db, plug, command_seq=row.command_seq, outcome="done")
    look(db)
    at = datetime.now(UTC)
    late = command_work.make_moves(db, [Move(row.command_id, CommandState.SENT, sent_at=at)])
    assert len(late) == 1
    command_work.note_sent(db, late)
    assert states(db, row) == ["accepted", "done"]
    assert find(db, row.command_id).sent_at == at


def test_an_answer_twice_is_one_move(db, plug):
    row = accept(db, plug, ON, "user:ann")
    sent(db, row, answers=True)
    for _ in range(3):
        event(db, plug, command_seq=row.command_seq, outcome="done")
    look(db)
    event(db, plug, command_seq=row.command_seq, outcome="done")
    look(db)
    assert states(db, row) == ["accepted", "sent", "done"]


def test_what_a_device_says_after_the_end_is_kept_and_moves_nothing(db, plug):
    row = accept(db, plug, Ask(Kind.ON, expires_in_s=1), "user:ann")
    sent(db, row, answers=True)
    db.execute("SELECT pg_sleep(1.1)")
    assert command_work.expire(db, 0, 0) == 1
    assert find(db, row.command_id).reason == "the device has not answered in time"
    event(db, plug, command_seq=row.command_seq, outcome="received")
    event(db, plug, command_seq=row.command_seq, outcome="done")
    look(db)
    assert states(db, row) == ["accepted", "sent", "expired", "done late"]
    found = find(db, row.command_id)
    assert (found.state, found.late_answer) == ("expired", "done")


def test_a_changed_state_confirms_where_no_answer_is_expected(db, plug):
    row = accept(db, plug, ON, "user:ann")
    state(db, plug, "relay", False)
    sent(db, row)
    state(db, plug, "relay", True)
    look(db)
    found = find(db, row.command_id)
    assert (found.state, found.confirmed_by) == ("done", "state")


def test_a_relay_that_was_so_before_confirms_when_it_says_so_again(db, plug):
    state(db, plug, "relay", True, at=datetime.now(UTC) - timedelta(seconds=60))
    row = accept(db, plug, ON, "user:ann")
    sent(db, row)
    look(db)
    assert now_state(db, row) == "sent"
    state(db, plug, "relay", True)
    look(db)
    assert now_state(db, row) == "done"


def test_the_state_of_another_relay_or_another_state_confirms_nothing(db, plug):
    state(db, plug, "relay", False, "switch:0")
    state(db, plug, "relay", False, "switch:1")
    row = accept(db, plug, Ask(Kind.ON, "switch:0"), "user:ann")
    sent(db, row)
    state(db, plug, "relay", True, "switch:1")
    state(db, plug, "relay", False, "switch:0")
    look(db)
    assert now_state(db, row) == "sent"


def test_a_device_that_answers_is_waited_for_before_its_state_is_believed(db, plug):
    row = accept(db, plug, ON, "user:ann")
    sent(db, row, answers=True)
    state(db, plug, "relay", True)
    look(db)
    assert now_state(db, row) == "sent"
    assert command_work.confirm_by_state(db, None, 0.0) == 1
    assert find(db, row.command_id).confirmed_by == "state"


@pytest.mark.parametrize("value", [None, 5, "on", [], {"a": [1]}, "\u2400", -1.5, "x" * 5000, True])
def test_whatever_a_device_says_the_stream_s_transaction_goes_on(db, plug, value):
    accept(db, plug, ON, "user:ann")
    state(db, plug, "relay", value)
    state(db, plug, "relay", value, "switch:0")
    event(db, plug, command_id=value, command_seq=value, outcome=value, reason=value)
    event(db, plug, command_id=str(UUID(int=3)), command_seq=2**62, outcome="done")
    event(db, plug, "another", command_seq=1)
    look(db)
    assert db.execute("SELECT count(*) FROM command_answer").fetchone() == (0,)


# ---------------------------------------------------------------- who switched


def test_every_change_is_put_down_to_somebody(db, plug):
    row = accept(db, plug, ON, "user:ann")
    state(db, plug, "relay", False)
    sent(db, row)
    state(db, plug, "relay", True)
    look(db)
    pressed_at = datetime.now(UTC)
    state(db, plug, "switched_by", "button", at=pressed_at)
    state(db, plug, "relay", False, at=pressed_at)
    state(db, plug, "relay", True)  # of another message, within the same second
    look(db)
    told = [
        (one.was_on, one.is_on, one.by_kind, one.command_id) for one in switches(db, plug, None, 9)
    ]
    assert told == [
        (False, True, "device", None),
        (True, False, "wall switch", None),
        (False, True, "user", row.command_id),
        (None, False, "device", None),
    ]


# ---------------------------------------------------------------- the end of time


def test_what_was_never_sent_expires_at_its_time(db, plug):
    state(db, plug, "online", False)
    row = accept(db, plug, Ask(Kind.ON, queue_while_offline=True, expires_in_s=1), "user:ann")
    assert command_work.expire(db, 5, 60) == 0
    db.execute("SELECT pg_sleep(1.1)")
    assert command_work.expire(db, 5, 60) == 1
    assert find(db, row.command_id).reason == "it was not sent in time"
    command_work.release_held(db)
    assert request(db) == []


def test_what_no_device_can_confirm_says_so_when_it_ends(db, plug):
    ask = Ask(Kind.REBOOT, confirm=True, expires_in_s=1)
    row = accept(db, plug, ask, "user:ann")
    sent(db, row, answers=False)
    db.execute("SELECT pg_sleep(1.1)")
    assert command_work.expire(db, 0, 0) == 1
    assert find(db, row.command_id).reason == "it was sent; this device cannot say whether it ran"


def test_what_was_sent_waits_for_the_stream(db, plug):
    row = accept(db, plug, Ask(Kind.ON, expires_in_s=1), "user:ann")
    sent(db, row, answers=True)
    db.execute("SELECT pg_sleep(1.2)")
    add = "INSERT INTO stream_progress VALUES ('t', 0, 1, 1, 1, 1, %s, '{}')"
    db.execute(add, [row.expires_at - timedelta(seconds=1)])
    assert command_work.expire(db, 0, 3600) == 0
    db.execute("UPDATE stream_progress SET stream_time = %s", [row.expires_at])
    assert command_work.expire(db, 0, 3600) == 1


def due(db: Connection) -> list[UUID]:
    return [one.command_id for one in command_reverts.due_reverts(db, 10)]


def wait_revert(db: Connection, row: CommandRow) -> None:
    db.execute("UPDATE command SET revert_at = now() WHERE command_id = %s", [row.command_id])


def test_a_switching_is_taken_back_after_its_time(db, plug):
    row = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    assert request(db)[0].parameters is not None
    sent(db, row)
    state(db, plug, "relay", False)
    look(db)
    done = find(db, row.command_id)
    assert done.sent_at is not None
    assert done.revert_at == done.sent_at + timedelta(seconds=60)
    assert due(db) == []
    wait_revert(db, row)
    (one,) = command_reverts.due_reverts(db, 10)
    take_back(db, one)
    newest = history(db, plug, None, 1)[0]
    assert (newest.kind, newest.issued_by) == ("on", f"revert:{row.command_id}")
    assert newest.queued
    assert due(db) == []


@pytest.mark.parametrize("end", ["failed", "expired, never sent", "cancelled"])
def test_what_cannot_have_run_is_not_taken_back(db, plug, end):
    if end == "cancelled":
        state(db, plug, "online", False)
    ask = Ask(Kind.OFF, revert_after_s=60, queue_while_offline=True)
    row = accept(db, plug, ask, "rule:shed")
    if end == "cancelled":
        cancel(db, row.command_id)
    elif end == "failed":
        sent(db, row)
        command_work.make_moves(db, [Move(row.command_id, CommandState.FAILED, "stuck")])
    else:
        command_work.make_moves(db, [Move(row.command_id, CommandState.EXPIRED)])
    assert find(db, row.command_id).revert_at is None


def test_a_newer_switching_that_was_done_is_not_taken_back_by_the_older(db, plug):
    row = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    sent(db, row)
    newer = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    sent(db, newer)
    wait_revert(db, row)
    assert due(db) == []  # the newer one is under way
    command_work.make_moves(db, [Move(newer.command_id, CommandState.DONE)])
    assert due(db) == []
    assert find(db, row.command_id).revert_at is None
    assert find(db, newer.command_id).revert_at is not None


def test_a_newer_switching_that_failed_does_not_keep_the_load_off(db, plug):
    row = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    sent(db, row)
    newer = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    sent(db, newer)
    command_work.make_moves(db, [Move(newer.command_id, CommandState.FAILED, "stuck")])
    wait_revert(db, row)
    assert due(db) == [row.command_id]


def test_a_relay_that_has_gone_back_by_itself_is_left_alone(db, plug):
    row = accept(db, plug, Ask(Kind.OFF, revert_after_s=60), "rule:shed")
    sent(db, row)
    state(db, plug, "relay", True)
    wait_revert(db, row)
    assert due(db) == []


def test_a_revert_that_comes_too_soon_for_the_relay_comes_later(db):
    device_id = device(db, "tasmota:slow")
    row = accept(db, device_id, Ask(Kind.OFF, revert_after_s=1), "rule:shed")
    set_switch_interval(db, 600, device_id=device_id)
    sent(db, row)
    wait_revert(db, row)
    (one,) = command_reverts.due_reverts(db, 10)
    take_back(db, one)
    assert len(history(db, device_id, None, 10)) == 1
    assert due(db) == [row.command_id]
    set_switch_interval(db, 0, device_id=device_id)
    take_back(db, one)
    assert history(db, device_id, None, 1)[0].kind == "on"


# ---------------------------------------------------------------- the tables' own rules


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE command SET state = 'accepted'",
        "UPDATE command SET state = 'sent'",
        "UPDATE command SET state = 'cancelled'",
        "UPDATE command SET state = 'nonsense'",
        "UPDATE command SET kind = 'off'",
        "UPDATE command SET expires_at = expires_at + interval '1 day'",
        "UPDATE command SET issued_by = 'user:eve'",
        "UPDATE command_event SET at = now()",
        "DELETE FROM command_event",
    ],
)
def test_nobody_rewrites_what_was(db, plug, tamper):
    row = accept(db, plug, ON, "user:ann")
    sent(db, row)
    command_work.make_moves(db, [Move(row.command_id, CommandState.DONE)])
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(tamper.encode())


def test_what_kafka_may_have_is_not_cancelled_behind_its_back(db, plug):
    accept(db, plug, ON, "user:ann")
    request(db)
    with pytest.raises(psycopg.errors.CheckViolation, match="accepted cannot become cancelled"):
        db.execute("UPDATE command SET state = 'cancelled'")


def test_a_request_in_flight_is_taken_once(db, plug):
    accept(db, plug, ON, "user:ann")
    first = command_work.take_outbox(db, [], 10)
    assert command_work.take_outbox(db, [one.outbox_no for one in first], 10) == []
    again = command_work.take_outbox(db, [], 10)  # after a crash: the same, with the same identity
    assert [(one.outbox_no, one.identity) for one in again] == [
        (one.outbox_no, one.identity) for one in first
    ]
