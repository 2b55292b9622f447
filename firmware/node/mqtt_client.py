"""An MQTT 3.1.1 client for a node: QoS 1, a deadline on every wait, memory that does not grow.

Driven by `step(now_ms)`; it never blocks (but see `stream`). A connection on which any wait runs
out is dropped, and the next one comes after a back-off with full jitter. Two kinds of messages:

- those of the outbox are sent with `publish` under a packet id of the caller's, who sends them
  again on a new connection;
- others are given to `say`, which keeps the last few until their PUBACK, over reconnects.
"""

from micropython import const
from node import mqtt_packets as packets
from node.mqtt_packets import BadPacket
from node.stream import Broken

CONNECT_WITHIN_MS = 20_000  # name, TCP, TLS and CONNACK together
ANSWER_WITHIN_MS = 15_000  # SUBACK, PINGRESP, the next PUBACK
WRITE_WITHIN_MS = 15_000  # what waits in the buffer moves
_STEADY_MS = const(30_000)  # a connection that lasted so long resets the back-off
_OUTGOING_BYTES = const(2048)
_CONTROL_BYTES = const(128)  # of them kept free for PUBACKs and pings
INCOMING_BYTES = 10_240  # an update's manifest is the largest that comes
MOST_SAID = 16
_MOST_OPEN = const(200)  # messages of the outbox under way; their packet ids follow each other
FIRST_OWN_ID = 60_001  # below are the caller's packet ids


class _Said:
    """`connection` is the one it was last sent on, 0 for none."""

    def __init__(self, packet_id, topic, payload, retain):
        self.packet_id = packet_id
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self.connection = 0


class Client:
    """`open_stream()` begins a connection; `heard(Publish)` gets what comes.

    `login` is (client id, user, password); `will` (topic, payload), retained at the broker;
    `topics` are subscribed at each connection.
    """

    def __init__(self, open_stream, login, will, topics, heard, backoff, log, keepalive_s=60):
        self._open_stream = open_stream
        self._login = login
        self._will = will
        self._topics = topics
        self._heard = heard
        self._backoff = backoff
        self._log = log
        self._keepalive_s = keepalive_s
        self._reader = packets.Reader(INCOMING_BYTES)
        # A buffer that grew would cut the heap up.
        self._out = memoryview(bytearray(_OUTGOING_BYTES))
        self._out_bytes = 0
        self._said = []  # Said, until their PUBACK
        self._next_id = FIRST_OWN_ID
        self._stream = None
        self._connack = False
        self._now_ms = 0
        self._try_at_ms = 0
        self._clear_waits()
        self.up = False
        self.connections = 0
        self.dropped = 0  # of what was said, for want of room
        self.refused = 0  # packets too large for us
        self._open = bytearray(_MOST_OPEN)  # by packet id: 1 while a PUBACK is due
        self.unconfirmed = 0  # messages of the outbox that wait for a PUBACK

    @property
    def pollable(self):
        """What to wait on for bytes; None without a connection."""
        return None if self._stream is None else self._stream.socket

    @property
    def has_to_write(self):
        return self._out_bytes > 0 or (self._stream is not None and not self._stream.ready)

    # ---- sending ----

    def publish(self, topic, payload, packet_id, again):
        """Send a message of the outbox. False: not now."""
        if not self.up or not self._has_room(topic, payload):
            return False
        if not self.unconfirmed:
            self._puback_from_ms = self._now_ms
        slot = packet_id % _MOST_OPEN
        self.unconfirmed += 1 - self._open[slot]
        self._open[slot] = 1
        self._send(packets.publish(topic, payload, packet_id, again))
        return True

    def say(self, topic, payload, retain=False):
        """Send a message once, and again after a reconnect until the broker has it."""
        if len(self._said) == MOST_SAID:
            self._said.pop(0)
            self.dropped += 1
        packet_id = self._next_id
        self._next_id = packet_id + 1 if packet_id < 0xFFFF else FIRST_OWN_ID
        self._said.append(_Said(packet_id, topic, payload, retain))
        self._send_said()

    def announce(self, topic, payload):
        """Say once, retained, for as long as this connection lasts; the last will takes it back."""
        if self.up:
            self._send(packets.publish(topic, payload, 0, retain=True))

    @property
    def all_said(self):
        return not self._said and not self._out_bytes

    def _send_said(self):
        for one in self._said:
            if one.connection != self.connections and self._has_room(one.topic, one.payload):
                again = one.connection > 0
                one.connection = self.connections
                self._send(
                    packets.publish(one.topic, one.payload, one.packet_id, again, one.retain)
                )

    def _has_room(self, topic, payload):
        size = self._out_bytes + len(topic) + len(payload) + _CONTROL_BYTES
        return self.up and size <= _OUTGOING_BYTES

    def _send(self, packet):
        end = self._out_bytes + len(packet)
        if end > _OUTGOING_BYTES:
            raise Broken("what is sent is not taken")
        if not self._out_bytes:
            self._write_from_ms = self._now_ms
        self._out[self._out_bytes : end] = packet
        self._out_bytes = end
        self._sent_at_ms = self._now_ms

    # ---- driving ----

    def step(self, now_ms, link_up=True):
        """Do what can be done now."""
        self._now_ms = now_ms
        try:
            if self._stream is None:
                if link_up and now_ms >= self._try_at_ms:
                    self._begin(now_ms)
            elif not link_up:
                raise Broken("the link is down")
            elif self._stream.connecting():
                self._read(now_ms)
                self._keep_alive(now_ms)
                self._send_said()
                self._write(now_ms)
            if self._stream is not None:
                self._refuse_late(now_ms)
        except (Broken, BadPacket) as error:
            self._drop(now_ms, str(error))

    def close(self, now_ms):
        """Leave without a last will."""
        if self.up:
            try:
                self._send(packets.DISCONNECT)
                self._write(now_ms)
            except Broken:
                pass
        self._drop(now_ms, None)

    def _begin(self, now_ms):
        self._clear_waits()
        self._connect_until_ms = now_ms + CONNECT_WITHIN_MS
        self._reader.begin()
        self._stream = self._open_stream()
        client_id, user, password = self._login
        self._out_bytes = 0
        self._send(packets.connect(client_id, user, password, self._keepalive_s, *self._will))

    def _drop(self, now_ms, why):
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self.up and now_ms - self._up_from_ms >= _STEADY_MS:
            self._backoff.reset()
        wait_ms = self._backoff.next_ms()
        self._try_at_ms = now_ms + wait_ms
        self._out_bytes = 0
        self.unconfirmed = 0
        for slot in range(_MOST_OPEN):
            self._open[slot] = 0
        self.up = False
        if why is not None:
            self._log("mqtt_down", why=why, again_in_ms=wait_ms)

    def _clear_waits(self):
        self._connack = False
        self._up_from_ms = self._connect_until_ms = 0
        self._sent_at_ms = self._write_from_ms = self._puback_from_ms = 0
        self._answer_until_ms = None  # SUBACK or PINGRESP

    def _write(self, now_ms):
        while self._out_bytes:
            taken = self._stream.write(self._out[: self._out_bytes])
            if not taken:
                return
            self._write_from_ms = now_ms
            left = self._out_bytes - taken
            if left:
                self._out[:left] = self._out[taken : self._out_bytes]
            self._out_bytes = left

    def _keep_alive(self, now_ms):
        if (
            self.up
            and self._answer_until_ms is None
            and now_ms - self._sent_at_ms >= self._keepalive_s * 500
        ):
            self._send(packets.PINGREQ)
            self._answer_until_ms = now_ms + ANSWER_WITHIN_MS

    def _refuse_late(self, now_ms):
        if not self.up:
            if now_ms >= self._connect_until_ms:
                raise Broken("no CONNACK within %d ms" % CONNECT_WITHIN_MS)
            return
        if self._answer_until_ms is not None and now_ms >= self._answer_until_ms:
            raise Broken("no SUBACK or PINGRESP within %d ms" % ANSWER_WITHIN_MS)
        if self.unconfirmed and now_ms - self._puback_from_ms >= ANSWER_WITHIN_MS:
            raise Broken("no PUBACK within %d ms" % ANSWER_WITHIN_MS)
        if self._out_bytes and now_ms - self._write_from_ms >= WRITE_WITHIN_MS:
            raise Broken("nothing could be sent for %d ms" % WRITE_WITHIN_MS)

    # ---- receiving ----

    def _read(self, now_ms):
        while self._stream is not None:
            packet = self._reader.step(self._stream.read_into)
            if packet is None:
                return
            self._take(packet, now_ms)

    def _take(self, packet, now_ms):
        first, body, length = packet
        kind = first & 0xF0
        if not self._connack:
            if kind != packets.CONNACK:
                raise BadPacket("0x%02x before CONNACK" % first)
            packets.refuse_connack(body)
            self._come_up(now_ms)
        elif kind == packets.PUBLISH:
            self._take_publish(packets.read_publish(first, body, length))
        elif kind == packets.PUBACK:
            self._take_puback(packets.packet_id_of(body))
        elif kind == packets.SUBACK:
            self._answer_until_ms = None
            for granted in body[2:]:
                if granted == 0x80:
                    self._log("subscription_refused")
        elif kind == packets.PINGRESP:
            self._answer_until_ms = None
        else:
            raise BadPacket("0x%02x is nothing a broker sends" % first)

    def _come_up(self, now_ms):
        self._connack = True
        self.up = True
        self.connections += 1
        self._up_from_ms = now_ms
        self._log("mqtt_up")
        if self._topics:
            self._send(packets.subscribe(self._topics, 1))
            self._answer_until_ms = now_ms + ANSWER_WITHIN_MS

    def _take_publish(self, said):
        if said.payload is None:
            self.refused += 1
        self._heard(said)
        if said.packet_id and self.up:
            self._send(packets.puback(said.packet_id))

    def _take_puback(self, packet_id):
        if packet_id < FIRST_OWN_ID:
            slot = packet_id % _MOST_OPEN
            self.unconfirmed -= self._open[slot]
            self._open[slot] = 0
            self._puback_from_ms = self._now_ms
            return
        for index, said in enumerate(self._said):
            if said.packet_id == packet_id:
                self._said.pop(index)
                return
