"""End-to-end acknowledgements: gapless, never ahead of Kafka, and complete in the end."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import end_to_end
from ingest.end_to_end import EndToEnd, node_of, position_of
from schemas.homesync import Ack, Position

NODE = "homesync/h/nodes/n"


def at(seq: int, first: int = 1, boot: str = "b") -> tuple[str, Position]:
    return NODE, Position(v=1, boot=boot, seq=seq, first=first)


def acks_of(e2e: EndToEnd, now: float) -> list[tuple[str, str, int]]:
    return [(node, ack.boot, ack.seq) for node, ack in e2e.due(now)]


@pytest.mark.parametrize(
    ("topic", "node"),
    [
        ("homesync/h/nodes/n/telemetry/power", "homesync/h/nodes/n"),
        ("homesync/บ้าน/nodes/n 1/telemetry/a/b", "homesync/บ้าน/nodes/n 1"),
        ("homesync/h/nodes/n/telemetry/", None),
        ("homesync/h/nodes/n/telemetry", None),
        ("homesync//nodes/n/telemetry/power", None),
        ("homesync/h/x/nodes/n/telemetry/power", None),
        ("homesync/h/nodes/n/status", None),
        ("x/homesync/h/nodes/n/telemetry/power", None),
    ],
)
def test_nodes_are_known_by_their_telemetry_topic(topic, node):
    assert node_of(topic) == node


def test_the_position_is_read_and_the_rest_is_not_looked_at():
    payload = b'{"v":2,"new":[{}],"boot":"5f","seq":812,"first":790,"channels":"?"}'
    assert position_of(payload) == Position(v=2, boot="5f", seq=812, first=790)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"123.4",
        b"\xff\xfe",
        b'{"power_w": 12}',
        b'{"v":1,"boot":"b","seq":1}',
        b'{"v":1,"boot":"b","seq":"1","first":1}',
        b'{"v":1,"boot":"b","seq":1.5,"first":1}',
        b'{"v":1,"boot":5,"seq":1,"first":1}',
        b'{"v":1,"boot":"","seq":1,"first":1}',
        b'{"v":1,"boot":"' + b"b" * 65 + b'","seq":1,"first":1}',
        b'{"v":1,"boot":"b","seq":1,"first":2}',
        b'{"v":1,"boot":"b","seq":-1,"first":-1}',
        b'{"v":1,"boot":"b","seq":9223372036854775808,"first":1}',
        b'{"v":1,"boot":"b","seq":1,"first":1',
        b'{"a":' + b"[" * 100_000,
        b"null",
    ],
)
def test_a_payload_without_a_sound_position_is_bare(payload):
    assert position_of(payload) is None


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_reading_a_position_never_raises(payload):
    position_of(payload)


def test_only_the_end_of_the_gapless_run_is_acknowledged():
    e2e = EndToEnd()
    e2e.confirm([at(1), at(2), at(4), at(5)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 2)]
    assert e2e.pending == 2
    e2e.confirm([at(3)])
    assert acks_of(e2e, 1.0) == [(NODE, "b", 5)]
    assert e2e.pending == 0


def test_a_new_connector_begins_at_first_and_waits_for_it():
    e2e = EndToEnd()
    e2e.confirm([at(801, first=790), at(802, first=790)])
    assert acks_of(e2e, 0.0) == []
    e2e.confirm([at(seq, first=790) for seq in range(790, 801)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 802)]


def test_a_later_first_closes_the_gap_before_it():
    e2e = EndToEnd()
    e2e.confirm([at(1), at(5)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 1)]
    e2e.confirm([at(7, first=5)])  # the node gave up 2, 3 and 4
    assert acks_of(e2e, 1.0) == [(NODE, "b", 5)]


def test_a_device_gets_one_acknowledgement_a_second_and_the_last_one_is_not_forgotten():
    e2e = EndToEnd()
    e2e.confirm([at(1)])
    assert acks_of(e2e, 10.0) == [(NODE, "b", 1)]
    e2e.confirm([at(2)])
    e2e.confirm([at(3)])
    assert acks_of(e2e, 10.9) == []
    assert acks_of(e2e, 11.0) == [(NODE, "b", 3)]
    assert acks_of(e2e, 12.5) == []


def test_two_boots_of_a_node_share_its_second():
    e2e = EndToEnd()
    e2e.confirm([at(1, boot="old"), at(1, boot="new")])
    assert acks_of(e2e, 0.0) == [(NODE, "old", 1)]
    assert acks_of(e2e, 0.5) == []
    assert acks_of(e2e, 1.0) == [(NODE, "new", 1)]


def test_what_was_acknowledged_and_comes_again_is_acknowledged_again():
    e2e = EndToEnd()
    e2e.confirm([at(1), at(2)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 2)]
    e2e.confirm([at(1)])
    assert acks_of(e2e, 5.0) == [(NODE, "b", 2)]


def test_nothing_below_first_is_acknowledged_on_its_own():
    e2e = EndToEnd()
    e2e.confirm([at(9, first=8), at(7, first=7)])
    assert acks_of(e2e, 0.0) == []


def test_positions_behind_a_gap_are_bounded_and_the_rest_comes_again(monkeypatch):
    monkeypatch.setattr(end_to_end, "MAX_PENDING", 10)
    e2e = EndToEnd()
    e2e.confirm([at(seq) for seq in range(2, 100)])
    assert e2e.pending == 10
    e2e.confirm([at(1)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 11)]
    e2e.confirm([at(seq, first=12) for seq in range(12, 100)])
    assert acks_of(e2e, 1.0) == [(NODE, "b", 99)]
    assert e2e.pending == 0


def test_ten_thousand_positions_wait_for_a_gap():
    e2e = EndToEnd()
    e2e.confirm([at(seq) for seq in range(2, 20_000)])
    assert e2e.pending == 10_000
    e2e.confirm([at(1)])
    assert acks_of(e2e, 0.0) == [(NODE, "b", 10_001)]


def test_the_oldest_runs_are_forgotten_without_harm(monkeypatch):
    monkeypatch.setattr(end_to_end, "MAX_RUNS", 3)
    e2e = EndToEnd()
    for number in range(10):
        e2e.confirm([at(2, boot=f"b{number}")])
    assert e2e.pending == 3
    e2e.confirm([at(1, boot="b0")])
    assert acks_of(e2e, 0.0) == [(NODE, "b0", 1)]
    e2e.confirm([at(2, boot="b0")])
    assert acks_of(e2e, 1.0) == [(NODE, "b0", 2)]


class Node:
    """A node's outbox: it strikes what is acknowledged, and can say what is left."""

    def __init__(self, readings: int) -> None:
        self.outbox = list(range(1, readings + 1))

    def send(self, seq: int) -> Position:
        return Position(v=1, boot="b", seq=seq, first=self.outbox[0])

    def acknowledged(self, ack: Ack) -> None:
        self.outbox = [seq for seq in self.outbox if seq > ack.seq]


@given(
    readings=st.integers(1, 30),
    rounds=st.integers(1, 6),
    loss=st.floats(0, 0.7),
    ack_loss=st.floats(0, 0.7),
    restart=st.floats(0, 0.3),
    seed=st.integers(0, 2**32),
)
def test_no_acknowledgement_runs_ahead_of_kafka_and_all_arrive(
    readings, rounds, loss, ack_loss, restart, seed
):
    chance = random.Random(seed)
    node, e2e = Node(readings), EndToEnd()
    stored: set[int] = set()
    now = 0.0
    late: list[Position] = []  # copies still under way, from older rounds

    def answer(lossy: bool) -> None:
        nonlocal now
        now += 1.0
        acks = e2e.due(now)
        assert len(acks) <= 1
        for _, ack in acks:
            assert set(range(1, ack.seq + 1)) <= stored, "acknowledged what Kafka does not have"
            if not lossy or chance.random() > ack_loss:
                node.acknowledged(ack)

    for _ in range(rounds):
        if not node.outbox:
            break
        batch = [node.send(seq) for seq in node.outbox for _ in range(chance.choice((1, 1, 2)))]
        batch += [late.pop() for _ in range(len(late) // 2)]
        chance.shuffle(batch)
        while batch:
            cut = chance.randrange(1, len(batch) + 1)
            part, batch = batch[:cut], batch[cut:]
            kept = []
            for position in part:
                if chance.random() < loss:
                    if chance.random() < 0.5:
                        late.append(position)
                else:
                    kept.append(position)
            stored |= {position.seq for position in kept}
            if chance.random() < restart:
                e2e = EndToEnd()  # Kafka has them, the new connector does not know
            else:
                e2e.confirm([(NODE, position) for position in kept])
            answer(lossy=True)
    # A quiet end: all that is left is sent again, in order, and nothing is lost.
    for seq in node.outbox:
        position = node.send(seq)
        stored.add(seq)
        e2e.confirm([(NODE, position)])
    answer(lossy=False)
    assert node.outbox == []


def test_the_acknowledgement_is_what_nodes_expect():
    assert msgspec.json.encode(Ack(boot="5f", seq=7)) == b'{"boot":"5f","seq":7}'


def test_the_acknowledgement_tells_nodes_without_a_clock_the_time():
    told = msgspec.json.encode(Ack(boot="5f", seq=7, at_us=1_763_700_000_250_000))
    assert told == b'{"boot":"5f","seq":7,"at_us":1763700000250000}'
