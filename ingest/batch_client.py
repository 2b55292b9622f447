"""A paho client that reads whole socket buffers and hands over batches of messages.

Stock paho spends about 40 µs on each PUBLISH: three reads from the socket, a packet dictionary, a
message object, four locks. Here one loop parses every PUBLISH of a 256 KiB read; all other packets
go to paho's own handler, so that the protocol stays paho's.

It leans on private names of exactly paho-mqtt 2.2.0; `tests/ingest/test_batch_client.py` holds the
contract. Another version is refused at import.
"""

import struct
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import paho.mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import (
    CallbackAPIVersion,
    MQTTErrorCode,
    MQTTProtocolVersion,
    _ConnectionState,
)
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

if TYPE_CHECKING:
    from paho.mqtt.client import _InPacket

PAHO_VERSION = "2.2.0"
if paho.mqtt.__version__ != PAHO_VERSION:
    raise ImportError(
        f"paho-mqtt is {paho.mqtt.__version__}, the batch reader is written for {PAHO_VERSION}; "
        f"compare client.py of both, then move the pin"
    )

READ_BYTES = 256 * 1024
MAX_CACHED_TOPICS = 100_000
MAX_CACHED_LENGTH = 512  # of a topic: longer ones are worked out each time
PUBLISH_QOS0, PUBLISH_QOS1 = 0x30, 0x32
DUP_BIT, RETAIN_BIT = 0x08, 0x01
PUBACK = 0x40
PUBACK_WORD = 0x4002  # PUBACK, two bytes follow: with the packet id that is the whole packet

# topic, payload, packet id (0: QoS 0), dup bit, retain bit; the bits are 0 or not 0
Message = tuple[str, bytes, int, int, int]


class MalformedFrame(Exception):
    """The broker sent bytes that are no MQTT packet; the connection has to be given up."""


def pubacks(packet_ids: Sequence[int]) -> bytes:
    """The PUBACK packets (success) of these packet ids, in this order."""
    words = [PUBACK_WORD] * (2 * len(packet_ids))
    words[1::2] = packet_ids
    return struct.pack(f">{len(words)}H", *words)


def qos0_publish(topic: str, payload: bytes) -> bytes:
    """An MQTT 5 PUBLISH packet: QoS 0, not retained, no properties."""
    name = topic.encode()
    length = 2 + len(name) + 1 + len(payload)
    packet = bytearray((PUBLISH_QOS0,))
    while length > 127:
        packet.append(length & 127 | 128)
        length >>= 7
    packet.append(length)
    return bytes(packet) + struct.pack(">H", len(name)) + name + b"\x00" + payload


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable byte integer at `at`, and the index after it. IndexError: not all there yet."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 21:
            raise MalformedFrame("a length of more than four bytes")


class BatchClient(Client):
    """MQTT 5, manual acknowledgement, driven by the caller: `loop_read`, `loop_write`, `loop_misc`.

    `on_batch` gets the messages of one read, QoS 0 and 1, in order. The caller acknowledges with
    `send_packets(pubacks(…))`, on the connection that brought the message, in order.
    """

    def __init__(
        self,
        client_id: str,
        on_batch: Callable[[list[Message]], None],
        connect_timeout_s: float = 3.0,
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        self._connect_timeout = connect_timeout_s
        self._on_batch = on_batch
        self._carry = bytearray()  # the beginning of a packet whose end was not there yet
        self._wanted = 0  # bytes `_carry` must have before parsing it again is of use
        self._topics: dict[bytes, str] = {}
        self.paused = False  # the caller reads nothing for a while: silence is no sign of death
        self.discarding = False  # read, and forget it: the broker sends it again next time

    def reconnect(self) -> MQTTErrorCode:
        self._carry = bytearray()
        self._wanted = 0
        return super().reconnect()

    def drop_connection(self, reason: MQTTErrorCode) -> None:
        """Close the socket without a word, as paho does for a broken connection."""
        self._loop_rc_handle(reason)

    def send_packets(self, packets: bytes) -> None:
        """Queue complete packets as one entry: it cannot fall inside a half-sent packet.

        Whatever it holds, paho sees a PUBACK, of which it wants nothing once it is written.
        """
        if packets and self._sock is not None:
            self._packet_queue(PUBACK, packets, 0, 1)

    def loop_misc(self) -> MQTTErrorCode:
        if self.paused and self._state == _ConnectionState.MQTT_CS_CONNECTED:
            # Nothing is read, so silence (of PINGRESP too) proves nothing: only send pings.
            self._ping_t = 0
            with self._msgtime_mutex:
                self._last_bytes_received = time.monotonic()
        return super().loop_misc()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._sock_recv(READ_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
        if self.discarding:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._carry:
            self._carry += data
            if len(self._carry) < self._wanted:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            data = bytes(self._carry)
            self._carry = bytearray()
        try:
            return self._parse(data)
        except (MalformedFrame, MQTTException, IndexError):
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)

    def _parse(self, data: bytes) -> MQTTErrorCode:
        """Handle every whole packet of `data`, in order, and keep the rest."""
        batch: list[Message] = []
        add = batch.append
        topics = self._topics
        at, end = 0, len(data)
        wanted = 2
        while end - at >= 2:
            first = data[at]
            body = at + 2
            length = data[at + 1]
            if length > 127:
                if end - at < 5:  # the length itself may be cut; the packet has 130 bytes or more
                    wanted = 5
                    break
                length, body = _varint(data, at + 1)
            stop = body + length
            if stop > end:
                wanted = stop - at
                break
            if first & 0xF0 == 0x30 and first & 0x04 == 0:
                name_end = body + 2 + (data[body] << 8 | data[body + 1])
                if first & 0x02:
                    packet_id = data[name_end] << 8 | data[name_end + 1]
                    payload = name_end + 3 + data[name_end + 2]
                    if data[name_end + 2] > 127:
                        properties, payload = _varint(data, name_end + 2)
                        payload += properties
                    if not packet_id:
                        raise MalformedFrame("QoS 1 with packet id 0")
                else:
                    packet_id = 0
                    payload = name_end + 1 + data[name_end]
                    if data[name_end] > 127:
                        properties, payload = _varint(data, name_end)
                        payload += properties
                if payload > stop:
                    raise MalformedFrame("a PUBLISH shorter than its header")
                name = data[body + 2 : name_end]
                topic = topics.get(name)
                if topic is None:
                    topic = self._topic_of(name)
                add((topic, data[payload:stop], packet_id, first & 0x08, first & 0x01))
            else:
                if batch:
                    self._on_batch(batch)
                    batch = []
                    add = batch.append
                code = self._handle(first, data[body:stop])
                if code or self._sock is None:
                    return self._loop_rc_handle(code) if code else code
            at = stop
        if at < end:
            self._carry = bytearray(memoryview(data)[at:])
            self._wanted = wanted
        if batch:
            self._on_batch(batch)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _topic_of(self, name: bytes) -> str:
        # A broker lets only UTF-8 through; should one not, the message is worth more than its name.
        topic = name.decode("utf-8", "replace")
        if len(self._topics) >= MAX_CACHED_TOPICS:
            self._topics.clear()
        if len(topic) <= MAX_CACHED_LENGTH:
            self._topics[name] = topic
        return topic

    def _handle(self, first: int, body: bytes) -> MQTTErrorCode:
        """Let paho handle a packet: CONNACK, SUBACK, PINGRESP, DISCONNECT, …"""
        self._in_packet = self._packet_of(first, body)
        try:
            return self._packet_handle()
        finally:
            self._in_packet = self._packet_of(0, b"")

    @staticmethod
    def _packet_of(command: int, body: bytes) -> "_InPacket":
        return {
            "command": command,
            "have_remaining": 1 if command else 0,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }


def connect_properties(receive_maximum: int, session_expiry_s: int) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = receive_maximum
    properties.SessionExpiryInterval = session_expiry_s
    return properties
