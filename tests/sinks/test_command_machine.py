"""The life of commands in the real database beside a small model of it, step by step."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from psycopg.types.json import Jsonb

from schemas.command import FINAL, CommandEvent, CommandRequest, CommandState, Kind
from sinks import command_work
from sinks.command_errors import CommandError, DeviceOffline, NotCancellable, UnknownState
from sinks.command_work import Move
from sinks.commands import Ask, accept, cancel, set_switch_interval
from streams.commands.rounds import take_answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

S = CommandState
OPEN = (S.ACCEPTED, S.SENT, S.RECEIVED)
RELAYS = ("switch:0", "switch:1")
ORDER = {S.ACCEPTED: 0, S.SENT: 1, S.RECEIVED: 2}


def legal(before: CommandState, after: CommandState) -> bool:
    """The model's own rule: forwards, and from no end; `cancelled` only by `cancel`."""
    if before in FINAL or after in (S.ACCEPTED, S.CANCELLED):
        return False
    return after in FINAL or ORDER[after] > ORDER[before]


@dataclass
class Known:
    """What the model holds of a command."""

    number: int
    relay: str
    kind: Kind
    held: bool = False
    requested: bool = False
    life: list[CommandState] = field(default_factory=lambda: [S.ACCEPTED])
    late: list[CommandState] = field(default_factory=list)

    @property
    def state(self) -> CommandState:
        return self.life[-1]


class Commands(RuleBasedStateMachine):
    conn: ClassVar[psycopg.Connection[Any]]
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        address = f"tasmota:machine-{next(self.numbers)}"
        row = self.conn.execute(
            "INSERT INTO device (address, family) VALUES (%s, 'tasmota') RETURNING device_id",
            [address],
        ).fetchone()
        assert row is not None
        self.device_id: int = row[0]
        set_switch_interval(self.conn, 0, device_id=self.device_id)
        self.known: dict[UUID, Known] = {}
        self.relays: dict[str, bool] = {}
        self.online = True
        self.published: list[UUID] = []
        self.told: dict[UUID, list[CommandState]] = {}

    def open_ids(self) -> list[UUID]:
        return [one for one, known in self.known.items() if known.state in OPEN]

    # ---- people

    @rule(
        kind=st.sampled_from([Kind.ON, Kind.OFF, Kind.TOGGLE]),
        relay=st.sampled_from(RELAYS),
        queue=st.booleans(),
    )
    def give(self, kind: Kind, relay: str, queue: bool) -> None:
        pending = [
            known for known in self.known.values() if known.relay == relay and known.state in OPEN
        ]
        ask = Ask(kind, relay, queue_while_offline=queue)
        if not self.online and not queue:
            with pytest.raises(DeviceOffline):
                accept(self.conn, self.device_id, ask, "user:ann")
            return
        if self.relays and relay not in self.relays:
            with pytest.raises(CommandError):
                accept(self.conn, self.device_id, ask, "user:ann")
            return
        if kind is Kind.TOGGLE:
            is_on = pending[-1].kind is Kind.ON if pending else self.relays.get(relay)
            if is_on is None:
                with pytest.raises(UnknownState):
                    accept(self.conn, self.device_id, ask, "user:ann")
                return
            kind = Kind.OFF if is_on else Kind.ON
        row = accept(self.conn, self.device_id, ask, "user:ann")
        assert row.kind == kind
        for known in pending:
            known.life.append(S.SUPERSEDED)
        self.known[row.command_id] = Known(
            row.command_seq, relay, kind, held=queue and not self.online
        )
        assert row.command_seq == len(self.known)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        command_id = data.draw(st.sampled_from(list(self.known)))
        known = self.known[command_id]
        if known.state is S.ACCEPTED and not known.requested:
            cancel(self.conn, command_id)
            known.life.append(S.CANCELLED)
        elif known.state is S.CANCELLED:
            cancel(self.conn, command_id)
        else:
            with pytest.raises(NotCancellable):
                cancel(self.conn, command_id)

    # ---- the process

    @rule(crash=st.booleans())
    def publish(self, crash: bool) -> None:
        """A crash forgets that Kafka has them: all comes again."""
        command_work.release_held(self.conn)
        if self.online:
            for known in self.known.values():
                known.held = False
        out = command_work.take_outbox(self.conn, [], 1000)
        for one in out:
            if isinstance(one.said, CommandRequest):
                command_id = UUID(one.said.command_id)
                known = self.known[command_id]
                assert known.state is S.ACCEPTED
                assert not known.held
                known.requested = True
                self.published.append(command_id)
            elif isinstance(one.said, CommandEvent) and not crash:
                self.told.setdefault(UUID(one.said.command_id), []).append(one.said.state)
        if not crash:
            command_work.take_outbox(self.conn, [], 0, [one.outbox_no for one in out])

    @precondition(lambda self: any(known.requested for known in self.known.values()))
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """Several at once, legal or not, some of the same command."""
        ids = [one for one, known in self.known.items() if known.requested]
        states = st.sampled_from([S.SENT, S.RECEIVED, S.DONE, S.FAILED, S.EXPIRED])
        wanted = data.draw(
            st.lists(st.tuples(st.sampled_from(ids), states), min_size=1, max_size=5)
        )
        at = datetime.now(UTC)
        refused = command_work.make_moves(
            self.conn, [Move(one, state, sent_at=at, answers=True) for one, state in wanted]
        )
        expected = []
        for one, state in wanted:
            known = self.known[one]
            if legal(known.state, state):
                known.life.append(state)
            else:
                expected.append((one, state))
        assert sorted((m.command_id, m.state) for m in refused) == sorted(expected)

    # ---- the device

    @precondition(lambda self: any(known.requested for known in self.known.values()))
    @rule(data=st.data(), outcome=st.sampled_from([S.RECEIVED, S.DONE, S.FAILED]))
    def answer(self, data: st.DataObject, outcome: CommandState) -> None:
        ids = [one for one, known in self.known.items() if known.requested]
        command_id = data.draw(st.sampled_from(ids))
        known = self.known[command_id]
        self.conn.execute(
            "INSERT INTO command_answer (device_id, channel, at, answer) "
            "VALUES (%s, '', now(), %s)",
            [self.device_id, Jsonb({"command_seq": known.number, "outcome": outcome.value})],
        )
        while take_answers(self.conn, 3600):
            pass
        if legal(known.state, outcome):
            known.life.append(outcome)
        elif (
            known.state in FINAL
            and outcome in (S.DONE, S.FAILED)
            and outcome is not known.state
            and (not known.late or known.late[-1] is not outcome)
        ):
            known.late.append(outcome)

    @rule(relay=st.sampled_from(RELAYS), is_on=st.booleans())
    def report(self, relay: str, is_on: bool) -> None:
        """As all commands here await an answer, a state confirms none in an hour."""
        self._said("relay", is_on, relay)
        self.relays[relay] = is_on
        self.online = True
        while take_answers(self.conn, 3600):
            pass

    @rule(online=st.booleans())
    def come_or_go(self, online: bool) -> None:
        self._said("online", online, "")
        self.online = online

    def _said(self, name: str, value: bool, channel: str) -> None:
        self.conn.execute(
            "INSERT INTO device_state VALUES (%s, %s, %s, %s, clock_timestamp(), 1) "
            "ON CONFLICT (device_id, channel, field) DO UPDATE "
            "SET value = excluded.value, measured_at = excluded.measured_at",
            [self.device_id, channel, name, Jsonb(value)],
        )

    # ---- always

    @invariant()
    def lives_agree(self) -> None:
        rows = self.conn.execute(
            "SELECT command_id, state, late FROM command_event JOIN command c USING (command_id) "
            "WHERE c.device_id = %s ORDER BY event_no".replace(" state,", " command_event.state,"),
            [self.device_id],
        ).fetchall()
        lives: dict[UUID, list[CommandState]] = {}
        late: dict[UUID, list[CommandState]] = {}
        for command_id, state, came_late in rows:
            (late if came_late else lives).setdefault(command_id, []).append(S(state))
        assert lives == {one: known.life for one, known in self.known.items()}
        assert late == {one: known.late for one, known in self.known.items() if known.late}

    @invariant()
    def a_relay_has_one_intent(self) -> None:
        for relay in RELAYS:
            assert sum(self.known[one].relay == relay for one in self.open_ids()) <= 1

    def teardown(self) -> None:
        """Drained: every step was told once, in its order, and who was cancelled never set out."""
        self.publish(crash=False)
        if hasattr(self, "told"):
            assert self.told == {one: known.life for one, known in self.known.items()}
            for one, known in self.known.items():
                if known.state is S.CANCELLED:
                    assert one not in self.published


@contextmanager
def connected(url: str) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as conn:
        Commands.conn = conn
        yield


def test_the_life_of_commands(sinks_url, db):
    with connected(sinks_url):
        run_machine(
            Commands,
            settings=settings(
                max_examples=25,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
