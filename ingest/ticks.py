"""The time, written to every partition of the raw log once a second."""

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Message, Producer

from ingest.metrics import Metrics
from ingest.raw_record import Header
from schemas.topics import RAW, RawHeader

TICK_S = 1.0


class Ticks:
    """`reported` is called with the delivery report of each: None, or Kafka's error."""

    def __init__(
        self,
        producer: Producer,
        partitions: int,
        shard: Header,
        metrics: Metrics,
        reported: Callable[[KafkaError | None], None],
    ) -> None:
        self._producer, self._shard, self._metrics = producer, shard, metrics
        self._reported = reported
        self._reports = [partial(self._ticked, at) for at in range(partitions)]
        self._waiting: set[int] = set()
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def write(self, now: float, at: int, *, held_back: bool) -> None:
        """Write `at` where the tick before has arrived; `held_back`: messages from before wait.

        Raises KafkaException.
        """
        late_s = now - self._due
        self._due = now + TICK_S if late_s > TICK_S / 2 else self._due + TICK_S
        headers: list[Header] = [self._shard, (RawHeader.TICK, str(at))]
        skipped = 0
        for partition, report in enumerate(self._reports):
            if partition in self._waiting or held_back:
                skipped += 1
                continue
            try:
                self._producer.produce(RAW.name, None, None, partition, report, None, 0, headers)
            except BufferError:
                skipped += 1
                continue
            self._waiting.add(partition)
        if skipped:
            self._metrics.ticks_skipped.inc(skipped)

    def _ticked(self, partition: int, error: KafkaError | None, _message: Message) -> None:
        self._waiting.discard(partition)
        if error is None:
            self._metrics.ticks.inc()
        self._reported(error)
