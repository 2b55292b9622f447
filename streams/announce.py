"""Derived topics: what a transaction changed, published after it has committed.

At least once: `Announcer.published` tells up to which offset of each partition Kafka has
confirmed everything, and what lies between there and the stored offset is announced again after a
crash. Consumers keep the highest revision of a key.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import psycopg
from confluent_kafka import KafkaError, Message, Producer

from schemas.announcements import DeviceSaid, PackedReadings, RefusedHeaders
from schemas.reading import Reading
from schemas.topics import DEVICE, RAW, RAW_DLQ, READING, USAGE_1M
from schemas.usage import Quality, UsageWindow, Why
from sinks.device_states import states_of
from streams.partition import Device
from streams.records import Refused
from streams.windows import NEVER
from streams.work import Work

_SOURCE = b"/meterstream/streams"


MOST_PACKED = 1000
"""Readings of one record of `energy.reading.v1`: some 300 kB, within Kafka's usual limit."""


Announcement = tuple[str, bytes, bytes, list[tuple[str, bytes]]]
"""Topic, key, value and headers."""


class _Pending:
    """Messages of one transaction that Kafka has not confirmed yet: so many are `left`."""

    __slots__ = ("delivered", "left", "offsets")

    def __init__(self, announcer: "Announcer", offsets: dict[int, int], messages: int) -> None:
        self.offsets, self.left = offsets, messages
        self.delivered = partial(announcer.delivered, self)


class Announcer:
    """Publishes through one idempotent producer; safe to poll from another thread."""

    def __init__(self, bootstrap: str, on_fatal: Any) -> None:
        self._on_fatal = on_fatal
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 100,  # a request a partition: a short linger is many
                "socket.timeout.ms": 15_000,  # a request without an answer is one to a dead peer
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "message.max.bytes": 4 * 1024 * 1024,
                "error_cb": self._on_error,
            }
        )
        self._lock = threading.Lock()
        self._pending: deque[_Pending] = deque()
        self.published: dict[int, int] = {}

    @property
    def unconfirmed(self) -> int:
        with self._lock:
            return sum(pending.left for pending in self._pending)

    def forget(self, parts: Iterable[int]) -> None:
        with self._lock:
            for part in parts:
                self.published.pop(part, None)
                for pending in self._pending:
                    pending.offsets.pop(part, None)

    def announce(
        self, work: Work, windows: Sequence[UsageWindow], said: Sequence[DeviceSaid] = ()
    ) -> None:
        """Publish what `work` changed, with windows and whole device states as they are stored."""
        messages = [
            _as_json(READING.name, str(packed.device_id), packed)
            for packed in announced_readings(work)
        ]
        messages += [_as_json(DEVICE.name, str(state.device_id), state) for state in said]
        messages += [_refused(refused) for refused in work.refused]
        messages += [_window(window) for window in windows]
        pending = _Pending(self, {a.part: a.next_offset for a in work.advances}, len(messages))
        with self._lock:
            self._pending.append(pending)
            self._settle()
        produce, delivered = self._producer.produce, pending.delivered
        for topic, key, value, headers in messages:
            while True:
                try:
                    produce(topic, value, key, headers=headers, on_delivery=delivered)
                    break
                except BufferError:
                    self._producer.poll(0.1)

    def delivered(self, pending: _Pending, error: KafkaError | None, message: Message) -> None:
        """A delivery report of the producer's."""
        if error is not None:
            self._on_fatal(f"Kafka refused a record of {message.topic()}: {error}")
            return
        with self._lock:
            pending.left -= 1
            if pending.left == 0:
                self._settle()

    def poll(self, seconds: float) -> None:
        self._producer.poll(seconds)

    def flush(self, seconds: float) -> None:
        self._producer.flush(seconds)

    def _settle(self) -> None:
        """Move `published` over every transaction, oldest first, whose messages are confirmed."""
        while self._pending and self._pending[0].left == 0:
            self.published.update(self._pending.popleft().offsets)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._on_fatal(f"the producer of derived topics is broken: {error}")


_encode = msgspec.json.Encoder().encode
_JSON = [("ce_source", _SOURCE), ("content-type", b"application/json")]


def _as_json(topic: str, key: str, value: msgspec.Struct) -> Announcement:
    return topic, key.encode(), _encode(value), _JSON


def announced_readings(work: Work) -> Iterator[PackedReadings]:
    """What `energy.reading.v1` is told: a record has the readings of one device and home."""
    for device, told in work.announced():
        for home_id, readings in _by_home(device, told):
            for start in range(0, len(readings), MOST_PACKED):
                some = readings[start : start + MOST_PACKED]
                yield PackedReadings(device.device_id, device.address, some, home_id)


def _by_home(device: Device, told: list[Reading]) -> Iterable[tuple[str | None, list[Reading]]]:
    if len(device.homes) < 2:
        return [(device.home_at(NEVER), told)]
    found: dict[str | None, list[Reading]] = {}
    for reading in told:
        found.setdefault(device.home_at(reading.measured_us), []).append(reading)
    return found.items()


def _window(window: UsageWindow) -> Announcement:
    identity = f"{window.channel_id}/{window.window_start_us}/{window.revision}"
    headers = [("ce_id", identity.encode()), ("ce_type", b"energy.usage.1m.v1"), *_JSON]
    key = window.home_id or window.address
    return USAGE_1M.name, key.encode(), _encode(window), headers


def _refused(refused: Refused) -> Announcement:
    said = RefusedHeaders(
        topic=RAW.name,
        stage="decode",
        class_name="ingest.decoders",
        message=refused.error,
        mqtt_topic=refused.mqtt_topic,
        received_at=str(refused.received_us),
        source=refused.source.name.lower(),
        part=str(refused.part),
        offset=str(refused.offset),
        reason=refused.reason.value,
    )
    headers = [
        (name, text.encode(errors="replace")) for name, text in msgspec.to_builtins(said).items()
    ]
    key = refused.address.encode(errors="replace")
    return RAW_DLQ.name, key, refused.payload, headers


def read_states(conn: psycopg.Connection[Any], work: Work) -> list[DeviceSaid]:
    """The whole stored state of every device that `work` changed a field of."""
    return states_of(conn, sorted({change.device.device_id for change in work.states}))


_WINDOWS = """
SELECT d.device_id, u.channel_id, d.address, c.name, to_us(u.window_start), 60, u.energy_uwh,
       u.export_uwh, u.quality, u.why, u.revision, u.power_min_w, u.power_avg_w, u.power_max_w,
       u.readings, h.home_id
FROM unnest(%s::int[], %s::bigint[]) AS v (channel_id, start_us)
JOIN usage_1m u ON u.channel_id = v.channel_id AND u.window_start = from_us(v.start_us)
JOIN channel c ON c.channel_id = v.channel_id
JOIN device d ON d.device_id = c.device_id
LEFT JOIN device_home h ON h.device_id = d.device_id AND u.window_start >= h.valid_from
                       AND u.window_start < coalesce(h.valid_to, 'infinity')
"""
_UNANNOUNCED = """
SELECT channel_id, to_us(window_start)
FROM announcement, unnest(channel_ids, window_starts) AS v (channel_id, window_start)
WHERE part = %s AND log_offset >= %s
"""


def fresh_windows(work: Work) -> list[UsageWindow]:
    """The windows that a transaction completed: they are revision 1, nothing has to be asked."""
    found = []
    for row in work.minutes:
        device, minute = row.channel.device, row.minute
        n = minute.power_readings
        low, high = minute.power_min_mw, minute.power_max_mw
        found.append(
            UsageWindow(
                device.device_id,
                row.channel.channel_id,
                device.address,
                row.channel.name,
                minute.start_us,
                60,
                minute.energy_uwh,
                minute.export_uwh,
                minute.quality,
                minute.why,
                1,
                None if low is None else low / 1000,
                minute.power_sum_mw / n / 1000 if n else None,
                None if high is None else high / 1000,
                minute.readings,
                device.home_at(minute.start_us),
            )
        )
    return found


def read_windows(
    conn: psycopg.Connection[Any], keys: Sequence[tuple[int, int]]
) -> list[UsageWindow]:
    """Stored windows as they are announced: (channel_id, start_us)."""
    if not keys:
        return []
    columns = [list(column) for column in zip(*keys, strict=True)]
    return [
        UsageWindow(*row[:8], Quality(row[8]), Why(row[9]), *row[10:])  # type: ignore[call-arg]
        for row in conn.execute(_WINDOWS, columns)
    ]


def unannounced(
    conn: psycopg.Connection[Any], part: int, published_offset: int
) -> list[UsageWindow]:
    """Windows that were stored, and whose announcement Kafka may not have."""
    keys = conn.execute(_UNANNOUNCED, [part, published_offset]).fetchall()
    return read_windows(conn, [(channel_id, start_us) for channel_id, start_us in keys])
