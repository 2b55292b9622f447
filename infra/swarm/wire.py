"""The part of MQTT 5 that a node speaks: packets as bytes, both ways.

Source: OASIS MQTT Version 5.0, chapters 2 and 3. No properties are sent; those received are
passed over.
"""

CONNACK, PUBLISH, PUBACK, SUBACK = 0x20, 0x30, 0x40, 0x90
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
LARGEST_PACKET_ID = 65_535


class ProtocolError(Exception):
    """The broker sent what no MQTT 5 broker sends, or refused."""


def varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | 0x80 if value else digit)
        if not value:
            return bytes(out)


_LENGTHS = [varint(length) for length in range(4096)]
"""Of packets as they are usual: each is written by a look-up."""


def text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def connect(client_id: str, keepalive_s: int) -> bytes:
    """A clean start, as nobody: a swarm has no accounts."""
    head = text("MQTT") + bytes((5, 0x02)) + keepalive_s.to_bytes(2, "big")
    body = head + b"\0" + text(client_id)
    return b"\x10" + varint(len(body)) + body


def subscribe(packet_id: int, topic_filter: str) -> bytes:
    body = packet_id.to_bytes(2, "big") + b"\0" + text(topic_filter) + b"\x01"
    return b"\x82" + varint(len(body)) + body


def publish(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    """A QoS 1 PUBLISH; `topic` is encoded by `text`."""
    length = len(topic) + 3 + len(payload)
    return b"\x32%b%b%c%c\0%b" % (
        _LENGTHS[length] if length < len(_LENGTHS) else varint(length),
        topic,
        packet_id >> 8,
        packet_id & 0xFF,
        payload,
    )


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def packets(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split into (first byte, body) of whole packets, and the rest."""
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= 2:
        length = shift = 0
        body = at + 1
        while True:
            if body >= end:
                return found, data[at:]
            digit = data[body]
            body += 1
            length |= (digit & 0x7F) << shift
            if digit < 0x80:
                break
            shift += 7
            if shift > 21:
                raise ProtocolError("a packet's length has more than four digits")
        if body + length > end:
            return found, data[at:]
        found.append((data[at], data[body : body + length]))
        at = body + length
    return found, data[at:]


def published(first: int, body: bytes) -> tuple[bytes, int | None, bytes]:
    """Topic, packet id (None at QoS 0) and payload of a received PUBLISH."""
    at = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:at]
    packet_id = None
    if first & 0x06:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
    length = shift = 0
    while True:
        digit = body[at]
        at += 1
        length |= (digit & 0x7F) << shift
        if digit < 0x80:
            break
        shift += 7
    return topic, packet_id, body[at + length :]
