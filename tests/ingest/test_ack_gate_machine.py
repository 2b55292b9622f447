"""Both acknowledgements at once, as the connector gives them: nodes, a broker, Kafka, and crashes.

The model knows what Kafka has. A PUBACK and an end-to-end acknowledgement may say no more than
that, in whatever order batches are confirmed, connections break, processes die and nodes forget.
`test_ack_gate.py` has the gate alone.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ingest.ack_gate import AckGate, Batch
from ingest.end_to_end import EndToEnd
from schemas.homesync import Ack, Position
from tests.examples import examples

RECEIVE_MAXIMUM = 6
INTERVAL_S = 1.0
INDEX = st.integers(0, 9)
SECONDS = st.sampled_from([None, 0.0, 0.3, 1.0, 5.0])
DISTURBANCES = (
    "a cut connection", "a crash", "a crash before Kafka has anything", "a full outbox",
    "a lost outbox", "the broker's files are lost",
)  # fmt: skip
NAMES = ("homesync/h/nodes/a", "homesync/h/nodes/b")
Sent = tuple[str, Position]
Reading = tuple[str, str, int]
"""Node, boot and seq."""


@dataclass
class Node:
    """What a node keeps until it is told: its outbox, oldest first."""

    name: str
    boots: int = 0
    next_seq: int = 1
    outbox: list[int] = field(default_factory=list)

    @property
    def boot(self) -> str:
        return f"{self.name[-1]}{self.boots}"

    @property
    def readings(self) -> set[Reading]:
        return {(self.name, self.boot, seq) for seq in self.outbox}

    def message(self, seq: int) -> Sent:
        return self.name, Position(v=1, boot=self.boot, seq=seq, first=self.outbox[0])


class Flight(Batch):
    """A batch on its way to Kafka, with what the connector keeps beside it."""

    __slots__ = ("connector", "left", "messages")

    def __init__(self, packet_ids: list[int], messages: list[Sent], connector: int) -> None:
        super().__init__(packet_ids, len(messages))
        self.messages, self.left, self.connector = messages, list(messages), connector


class Acknowledging(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.nodes = {name: Node(name) for name in NAMES}
        self.gate, self.end_to_end = AckGate(), EndToEnd()
        self.connector = 0  # counts processes
        self.connected = True
        self.queue: list[Sent] = []
        self.in_flight: list[tuple[int, Sent]] = []  # packet id, in order of PUBLISH
        self.next_id = 0
        self.flights: list[Flight] = []  # of any connection, not wholly in Kafka
        self.stored: set[Reading] = set()
        self.given_up: set[Reading] = set()
        self.now = 0.0
        self.told_at = dict.fromkeys(NAMES, -INTERVAL_S)

    # ---- nodes

    @rule(
        name=st.sampled_from(NAMES),
        measured=st.sampled_from([0, 1, 3]),
        which=st.lists(st.integers(0, 3), min_size=1, max_size=4),
        cut=st.integers(0, 3),
    )
    def publish(self, name: str, measured: int, which: list[int], cut: int) -> None:
        """Some of its outbox, in any order, perhaps again; the broker may deliver at once."""
        node = self.nodes[name]
        node.outbox += range(node.next_seq, node.next_seq + measured)
        node.next_seq += measured
        if node.outbox:
            self.queue += [node.message(node.outbox[i % len(node.outbox)]) for i in which]
        if cut:
            self.deliver(cut)

    # ---- the broker

    @rule(most=st.integers(1, 3))
    def deliver(self, most: int) -> None:
        self.connect()
        room = min(most, RECEIVE_MAXIMUM - len(self.in_flight))
        messages, self.queue = self.queue[:room], self.queue[room:]
        packets = []
        for message in messages:
            self.next_id = self.next_id % (RECEIVE_MAXIMUM + 2) + 1
            packets.append((self.next_id, message))
        if packets:
            self.in_flight += packets
            flight = Flight([packet_id for packet_id, _ in packets], messages, self.connector)
            self.gate.received(flight)
            self.flights.append(flight)

    def disconnect(self) -> None:
        self.connected = False
        self.gate.new_connection()
        self._queue_again()

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.gate.new_connection()

    def _queue_again(self) -> None:
        self.queue = [message for _, message in self.in_flight] + self.queue
        self.in_flight.clear()
        self.next_id = 0  # the same packet ids again, for other messages

    # ---- Kafka

    @rule(flight=INDEX, which=INDEX, wholly=st.booleans(), seconds=SECONDS, arrives=st.booleans())
    def confirm(
        self, flight: int, which: int, wholly: bool, seconds: float | None, arrives: bool
    ) -> None:
        """Kafka has one message, or all of a batch; perhaps the nodes are told then."""
        if self.flights:
            one = self.flights[flight % len(self.flights)]
            for message in list(one.left) if wholly else [one.left[which % len(one.left)]]:
                self._store(one, message)
        if seconds is not None:
            self.release()
            self.tell_the_nodes(seconds, arrives)

    def _store(self, flight: Flight, message: Sent) -> None:
        flight.left.remove(message)
        name, position = message
        self.stored.add((name, position.boot, position.seq))
        if not flight.left:
            self.flights.remove(flight)
        if flight.connector == self.connector:  # else nobody lives who would hear of it
            flight.open -= 1
            if not flight.open:
                self.end_to_end.confirm(flight.messages)

    # ---- the connector

    @rule()
    def release(self) -> None:
        released = self.gate.release()
        assert self.connected or not released, "acknowledged without a connection"
        for packet_id in released:
            expected, (name, position) = self.in_flight.pop(0)
            assert packet_id == expected, "PUBACKs follow the order of PUBLISH, each once"
            assert (name, position.boot, position.seq) in self.stored, "before Kafka had it"

    def tell_the_nodes(self, seconds: float, arrives: bool) -> None:
        self.now += seconds
        for name, ack in self.end_to_end.due(self.now):
            assert self.now - self.told_at[name] >= INTERVAL_S, "one a node and interval"
            self.told_at[name] = self.now
            self._check(name, ack)
            node = self.nodes[name]
            if arrives and ack.boot == node.boot:
                node.outbox = [seq for seq in node.outbox if seq > ack.seq]

    def _check(self, name: str, ack: Ack) -> None:
        node = self.nodes[name]
        assert ack.seq >= 1
        assert ack.boot != node.boot or ack.seq < node.next_seq, "of what was never measured"
        for seq in range(1, ack.seq + 1):
            one = (name, ack.boot, seq)
            assert one in self.stored or one in self.given_up, f"{one} is not in Kafka"

    def crash(self) -> None:
        """A new process. What the old one handed to Kafka may still arrive, unheard."""
        self.gate, self.end_to_end = AckGate(), EndToEnd()
        self.connector += 1
        self.told_at = dict.fromkeys(NAMES, -INTERVAL_S)

    # ---- what goes wrong

    @rule(what=st.sampled_from(DISTURBANCES), name=st.sampled_from(NAMES))
    def disturb(self, what: str, name: str) -> None:
        node = self.nodes[name]
        match what:
            case "a full outbox" if len(node.outbox) > 1:  # its `first` says so from now on
                self.given_up.add((name, node.boot, node.outbox.pop(0)))
            case "a lost outbox":
                self.given_up |= node.readings
                self.nodes[name] = Node(name, node.boots + 1)
            case "the broker's files are lost":  # and with them what it had confirmed
                self.disconnect()
                self.queue.clear()
            case "a crash" | "a crash before Kafka has anything":
                self.crash()
                self.disconnect()
                if what != "a crash":
                    self.flights.clear()
            case "a cut connection":
                self.disconnect()

    # ---- always, and in the end

    @invariant()
    def nothing_is_forgotten_that_kafka_does_not_have(self) -> None:
        for node in self.nodes.values():
            measured = {(node.name, node.boot, seq) for seq in range(1, node.next_seq)}
            assert measured - node.readings <= self.stored | self.given_up
        assert self.gate.waiting <= len(self.in_flight)

    def teardown(self) -> None:
        """The connection holds and Kafka answers: a round or two, and every outbox is empty."""
        if not hasattr(self, "nodes"):
            return
        self.disconnect()
        for _ in range(3):
            for node in self.nodes.values():
                self.queue += [node.message(seq) for seq in node.outbox]
            while self.queue or self.flights:
                if self.queue:
                    self.deliver(RECEIVE_MAXIMUM)
                while self.flights:
                    self.confirm(0, 0, True, None, True)
                self.release()
            self.tell_the_nodes(5.0, True)
            self.tell_the_nodes(5.0, True)
        assert all(not node.outbox for node in self.nodes.values())
        assert self.gate.waiting == 0
        assert not self.in_flight


TestAcknowledging = Acknowledging.TestCase
TestAcknowledging.settings = settings(max_examples=examples(150), deadline=None)
