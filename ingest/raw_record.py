"""What a message becomes in `energy.raw.v1`: its key, its partition and its headers."""

import time
from collections.abc import Callable

from ingest.batch_client import Message
from ingest.decoders.topic_table import address_of, takes_retained
from ingest.end_to_end import node_of
from ingest.partitioner import partition_of
from schemas.topics import RAW_MAX_BYTES, RawHeader

Header = tuple[str, str | bytes]
SOURCE: Header = (RawHeader.SOURCE, "mqtt")
RETAINED: Header = (RawHeader.RETAINED, "1")
RECEIVED_AT, PACKET_ID, DUP = RawHeader.RECEIVED_AT, RawHeader.PACKET_ID, RawHeader.DUP

# Beside payload, key and topic a record has small headers and framing.
RECORD_EXTRA_BYTES = 2048
UNDOUBTED_BYTES = RAW_MAX_BYTES - RECORD_EXTRA_BYTES - 2 * 65_535  # fits whatever the topic

_PROBE = b'{"home_id": "-probe-", "device_id": "-probe-"}'


class RisingClock:
    """Microseconds since the epoch, UTC, each greater than the one before."""

    def __init__(self, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now_us = now_us
        self._last = 0

    def take(self, count: int) -> int:
        """The first of `count` instants in a row."""
        first = max(self._now_us(), self._last + 1)
        self._last = first + count - 1
        return first


class Route:
    """Where messages of one MQTT topic and address go."""

    __slots__ = ("header", "key", "node", "partition", "takes_retained")

    def __init__(self, topic: str, address: str, partitions: int) -> None:
        self.header: Header = (RawHeader.TOPIC, topic.encode())
        self.key = address.encode()
        self.partition = partition_of(self.key, partitions)
        self.node = node_of(topic)
        self.takes_retained = takes_retained(topic)


def record_bytes(payload: bytes, route: Route) -> int:
    """No less than the record will have."""
    return len(payload) + len(route.key) + len(route.header[1]) + RECORD_EXTRA_BYTES


def topic_tells_address(topic: str) -> bool:
    """Whether the address is the same for any payload."""
    return address_of(topic, b"") == address_of(topic, _PROBE)


def headers_of(message: Message, route: Route, received_at_us: int, shard: Header) -> list[Header]:
    """Those of one message. `Connector._produce` says the same inline, for its speed."""
    _topic, _payload, packet_id, dup, retain = message
    headers = [route.header, (RECEIVED_AT, str(received_at_us)), SOURCE, shard]
    if packet_id:
        headers.append((DUP if dup else PACKET_ID, str(packet_id)))
    if retain:
        headers.append(RETAINED)
    return headers
