"""MQTT 3.1.1 packets, made and taken apart, with a bound on every length. Pure."""

from micropython import const

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xD0
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

_REFUSED = {
    1: "protocol version",
    2: "client id",
    3: "server unavailable",
    4: "user name or password",
    5: "not authorised",
}


class BadPacket(Exception):
    """The broker, or whoever is there, broke the protocol; the text says how."""


def connect(client_id, user, password, keepalive_s, will_topic, will):
    """Keeps the session (what was queued for us comes), with a retained last will of QoS 1."""
    flags = 0x04 | 0x08 | 0x20
    parts = [_text(client_id), _text(will_topic), _text(will)]
    if user is not None:
        flags |= 0x80
        parts.append(_text(user))
    if password is not None:
        flags |= 0x40
        parts.append(_text(password))
    head = b"\x00\x04MQTT\x04" + bytes((flags, keepalive_s >> 8, keepalive_s & 0xFF))
    return _packet(0x10, head + b"".join(parts))


def refuse_connack(body):
    """Raises BadPacket unless the broker takes us."""
    if len(body) != 2:
        raise BadPacket("CONNACK of %d bytes" % len(body))
    if body[1]:
        raise BadPacket("refused: %s" % _REFUSED.get(body[1], body[1]))


def publish(topic, payload, packet_id, again=False, retain=False):
    """QoS 1; `again` sets DUP. Packet id 0 makes it QoS 0."""
    head = _text(topic)
    if packet_id == 0:
        return _packet(0x30 | retain, head + payload)
    first = 0x32 | (0x08 if again else 0) | (0x01 if retain else 0)
    return _packet(first, head + _number(packet_id) + payload)


def subscribe(topics, packet_id):
    """QoS 1 for all of them."""
    return _packet(
        0x82, _number(packet_id) + b"".join([_text(topic) + b"\x01" for topic in topics])
    )


def puback(packet_id):
    return b"\x40\x02" + _number(packet_id)


def packet_id_of(body):
    if len(body) < 2:
        raise BadPacket("no packet id")
    return body[0] << 8 | body[1]


SMALL_BYTES = 2560  # an update of 80 KB; more is there only while the heap is not cut up


_COPIED_BYTES = const(512)


class Publish:
    """`payload` is None where the packet was larger than the reader holds; `size` tells.

    A large one is a view that the next packet writes over: there is no memory for two of them.
    """

    def __init__(self, topic, payload, packet_id, retained, size):
        self.topic = topic
        self.payload = payload
        self.packet_id = packet_id  # 0: no answer is due
        self.retained = retained
        self.size = size


def read_publish(first, body, length):
    """Take a PUBLISH apart. Of an oversized one `body` is only the begin of its `length`."""
    qos = first >> 1 & 3
    if qos > 1:
        raise BadPacket("QoS %d was not asked for" % qos)
    end = 2 + packet_id_of(body)
    behind = end + 2 * qos
    if behind > length:
        raise BadPacket("a topic longer than its packet")
    if behind > len(body):
        raise BadPacket("a topic of %d bytes" % (end - 2))
    packet_id = 0
    if qos:
        packet_id = body[end] << 8 | body[end + 1]
        if packet_id == 0:
            raise BadPacket("packet id 0")
    try:
        topic = bytes(body[2:end]).decode()
    except UnicodeError:
        raise BadPacket("a topic that is not UTF-8")
    payload = None
    if len(body) == length:
        payload = body[behind:]
        if length <= _COPIED_BYTES:
            payload = bytes(payload)
    return Publish(
        topic,
        payload,
        packet_id,
        bool(first & 1),
        length - behind,
    )


class Reader:
    """Gathers one packet after the other out of a stream, in a buffer that stays.

    A packet above SMALL_BYTES, up to `most_bytes`, gets memory of its own while there is some.
    Of a larger one the begin is kept and the rest thrown away as it comes.
    """

    def __init__(self, most_bytes):
        self._most_bytes = most_bytes
        self._small = memoryview(bytearray(SMALL_BYTES))
        self._waste = memoryview(bytearray(64))
        self.begin()

    def begin(self):
        """Forget half a packet: there is a new connection."""
        self._first = None
        self._length = None
        self._shift = 0
        self._sum = 0
        self._got = 0
        self._view = self._small

    def step(self, read_into):
        """The next packet as (first byte, body, length); None while it is not whole.

        The body is a view that the next step writes over.

        `read_into(view)` fills what it can and returns how much, 0 for nothing now. Raises
        BadPacket for a length of more than four bytes.
        """
        while self._length is None:
            if not read_into(self._waste[:1]):
                return None
            byte = self._waste[0]
            if self._first is None:
                self._first = byte
                continue
            self._sum |= (byte & 0x7F) << self._shift
            self._shift += 7
            if not byte & 0x80:
                self._length = self._sum
                if SMALL_BYTES < self._length <= self._most_bytes:
                    self._make_room()
            elif self._shift == 28:
                raise BadPacket("a length without end")
        view, length = self._view, self._length
        while self._got < length:
            if self._got < len(view):
                got = read_into(view[self._got : min(length, len(view))])
            else:
                got = read_into(self._waste[: min(64, length - self._got)])
            if not got:
                return None
            self._got += got
        first = self._first
        self.begin()
        return first, view[: min(length, len(view))], length

    def _make_room(self):
        try:
            self._view = memoryview(bytearray(self._length))
        except MemoryError:
            pass


def _text(text):
    data = text.encode() if isinstance(text, str) else text
    return _number(len(data)) + data


def _number(number):
    return bytes((number >> 8 & 0xFF, number & 0xFF))


def _packet(first, body):
    length = len(body)
    head = bytearray((first,))
    while True:
        length, low = length >> 7, length & 0x7F
        head.append(low | 0x80 if length else low)
        if not length:
            return bytes(head) + body
