"""One connection of a node: MQTT both ways, read by polling and written to the socket directly."""

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from infra.swarm import wire
from infra.swarm.oddities import Awaited
from schemas.homesync import Ack

if TYPE_CHECKING:
    from infra.swarm.nodes import Node
    from infra.swarm.swarm import Swarm

KEEPALIVE_S = 60
SILENT_S = 5.0
MOST_RECEIVED = 64 * 1024

_decode_ack = msgspec.json.Decoder(Ack).decode
_PUBACK_SUCCESS = b"\x40\x02"
_PUBACK_BYTES = 4
_REFUSED_FROM = 0x80


def packet_id_of(seq: int) -> int:
    """1…65534: the last one belongs to SUBSCRIBE."""
    return seq % (wire.LARGEST_PACKET_ID - 1) + 1


class Link(asyncio.Protocol):
    """It is its node's `link` from CONNACK until it is lost.

    PUBACKs come in the order of PUBLISH. Where seqs are published in their order, two counters
    say which is due; where they are not, `awaited` does.
    """

    __slots__ = (
        "_has_backlog",
        "_node",
        "_rest",
        "_sock",
        "_swarm",
        "awaited",
        "heard_at",
        "next_puback",
        "opened",
        "sent_until",
        "transport",
    )

    def __init__(self, swarm: "Swarm", node: "Node", sock: socket.socket) -> None:
        self._swarm, self._node, self._sock = swarm, node, sock
        self._rest = b""
        self._has_backlog = False
        self.heard_at = time.monotonic()
        self.next_puback = self.sent_until = 0  # seqs
        self.awaited = Awaited() if node.whims is not None else None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_dead(self, now: float) -> bool:
        """Whether the broker owes PUBACKs and has said nothing for `SILENT_S`."""
        if self.awaited is not None:
            owes = bool(self.awaited)
        else:
            owes = self.next_puback < self.sent_until
        return owes and now - self.heard_at > SILENT_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        settings = self._swarm.settings
        client_id = f"{settings.home}-{self._node.name}"
        self.transport.write(wire.connect(client_id, KEEPALIVE_S))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionResetError("closed before CONNACK"))
        self._swarm.lost(self._node, self)

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes; the transport keeps the rest, and its order."""
        if self._has_backlog:
            if self.transport.get_write_buffer_size():
                self.transport.write(data)
                return
            self._has_backlog = False
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.transport.abort()
            return
        if sent < len(data):
            self._has_backlog = True
            self.transport.write(data[sent:])

    def read_by_poll(self) -> None:
        """From now on nothing is received but by `poll`."""
        self.transport.pause_reading()

    def poll(self, now: float) -> None:
        """Take what has come since the last time.

        The event loop would wake up for each PUBACK, at twice the cost of the message it answers.
        """
        try:
            data = self._sock.recv(MOST_RECEIVED)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.heard_at = now
            self.data_received(data)
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.awaited is None and not self._rest and self._are_next_pubacks(data):
            return
        try:
            found, self._rest = wire.packets(self._rest + data if self._rest else data)
            for first, body in found:
                self._packet(first, body)
        except (wire.ProtocolError, IndexError) as error:
            if not self.opened.done():
                self.opened.set_exception(error)
            self.transport.abort()

    def _are_next_pubacks(self, data: bytes) -> bool:
        """Whether this is nothing but PUBACKs, and all as they are due; then they are taken."""
        count, rest = divmod(len(data), _PUBACK_BYTES)
        last = self.next_puback + count - 1
        if (
            rest
            or data[-2] << 8 | data[-1] != packet_id_of(last)
            or data[::4] != b"\x40" * count
            or data[1::4] != b"\x02" * count
        ):
            return False
        self.next_puback = last + 1
        if self._swarm.by_puback:
            self._swarm.heard(self._node, last)
        return True

    def _packet(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == wire.PUBACK:
            self._pubacked(body)
        elif kind == wire.PUBLISH:
            _, packet_id, payload = wire.published(first, body)
            if packet_id is not None:
                self.write(wire.puback(packet_id))
            self._acked(payload)
        elif kind == wire.CONNACK:
            if body[1] != 0:
                raise wire.ProtocolError(f"the broker refused the connection: 0x{body[1]:02x}")
            self.transport.write(wire.subscribe(wire.LARGEST_PACKET_ID, self._node.ack_topic))
        elif kind == wire.SUBACK:
            if body[-1] >= _REFUSED_FROM:
                raise wire.ProtocolError(f"the broker refused {self._node.ack_topic}")
            if not self.opened.done():
                self.opened.set_result(None)

    def _pubacked(self, body: bytes) -> None:
        packet_id = body[0] << 8 | body[1]
        seq: int | None
        if self.awaited is not None:
            seq = self.awaited.confirmed(packet_id)
        else:
            seq = self.next_puback if packet_id == packet_id_of(self.next_puback) else None
            self.next_puback += 1
        if seq is None:
            raise wire.ProtocolError("a PUBACK out of order")
        swarm = self._swarm
        if len(body) > 2 and body[2] >= _REFUSED_FROM:
            swarm.counts.refused_by_broker += 1
        elif swarm.by_puback:
            swarm.heard(self._node, seq if self.awaited is None else self._node.prefix.confirm(seq))

    def _acked(self, payload: bytes) -> None:
        if self._swarm.by_puback:
            return
        try:
            ack = _decode_ack(payload)
        except msgspec.MsgspecError as error:
            raise wire.ProtocolError(f"an acknowledgement that is none: {error}") from error
        if ack.boot == self._node.boot:
            self._swarm.heard(self._node, ack.seq)
