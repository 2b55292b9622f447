"""Puts what was asked over HTTP into the raw log, as the uplink does with what came over MQTT."""

from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ingest.decoders.topic_table import address_of
from ingest.raw_record import RisingClock
from schemas.topics import PARTITIONER, RAW, RawHeader

SHARD = "poll"
LOOK_S = 2.0
_QUEUE_KBYTES = 32 * 1024


class RawWriter:
    """`trouble` says what Kafka complained of last, until it takes a record again or, where there
    is none to take, answers `look`.
    """

    def __init__(self, bootstrap: str) -> None:
        self.trouble: str | None = None
        self.is_away = False
        self.dropped = 0
        self.written = 0
        self._clock = RisingClock()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "meterstream-poller",
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": PARTITIONER,
                "queue.buffering.max.kbytes": _QUEUE_KBYTES,
                "error_cb": self._complained,
                "log_level": 0,
            }
        )

    def write(self, topic: str, payload: bytes) -> None:
        """Queue one record. While Kafka is away and the queue is full, it is dropped and counted:
        a later answer has the register too.
        """
        headers = [
            (RawHeader.TOPIC, topic.encode()),
            (RawHeader.RECEIVED_AT, str(self._clock.take(1)).encode()),
            (RawHeader.SOURCE, b"poll"),
            (RawHeader.SHARD, SHARD.encode()),
        ]
        key = address_of(topic, payload).encode()
        try:
            self._producer.produce(RAW.name, payload, key, on_delivery=self._told, headers=headers)
        except BufferError:
            self.dropped += 1
        except KafkaException as error:
            self.dropped += 1
            self.trouble = str(error)

    def tend(self) -> None:
        """Take delivery reports; never waits."""
        self._producer.poll(0)

    def look(self) -> None:
        """Ask Kafka whether it is back, for LOOK_S at most: a producer that has nothing to write
        is not told.
        """
        with suppress(KafkaException):
            self._producer.list_topics(RAW.name, LOOK_S)
            self.is_away, self.trouble = False, None

    def close(self, timeout_s: float) -> None:
        self._producer.flush(timeout_s)

    def _told(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.written += 1
            self.is_away, self.trouble = False, None
        else:
            self.dropped += 1
            self.trouble = error.str()

    def _complained(self, error: KafkaError) -> None:
        self.is_away, self.trouble = True, error.str()
