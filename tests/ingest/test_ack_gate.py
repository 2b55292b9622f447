"""The gate against a small model: a broker's session, Kafka, and crashes in any order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from ingest.ack_gate import AckGate, Batch

RECEIVE_MAXIMUM = 8


class Uplink(RuleBasedStateMachine):
    """A broker that numbers its messages from a small circle, so that packet ids come again."""

    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.gate = AckGate()
        self.queue: list[int] = []  # messages that were not sent on this connection
        self.in_flight: list[tuple[int, int]] = []  # (packet id, message), in order of PUBLISH
        self.next_id = 0
        self.next_message = 0
        self.connected = True
        self.stored: set[int] = set()  # what Kafka has
        self.gone: set[int] = set()  # what the broker forgot, for it was acknowledged

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        self.queue += range(self.next_message, self.next_message + count)
        self.next_message += count

    @rule(target=batches, qos0=st.integers(0, 2))
    def deliver(self, qos0: int):
        if not self.connected:
            return multiple()
        room = RECEIVE_MAXIMUM - len(self.in_flight)
        messages, self.queue = self.queue[:room], self.queue[room:]
        sent = []
        for message in messages:
            self.next_id = self.next_id % (RECEIVE_MAXIMUM + 3) + 1
            sent.append((self.next_id, message))
        if not sent and not qos0:
            return multiple()
        self.in_flight += sent
        batch = Batch([packet_id for packet_id, _ in sent], len(sent) + qos0)
        self.gate.received(batch)
        waiting: list[int | None] = [message for _, message in sent]
        return batch, waiting + [None] * qos0

    @rule(entry=batches, which=st.integers(0, 10))
    def kafka_confirms_one(self, entry: tuple[Batch, list[int | None]], which: int) -> None:
        batch, waiting = entry
        if waiting:
            message = waiting.pop(which % len(waiting))
            batch.open -= 1
            if message is not None:
                self.stored.add(message)

    @rule(entry=consumes(batches))
    def kafka_confirms_all(self, entry: tuple[Batch, list[int | None]]) -> None:
        batch, waiting = entry
        batch.open -= len(waiting)
        self.stored |= {message for message in waiting if message is not None}
        waiting.clear()

    @rule()
    def release(self) -> None:
        released = self.gate.release()
        assert self.connected or not released, "nothing to acknowledge without a connection"
        for packet_id in released:
            expected, message = self.in_flight.pop(0)
            assert packet_id == expected, "PUBACKs follow the order of PUBLISH"
            assert message in self.stored, "acknowledged before Kafka had it"
            self.gone.add(message)

    @rule()
    def disconnect(self) -> None:
        self.connected = False
        self.gate.new_connection()
        self._requeue()

    @rule()
    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.gate.new_connection()

    @rule()
    def crash(self) -> None:
        """The process is new; reports of the old one never come."""
        self.gate = AckGate()
        self.connected = False
        self._requeue()

    def _requeue(self) -> None:
        self.queue = [message for _, message in self.in_flight] + self.queue
        self.in_flight = []
        self.next_id = 0  # the same ids again, for other messages

    @invariant()
    def nothing_is_lost(self) -> None:
        there = self.gone | set(self.queue) | {message for _, message in self.in_flight}
        assert there == set(range(self.next_message))
        assert self.gone <= self.stored
        assert self.gate.waiting <= len(self.in_flight)

    def teardown(self) -> None:
        """All is acknowledged in the end, once the connection holds and Kafka answers."""
        self.disconnect()
        self.connect()
        while self.queue:
            made = self.deliver(qos0=0)
            self.kafka_confirms_all(made)
            self.release()
        assert self.gone == set(range(self.next_message))
        assert self.gate.waiting == 0


TestUplink = Uplink.TestCase
TestUplink.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_batch_waits_for_the_one_before_it():
    gate = AckGate()
    first, second = Batch([1, 2], 2), Batch([3], 1)
    gate.received(first)
    gate.received(second)
    second.open -= 1
    assert gate.release() == []
    first.open -= 2
    assert gate.release() == [1, 2, 3]


def test_a_late_report_of_an_old_connection_acknowledges_nothing():
    gate = AckGate()
    old, new = Batch([1], 1), Batch([1], 1)
    gate.received(old)
    gate.new_connection()
    gate.received(new)
    old.open -= 1
    assert gate.release() == []
    assert gate.waiting == 1
