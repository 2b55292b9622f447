"""The node's MQTT client over a wire that the test holds: every wait ends, no bad packet passes."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node import mqtt_packets as packets
from node.backoff import Backoff
from node.mqtt_client import (
    ANSWER_WITHIN_MS,
    CONNECT_WITHIN_MS,
    FIRST_OWN_ID,
    INCOMING_BYTES,
    MOST_SAID,
    WRITE_WITHIN_MS,
    Client,
)
from node.mqtt_packets import SMALL_BYTES, BadPacket, Publish, Reader
from node.stream import Broken

CONNACK = b"\x20\x02\x00\x00"
SUBACK = b"\x90\x04\x00\x01\x01\x01"


class Wire:
    """What the client's connections are made of. `connects` and `takes` can be switched off."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.opened = 0
        self.closed = 0
        self.connects = True
        self.takes = True
        self.ready = False
        self.socket = None

    def open(self) -> "Wire":
        self.opened += 1
        self.incoming.clear()
        self.outgoing.clear()
        self.ready = False
        return self

    def connecting(self) -> bool:
        self.ready = self.ready or self.connects
        return self.ready

    def read_into(self, view: memoryview) -> int:
        got = min(len(view), len(self.incoming))
        view[:got] = self.incoming[:got]
        del self.incoming[:got]
        return got

    def write(self, data: bytes) -> int:
        if not self.takes:
            return 0
        self.outgoing += data
        return len(data)

    def close(self) -> None:
        self.closed += 1

    def sent(self) -> bytes:
        data = bytes(self.outgoing)
        self.outgoing.clear()
        return data


class Bench:
    def __init__(self) -> None:
        self.wire = Wire()
        self.heard: list[Publish] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.now_ms = 0
        self.client = Client(
            self.wire.open,
            ("id", "user", "word"),
            ("will/topic", b"false"),
            ("a/command/+", "a/ack"),
            self.heard.append,
            Backoff(random.Random(1).randrange),
            lambda event, **said: self.log.append((event, said)),
            keepalive_s=60,
        )

    def step(self, after_ms: int = 0, incoming: bytes = b"") -> bytes:
        self.now_ms += after_ms
        self.wire.incoming += incoming
        self.client.step(self.now_ms)
        return self.wire.sent()

    def connect(self) -> "Bench":
        """To an up connection; the back-off before it is waited out."""
        for _ in range(200):
            if self.wire.opened > self.wire.closed:
                break
            self.step(1_000)
        self.step()
        self.step(incoming=CONNACK)
        self.step(incoming=SUBACK)
        assert self.client.up
        return self

    @property
    def why_down(self) -> str:
        return str([said["why"] for event, said in self.log if event == "mqtt_down"][-1])


def test_connect_says_who_we_are_keeps_the_session_and_leaves_a_will():
    bench = Bench()
    bench.step()
    sent = bench.step()
    assert sent[0] == 0x10
    assert sent[2:9] == b"\x00\x04MQTT\x04"
    assert sent[9] == 0x80 | 0x40 | 0x20 | 0x08 | 0x04, "no clean session; retained will, QoS 1"
    assert sent[10:12] == b"\x00\x3c"
    assert sent[12:].split(b"\x00\x02id")[1] == (
        b"\x00\x0awill/topic\x00\x05false\x00\x04user\x00\x04word"
    )


def test_up_it_subscribes_at_qos_1():
    bench = Bench()
    bench.step()
    bench.step()
    sent = bench.step(incoming=CONNACK)
    assert sent == b"\x82\x18\x00\x01\x00\x0ba/command/+\x01\x00\x05a/ack\x01"


@pytest.mark.parametrize(("code", "why"), [(5, "not authorised"), (4, "password"), (9, "9")])
def test_a_refusal_is_named_and_tried_again_later(code: int, why: str):
    bench = Bench()
    bench.step()
    bench.step(incoming=bytes([0x20, 2, 0, code]))
    assert why in bench.why_down
    assert bench.wire.closed == 1
    bench.connect()


@pytest.mark.parametrize(
    ("prepare", "wait_ms", "why"),
    [
        (lambda bench: setattr(bench.wire, "connects", False), CONNECT_WITHIN_MS, "CONNACK"),
        (lambda bench: None, CONNECT_WITHIN_MS, "CONNACK"),
    ],
)
def test_a_connection_that_does_not_come_up_ends(
    prepare: Callable[[Bench], None], wait_ms: int, why: str
):
    bench = Bench()
    prepare(bench)
    bench.step()
    bench.step(wait_ms - 1)
    assert bench.wire.closed == 0
    bench.step(1)
    assert bench.wire.closed == 1
    assert why in bench.why_down


def test_a_suback_that_does_not_come_ends_the_connection():
    bench = Bench()
    bench.step()
    bench.step(incoming=CONNACK)
    bench.step(ANSWER_WITHIN_MS)
    assert "SUBACK" in bench.why_down


def test_a_ping_that_is_not_answered_ends_the_connection():
    bench = Bench().connect()
    assert bench.step(29_999) == b""
    assert bench.step(2) == packets.PINGREQ
    bench.step(1_000, incoming=b"\xd0\x00")
    assert bench.step(30_000) == packets.PINGREQ
    bench.step(ANSWER_WITHIN_MS)
    assert "PINGRESP" in bench.why_down


def test_a_puback_that_does_not_come_ends_the_connection():
    bench = Bench().connect()
    assert bench.client.publish("t", b"x", 7, False)
    bench.step(ANSWER_WITHIN_MS - 1)
    assert bench.client.up
    bench.step(1)
    assert "PUBACK" in bench.why_down


def test_pubacks_that_come_one_by_one_keep_it_alive():
    bench = Bench().connect()
    for packet_id in range(1, 6):
        assert bench.client.publish("t", b"x", packet_id, False)
    for packet_id in range(1, 6):
        bench.step(ANSWER_WITHIN_MS - 1_000, incoming=b"\x40\x02\x00%c\xd0\x00" % packet_id)
    assert bench.client.up
    assert not bench.client.unconfirmed


def test_a_peer_that_reads_nothing_ends_the_connection():
    bench = Bench().connect()
    bench.wire.takes = False
    bench.client.say("t", b"x")
    bench.step(WRITE_WITHIN_MS)
    assert "could be sent" in bench.why_down


def test_what_the_way_has_no_room_for_is_not_taken():
    bench = Bench().connect()
    bench.wire.takes = False
    taken = sum(bench.client.publish("t", bytes(500), n, False) for n in range(1, 50))
    assert taken == 3


def test_what_was_said_is_said_again_with_dup_until_the_broker_has_it():
    bench = Bench().connect()
    bench.client.say("t", b"x")
    first = bench.step()
    own_id = FIRST_OWN_ID.to_bytes(2, "big")
    assert first == b"\x32\x06\x00\x01t" + own_id + b"x"
    bench.step(incoming=b"\xf0\x00")  # the broker breaks the protocol
    assert not bench.client.up
    for _ in range(100):
        bench.step(1_000)
        if bench.wire.opened == 2:
            break
    bench.step()
    again = bench.step(incoming=CONNACK)
    assert b"\x3a\x06\x00\x01t" + own_id + b"x" in again, "DUP, and the same packet id"
    bench.step(incoming=b"\x40\x02" + own_id)
    assert bench.client.all_said


def test_what_is_said_without_a_connection_is_bounded_and_counted():
    bench = Bench()
    for n in range(MOST_SAID + 3):
        bench.client.say("t", b"%d" % n)
    assert bench.client.dropped == 3


def test_packet_ids_wrap_and_are_never_0():
    bench = Bench().connect()
    seen = set()
    for _ in range(2 * (0x10000 - FIRST_OWN_ID)):
        bench.client.say("t", b"x")
        sent = bench.step()
        packet_id = int.from_bytes(sent[5:7], "big")
        seen.add(packet_id)
        bench.step(incoming=b"\x40\x02" + sent[5:7])
    assert min(seen) == FIRST_OWN_ID
    assert max(seen) == 0xFFFF
    assert bench.client.dropped == 0


def test_a_message_is_heard_and_confirmed():
    bench = Bench().connect()
    sent = bench.step(incoming=b"\x32\x08\x00\x03a/b\x12\x34x")
    assert [(one.topic, one.payload, one.retained) for one in bench.heard] == [("a/b", b"x", False)]
    assert sent == b"\x40\x02\x12\x34"


@pytest.mark.parametrize("size", [2_000, INCOMING_BYTES + 1, 70_000])
def test_a_large_message_is_heard_or_refused_and_the_next_one_is_sound(size: int):
    bench = Bench().connect()
    body = b"\x00\x03a/b\x00\x09" + bytes(size - 7)
    sent = bench.step(incoming=length_packed(0x32, body) + b"\x30\x06\x00\x03a/cy")
    assert [one.topic for one in bench.heard] == ["a/b", "a/c"]
    assert bench.heard[0].size == size - 7
    assert (bench.heard[0].payload is None) == (size > INCOMING_BYTES)
    assert bench.heard[1].payload == b"y"
    assert sent == b"\x40\x02\x00\x09", "confirmed, or it would come for ever"
    assert bench.client.refused == (size > INCOMING_BYTES)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x34\x08\x00\x03a/b\x12\x34x",  # QoS 2
        b"\x32\x07\x00\x03a/b\x00\x00",  # packet id 0
        b"\x30\x02\x00\x09",  # the topic is longer than the packet
        b"\x30\x01\x00",
        b"\x30\x04\x00\x02\xff\xfe",  # no UTF-8
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x40\x01\x00",
        b"\x10\x00",
    ],
)
def test_a_broken_packet_ends_the_connection(wrong: bytes):
    bench = Bench().connect()
    bench.step(incoming=wrong)
    assert not bench.client.up
    bench.connect()


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=20))
def test_any_bytes_in_any_pieces_end_in_packets_or_in_bad_packet(data: bytes, cuts: list[int]):
    reader = Reader(100)
    pieces = []
    for cut in [*cuts, 200]:
        pieces.append(data[:cut])
        data = data[cut:]
    for piece in pieces:
        left = bytearray(piece)

        def read_into(view: memoryview, left: bytearray = left) -> int:
            got = min(len(view), len(left))
            view[:got] = left[:got]
            del left[:got]
            return got

        try:
            while packet := reader.step(read_into):
                first, body, length = packet
                assert len(body) <= max(SMALL_BYTES, length)
                if first & 0xF0 == packets.PUBLISH:
                    packets.read_publish(first, body, length)
        except BadPacket:
            return


def test_the_link_going_down_ends_the_connection_and_waits():
    bench = Bench().connect()
    bench.client.step(bench.now_ms, link_up=False)
    assert "link" in bench.why_down
    opened = bench.wire.opened
    for _ in range(100):
        bench.now_ms += 10_000
        bench.client.step(bench.now_ms, link_up=False)
    assert bench.wire.opened == opened


def test_a_stream_that_cannot_be_opened_is_tried_again():
    bench = Bench()
    real = bench.client._open_stream
    failures = [3]

    def sometimes() -> Wire:
        if failures[0]:
            failures[0] -= 1
            raise Broken("no way")
        return real()

    bench.client._open_stream = sometimes
    bench.connect()
    assert [said["why"] for event, said in bench.log if event == "mqtt_down"] == ["no way"] * 3


def test_the_back_off_doubles_has_full_jitter_and_a_bound():
    bounds: list[int] = []

    def last(bound: int) -> int:
        bounds.append(bound)
        return bound - 1

    backoff = Backoff(last, base_ms=1_000, most_ms=60_000)
    for _ in range(9):
        backoff.next_ms()
    assert bounds == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    backoff.reset()
    assert backoff.next_ms() == 999


def length_packed(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (0x80 if length else 0))
        if not length:
            return bytes(head) + body
