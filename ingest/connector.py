"""The uplink: copies every MQTT message, byte for byte, to `energy.raw.v1`, and then says so.

One thread does it all. It reads a batch from the broker, hands it to librdkafka, and serves
librdkafka's delivery reports; a PUBACK leaves when Kafka has the message, an end-to-end
acknowledgement when Kafka has the node's messages without a gap. Whatever is not acknowledged comes
again, so every doubt ends in the same way: leave unacknowledged, and if need be exit with 70.
"""

import time
from collections import deque
from functools import partial

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from structlog.typing import FilteringBoundLogger

from ingest.ack_gate import AckGate, Batch
from ingest.batch_client import MAX_CACHED_LENGTH, pubacks, qos0_publish
from ingest.batch_client import Message as BatchMessage
from ingest.broker_link import DROPPED_COUNTER, BrokerLink
from ingest.dead_letters import DLQ_MAX_BYTES, DeadLetter, DeadLetters
from ingest.decoders.topic_table import address_of
from ingest.end_to_end import EndToEnd, position_of
from ingest.metrics import Metrics
from ingest.mqtt_account import MqttAccount
from ingest.raw_record import (
    DUP,
    PACKET_ID,
    RECEIVED_AT,
    RETAINED,
    SOURCE,
    UNDOUBTED_BYTES,
    Header,
    RisingClock,
    Route,
    headers_of,
    record_bytes,
    topic_tells_address,
)
from ingest.settings import UplinkSettings
from ingest.ticks import Ticks
from schemas.connections import KafkaConnection, MqttConnection
from schemas.homesync import Position
from schemas.topics import PARTITIONER, RAW, RAW_DLQ, RAW_MAX_BYTES, RawHeader

EXIT_FATAL = 70  # Kafka will not take our messages on this producer any more: start again

LINGER_MS = 10  # librdkafka makes a request a partition: a short linger is many small requests
GATHER_S = 0.005  # the socket gathers the next batch: each message by itself takes a third more
OUTAGE_S, OUTAGE_GATHER_S = 1.5, 0.02  # ticks are confirmed each second, or Kafka is away
IDLE_S = 0.1
HOUSEKEEPING_S = 0.2
KAFKA_SILENT_S = 60.0
DRAIN_S = 8.0  # of the 10 s between SIGTERM and SIGKILL

MAX_ROUTES = 100_000

# Kafka's word that this one message will never be taken. Anything else is not the message's fault.
REFUSED_FOR_GOOD = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)

# Kafka cannot read it. It may have been damaged on the way, so it is sent once more.
REFUSED_AS_DAMAGED = frozenset({KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD})

TOO_LARGE = f"the record would have more than the {RAW_MAX_BYTES} bytes that {RAW.name} takes"


def producer_config(settings: UplinkSettings, kafka: KafkaConnection) -> dict[str, object]:
    return {
        "bootstrap.servers": kafka.bootstrap,
        "client.id": settings.client_id,
        "enable.idempotence": True,  # acks=all, in order
        "message.timeout.ms": 0,  # never gives up
        "linger.ms": LINGER_MS,
        "socket.timeout.ms": 15_000,  # a request without an answer is one to a dead peer
        "compression.type": "lz4",
        "partitioner": PARTITIONER,
        "message.max.bytes": DLQ_MAX_BYTES,
        "queue.buffering.max.messages": max(100_000, 2 * settings.receive_maximum),
        "queue.buffering.max.kbytes": settings.queue_kbytes,
        "reconnect.backoff.max.ms": 2000,
        "log.connection.close": False,
    }


class Work(Batch):
    """A batch on its way through Kafka."""

    __slots__ = ("at", "damaged", "dropped", "messages", "next", "positions")

    def __init__(self, messages: list[BatchMessage], at: int) -> None:
        super().__init__([message[2] for message in messages if message[2]], len(messages))
        self.messages = messages
        self.at = at  # received_at of the first message; of the next it is 1 µs later
        self.next = 0  # index of the first message that Kafka's queue has not taken yet
        self.dropped = 0  # messages that are not meant for Kafka
        self.positions: list[tuple[str, Position]] = []
        self.damaged: set[int] = set()  # indices of messages that arrived at Kafka damaged, once


class Connector:
    def __init__(
        self,
        settings: UplinkSettings,
        mqtt: MqttConnection,
        kafka: KafkaConnection,
        metrics: Metrics,
        log: FilteringBoundLogger,
        account: MqttAccount | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._stopping = False
        self._fatal: str | None = None

        self._producer = Producer(
            {**producer_config(settings, kafka), "error_cb": self._on_kafka_error}
        )
        self._partitions = 0  # 0: Kafka has not told yet
        self._routes: dict[str | tuple[str, str], Route] = {}
        self._clock = RisingClock()
        self._gate = AckGate()
        self._end_to_end = EndToEnd()
        self._work: deque[Work] = deque()  # what Kafka's queue has not taken wholly, in order
        self._dead_letters = DeadLetters(self._producer, settings.client_id)
        self._shard: Header = (RawHeader.SHARD, str(settings.shard))
        self._delivered_at = float("-inf")
        self._kafka_trouble = "no message delivered yet"

        self._ticks = self._ticks_for(0)
        self._housekeeping_due = 0.0
        self._link = BrokerLink(
            settings, mqtt, account, metrics, log,
            received=self._received, changed=self._gate.new_connection,
        )  # fmt: skip
        self._client = self._link.client

    # ---- from outside: signal handler, health ----

    def stop(self) -> None:
        """Finish: what is in flight is delivered and acknowledged, then `run` returns 0."""
        self._stopping = self._link.leaving = True

    def troubles(self) -> list[str]:
        """Why this connector is not healthy; empty when it is."""
        found = []
        if not self._link.subscribed:
            found.append(f"MQTT: {self._link.trouble}")
        silent_s = time.monotonic() - self._delivered_at
        if silent_s > KAFKA_SILENT_S:
            found.append(f"Kafka confirmed nothing for 60 s: {self._kafka_trouble}")
        return found

    # ---- the loop ----

    def run(self) -> int:
        """Until `stop`: 0; when Kafka refuses us for good: 70."""
        while not self._partitions and not self._over():
            self._look_at_kafka()
        while not self._over():
            self._step()
        if self._fatal:
            self._log.error("fatal", reason=self._fatal, exit=EXIT_FATAL)
            return EXIT_FATAL
        self._drain()
        return EXIT_FATAL if self._fatal else 0

    def _over(self) -> bool:
        return self._stopping or self._fatal is not None

    def _step(self) -> None:
        if len(self._producer):
            away = time.monotonic() - self._delivered_at > OUTAGE_S
            if away:
                self._producer.poll(OUTAGE_GATHER_S)
            else:  # poll() would come back with the first report
                time.sleep(GATHER_S)
                self._producer.poll(0)
            timeout_s = 0.0
        else:
            timeout_s = IDLE_S
        self._feed()
        now = time.monotonic()
        if self._ticks.is_due(now):
            self._tick(now)
        if now >= self._housekeeping_due:
            self._housekeep(now)
        self._acknowledge()
        self._link.talk(timeout_s)

    def _housekeep(self, now: float) -> None:
        self._housekeeping_due = now + HOUSEKEEPING_S
        self._link.tend(now)
        if self._link.subscribed:
            self._send_end_to_end(now)
        metrics = self._metrics
        metrics.connected.set(self._link.subscribed)
        metrics.in_flight.set(self._gate.waiting)
        metrics.queue.set(len(self._producer))
        metrics.e2e_pending.set(self._end_to_end.pending)

    def _drain(self) -> None:
        """Read nothing more; let Kafka have what we hold, acknowledge it, and leave politely."""
        self._client.discarding = True
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and not self._fatal:
            self._producer.poll(0.02)
            self._feed()
            self._acknowledge()
            self._link.talk(0.0)
            if not self._work and not len(self._producer):
                break
        left = len(self._producer) + sum(len(w.messages) - w.next for w in self._work)
        if self._link.subscribed:
            self._send_end_to_end(float("inf"))
        self._link.disconnect(until=deadline + 1)
        self._log.info("stopped", left_to_the_broker=left)
        if left:
            self._producer.purge()
            self._producer.poll(0)

    # ---- acknowledgements ----

    def _acknowledge(self) -> None:
        """PUBACKs of all that Kafka has, in one write."""
        packet_ids = self._gate.release()
        if packet_ids:
            self._client.send_packets(pubacks(packet_ids))
            self._metrics.acked.inc(len(packet_ids))

    def _send_end_to_end(self, now: float) -> None:
        if self._client.want_write():  # the broker is slow to read: these can wait
            return
        acks = self._end_to_end.due(now)
        if acks:
            encode = msgspec.json.encode
            at_us = time.time_ns() // 1000
            for _, ack in acks:
                ack.at_us = at_us
            self._client.send_packets(
                b"".join(qos0_publish(f"{node}/ack", encode(ack)) for node, ack in acks)
            )
            self._metrics.e2e_acks.inc(len(acks))

    # ---- messages ----

    def _route(self, topic: str, payload: bytes) -> Route:
        """The route of a topic seen for the first time, or whose address stands in the payload."""
        address = address_of(topic, payload)
        key: str | tuple[str, str] = topic if topic_tells_address(topic) else (topic, address)
        route = self._routes.get(key)
        if route is None:
            route = Route(topic, address, self._partitions)
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            if len(topic) <= MAX_CACHED_LENGTH:
                self._routes[key] = route
        return route

    def _received(self, messages: list[BatchMessage]) -> None:
        """A batch from the reader, in order."""
        count = len(messages)
        work = Work(messages, self._clock.take(count))
        self._gate.received(work)
        metrics = self._metrics
        metrics.received.inc(count)
        metrics.received_bytes.inc(sum([len(message[1]) for message in messages]))
        redelivered = len([None for message in messages if message[3]])
        if redelivered:
            metrics.redelivered.inc(redelivered)
        self._work.append(work)
        self._feed()

    def _feed(self) -> None:
        """Hand waiting batches to Kafka's queue; while it is full, read nothing."""
        work, dead_letters = self._work, self._dead_letters
        try:
            dead_letters.feed()
        except KafkaException as error:
            self._fatal = str(error)
        while work and self._produce(work[0]):
            work.popleft()
        full = bool(work or dead_letters)
        if full and not self._client.paused:
            self._metrics.pauses.inc()
            self._log.warning("reading_paused", queue=len(self._producer))
        self._client.paused = full

    def _produce(self, work: Work) -> bool:
        """Copy the batch from `work.next` on. False: the queue is full."""
        produce, report = self._producer.produce, partial(self._reported, work)
        routes, shard, at, topic_name = self._routes, self._shard, work.at, RAW.name
        undoubted = UNDOUBTED_BYTES
        messages, index = work.messages, work.next
        dropped = 0
        headers: list[Header]
        try:
            for index in range(work.next, len(messages)):
                topic, payload, packet_id, dup, retain = messages[index]
                route = routes.get(topic)
                if route is None:
                    if topic == DROPPED_COUNTER:
                        self._link.broker_says_dropped(payload)
                        dropped += 1
                        continue
                    route = self._route(topic, payload)
                received_at = (RECEIVED_AT, str(at + index))
                if packet_id:
                    mid = (DUP if dup else PACKET_ID, str(packet_id))
                    headers = [route.header, received_at, SOURCE, shard, mid]
                else:
                    headers = [route.header, received_at, SOURCE, shard]
                if retain:
                    if not route.takes_retained:
                        self._metrics.retained_dropped.inc()
                        dropped += 1
                        continue
                    headers.append(RETAINED)
                if route.node is not None:
                    position = position_of(payload)
                    if position is not None:
                        work.positions.append((route.node, position))
                if len(payload) > undoubted and record_bytes(payload, route) > RAW_MAX_BYTES:
                    self._dead(work, index, "too_large", TOO_LARGE)
                    continue
                produce(topic_name, payload, route.key, route.partition, report, None, 0, headers)
            index = len(messages)
        except BufferError:
            pass
        except KafkaException as error:
            self._fatal = f"Kafka refuses a message of {len(messages[index][1])} bytes: {error}"
        work.next = index
        if dropped:
            work.dropped += dropped
            self._settle(work, dropped)
        return index == len(messages)

    def _settle(self, work: Work, count: int) -> None:
        work.open -= count
        if not work.open:
            self._delivered(work)

    def _reported(self, work: Work, error: KafkaError | None, message: Message) -> None:
        """Delivery report of one message of a batch. Runs inside `poll`: never raises."""
        if error is None:
            work.open -= 1
            if not work.open:
                self._delivered(work)
        else:
            self._undelivered(work, error, message)

    def _delivered(self, work: Work) -> None:
        """Kafka has the whole batch, but for what was not meant for it."""
        delivered = len(work.messages) - work.dropped
        if delivered:
            self._delivered_at = time.monotonic()
            self._metrics.delivered.inc(delivered)
        if work.positions:
            self._end_to_end.confirm(work.positions)

    def _undelivered(self, work: Work, error: KafkaError, message: Message) -> None:
        if error.code() not in REFUSED_FOR_GOOD:
            self._kafka_refuses(error)
            return
        key, payload = message.key(), message.value()
        for index, (topic, sent, *_) in enumerate(work.messages):
            if sent == payload and address_of(topic, sent).encode() == key:
                if error.code() in REFUSED_AS_DAMAGED and index not in work.damaged:
                    work.damaged.add(index)
                    self._repeat(work, index)
                    return
                self._dead(work, index, "kafka_refused", error.str())
                return
        self._fatal = f"Kafka refused a message that is not ours: {error.str()}"

    def _again(self, work: Work, index: int) -> tuple[bytes, Route, list[Header]]:
        """A message that was routed before, for its second way."""
        message = work.messages[index]
        topic, payload, *_ = message
        route = self._routes.get(topic) or self._route(topic, payload)
        return payload, route, headers_of(message, route, work.at + index, self._shard)

    def _repeat(self, work: Work, index: int) -> None:
        """Send a message once more. Without room for it, the broker has to."""
        payload, route, headers = self._again(work, index)
        self._log.warning("damaged_on_the_way", bytes=len(payload))
        report = partial(self._reported, work)
        try:
            self._producer.produce(
                RAW.name, payload, route.key, route.partition, report, None, 0, headers
            )
        except BufferError:
            self._fatal = "Kafka's queue is full, and a damaged message cannot be sent again"

    def _dead(self, work: Work, index: int, reason: str, detail: str) -> None:
        payload, route, headers = self._again(work, index)
        buried = partial(self._buried, work)
        self._dead_letters.append(DeadLetter(payload, route, headers, reason, detail, buried))

    def _buried(self, work: Work, letter: DeadLetter, error: KafkaError | None) -> None:
        """Delivery report of a dead letter: only now the message may be acknowledged."""
        if error is not None:
            self._kafka_refuses(error)
            return
        self._metrics.refused[letter.reason].inc()
        self._log.error(
            "refused", reason=letter.reason, bytes=len(letter.payload), detail=letter.detail
        )
        self._settle(work, 1)

    # ---- Kafka ----

    def _on_kafka_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._kafka_refuses(error)
        else:
            self._kafka_trouble = error.str()
            self._log.warning("kafka_trouble", error=error.str())

    def _kafka_refuses(self, error: KafkaError) -> None:
        """Exit, unacknowledged; but what we purge at the end of `stop` is no surprise."""
        if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self._fatal = f"Kafka: {error.name()}: {error.str()}"

    def _look_at_kafka(self) -> None:
        """Learn the partitions; until then nothing is read from the broker."""
        try:
            found = self._producer.list_topics(timeout=2).topics
        except KafkaException as error:
            self._kafka_trouble = str(error)
            self._producer.poll(0.5)
            return
        missing = [topic.name for topic in (RAW, RAW_DLQ) if topic.name not in found]
        if missing:
            self._kafka_trouble = f"topics {missing} are missing: run `meterstream up`"
            self._log.error("topics_missing", topics=missing)
            self._producer.poll(1.0)
            return
        self._dead_letters.partitions = len(found[RAW_DLQ.name].partitions)
        self._partitions = len(found[RAW.name].partitions)
        self._ticks = self._ticks_for(self._partitions)
        self._log.info("kafka_found", partitions=self._partitions)

    def _ticks_for(self, partitions: int) -> Ticks:
        return Ticks(self._producer, partitions, self._shard, self._metrics, self._tick_reported)

    def _tick(self, now: float) -> None:
        """Write the time to every partition, after all messages received before it."""
        try:
            self._ticks.write(now, self._clock.take(1), held_back=bool(self._work))
        except KafkaException as error:
            self._fatal = f"Kafka refuses a tick: {error}"

    def _tick_reported(self, error: KafkaError | None) -> None:
        if error is None:
            self._delivered_at = time.monotonic()
        else:
            self._kafka_refuses(error)
