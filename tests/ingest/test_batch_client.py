"""The batch reader against paho's own reader, and the private names it leans on."""

import inspect
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import client as paho_client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion, _ConnectionState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ingest.batch_client import BatchClient, Message, pubacks, qos0_publish


def frame(first: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | 128 if length else digit)
        if not length:
            return bytes((first, *digits)) + body


def publish_frame(
    topic: str, payload: bytes, packet_id: int, dup: bool, retain: bool, properties: bytes
) -> bytes:
    name = topic.encode()
    first = 0x30 | (0x02 if packet_id else 0) | (0x08 if dup and packet_id else 0) | retain
    mid = struct.pack(">H", packet_id) if packet_id else b""
    return frame(first, struct.pack(">H", len(name)) + name + mid + properties + payload)


def packed_properties(pairs: list[tuple[str, str]]) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    if pairs:
        properties.UserProperty = pairs
    return bytes(properties.pack())


@contextmanager
def connected(client: paho_client.Client) -> Iterator[socket.socket]:
    """The client with a socket pair for a connection; gives the broker's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client._sock = ours
    client._state = _ConnectionState.MQTT_CS_CONNECTED
    try:
        yield theirs
    finally:
        theirs.close()
        client._sock_close()


def messages_of(batches: list[list[Message]]) -> list[tuple[str, bytes, int, bool, bool]]:
    return [
        (topic, payload, packet_id, bool(dup), bool(retain))
        for batch in batches
        for topic, payload, packet_id, dup, retain in batch
    ]


TEXT = st.text("abc/ไฟ ", max_size=50)  # paho refuses NUL here, we do not look
PUBLISHES = st.tuples(
    st.sampled_from(["a", "homesync/h/nodes/n/telemetry/power", "ก/ไฟ", "x" * 300]),
    st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(bytes)),
    st.integers(0, 65_535),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(TEXT, TEXT), max_size=3).map(packed_properties),
)
PINGRESP = b"\xd0\x00"


@given(st.lists(PUBLISHES, max_size=12), st.lists(st.integers(1, 5000)), st.integers(0, 12))
def test_messages_are_those_that_paho_reads_wherever_the_stream_is_cut(publishes, cuts, ping_at):
    frames = [publish_frame(*publish) for publish in publishes]
    frames.insert(min(ping_at, len(frames)), PINGRESP)
    stream = b"".join(frames)

    batches: list[list[Message]] = []
    client = BatchClient("test", batches.append)
    client._ping_t = 1.0
    sizes = iter(cuts)
    with connected(client) as broker:
        rest = stream
        while rest:
            size = next(sizes, 5000)
            broker.sendall(rest[:size])
            rest = rest[size:]
            assert client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
        assert client.socket() is not None
    assert client._ping_t == 0, "paho has seen the PINGRESP"

    read: list[tuple[str, bytes, int, bool, bool]] = []
    stock = paho_client.Client(
        CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
    )
    stock.on_message = lambda _client, _userdata, message: read.append(
        (message.topic, bytes(message.payload), message.mid, message.dup, message.retain)
    )
    with connected(stock) as broker:
        for one in frames:
            broker.sendall(one)
            while len(one) and _readable(stock):
                stock.loop_read()
    assert messages_of(batches) == read


def _readable(client: paho_client.Client) -> bool:
    sock = client.socket()
    if sock is None:
        return False
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(frame(0x32, b"\x00\x05abc"), id="topic longer than the packet"),
        pytest.param(frame(0x32, b"\x00\x01a\x00\x00\x00"), id="packet id 0"),
        pytest.param(frame(0x32, b"\x00\x01a\x00\x01\x09xy"), id="properties beyond the packet"),
        pytest.param(frame(0x30, b""), id="nothing at all"),
        pytest.param(b"\x32\xff\xff\xff\xff\x01", id="a length of five bytes"),
        pytest.param(frame(0xF0, b""), id="AUTH, which we never asked for"),
        pytest.param(frame(0x90, b"\x00"), id="a SUBACK cut short"),
    ],
)
def test_bytes_that_are_no_packet_end_the_connection(stream):
    client = BatchClient("test", lambda batch: None)
    lost = []
    client.on_disconnect = lambda *arguments: lost.append(arguments)
    with connected(client) as broker:
        broker.sendall(stream)
        assert client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS
        assert client.socket() is None
    assert len(lost) == 1


def test_a_message_of_a_megabyte_is_put_together_from_many_reads():
    batches: list[list[Message]] = []
    client = BatchClient("test", batches.append)
    payload = bytes(range(256)) * 4096
    stream = publish_frame("big", payload, 7, False, False, b"\x00")
    with connected(client) as broker:
        for at in range(0, len(stream), 60_000):
            broker.sendall(stream[at : at + 60_000])
            client.loop_read()
    assert messages_of(batches) == [("big", payload, 7, False, False)]


def test_a_half_read_packet_of_the_old_connection_is_forgotten(monkeypatch):
    batches: list[list[Message]] = []
    client = BatchClient("test", batches.append)
    whole = publish_frame("a", b"payload", 1, False, False, b"\x00")
    with connected(client) as broker:
        broker.sendall(whole[:9])
        client.loop_read()
    ours, theirs = socket.socketpair()
    with theirs:
        monkeypatch.setattr(client, "_create_socket", lambda: ours)
        client.connect_async("broker", clean_start=False)
        client.reconnect()
        client._state = _ConnectionState.MQTT_CS_CONNECTED
        theirs.sendall(whole)
        client.loop_read()
        client._sock_close()
    assert messages_of(batches) == [("a", b"payload", 1, False, False)]


def test_pubacks_are_success_packets_in_order():
    assert pubacks([1, 258, 65_535]) == bytes.fromhex("4002 0001 4002 0102 4002 ffff")
    assert pubacks([]) == b""


def test_packets_are_queued_as_one_entry_that_paho_only_writes():
    client = BatchClient("test", lambda batch: None)
    with connected(client) as broker:
        client.send_packets(pubacks([1, 2]) + qos0_publish("t/ack", b"{}"))
        assert broker.recv(100) == bytes.fromhex("4002 0001 4002 0002") + (
            b"\x30\x0a\x00\x05t/ack\x00{}"
        )
    assert not client._out_packet


def test_a_long_message_has_a_long_length():
    packet = qos0_publish("t", bytes(200))
    assert packet[:4] == b"\x30\xcc\x01\x00"  # 204 = 0x4c + 1 * 128
    assert len(packet) == 3 + 204


def test_a_paused_client_pings_and_does_not_take_silence_for_death(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(paho_client, "time_func", lambda: now[0])
    monkeypatch.setattr("ingest.batch_client.time.monotonic", lambda: now[0])
    client = BatchClient("test", lambda batch: None)
    client._keepalive = 30
    with connected(client) as broker:
        client._last_bytes_received = client._last_msg_out = now[0]
        client.paused = True
        for _ in range(20):
            now[0] += 10
            assert client.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS
        assert client.socket() is not None
        assert broker.recv(100).count(b"\xc0\x00") >= 5


def test_a_silent_broker_is_given_up(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(paho_client, "time_func", lambda: now[0])
    client = BatchClient("test", lambda batch: None)
    client._keepalive = 30
    with connected(client):
        client._last_bytes_received = client._last_msg_out = now[0]
        for _ in range(20):
            now[0] += 10
            client.loop_misc()
        assert client.socket() is None


def test_contract_the_private_names_of_paho_are_as_the_reader_needs_them():
    assert paho.mqtt.__version__ == "2.2.0"
    stock: Any = paho_client.Client
    source = inspect.getsource(stock)
    names = (
        "_sock", "_state", "_in_packet", "_out_packet", "_msgtime_mutex", "_last_bytes_received",
        "_last_msg_out", "_ping_t", "_keepalive", "_connect_timeout",
    )  # fmt: skip
    client = stock(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    for name in names:
        assert name in vars(client)
    assert set(client._in_packet) == set(BatchClient._packet_of(0, b""))
    assert client._in_packet == BatchClient._packet_of(0, b"")
    signatures = {
        "_packet_handle": "(self) -> 'MQTTErrorCode'",
        "_loop_rc_handle": "(self, rc: 'MQTTErrorCode') -> 'MQTTErrorCode'",
        "_sock_recv": "(self, bufsize: 'int') -> 'bytes'",
        "_packet_queue": "(self, command: 'int', packet: 'bytes | bytearray', mid: 'int', "
        "qos: 'int', info: 'MQTTMessageInfo | None' = None) -> 'MQTTErrorCode'",
        "loop_read": "(self, max_packets: 'int' = 1) -> 'MQTTErrorCode'",
    }
    for name, signature in signatures.items():
        assert str(inspect.signature(getattr(stock, name))) == signature
    # A packet with another command than PUBLISH or DISCONNECT gets no treatment once it is written.
    assert "packet['command'] & 0xF0) == PUBLISH" in source
    assert "self._out_packet.clear()" in inspect.getsource(stock.reconnect)
