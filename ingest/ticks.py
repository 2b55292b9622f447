"""The time, written to every partition of the raw log once a second."""

from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Message, Producer

from ingest.metrics import Metrics
from ingest.raw_record import Header
from schemas.topics import RAW, RawHeader

TICK_S = 1.0
_TURNS = 4


class Ticks:
    """A quarter of the partitions each quarter of a second: at the change of a minute a tick ends
    the windows of all their devices, and what else has come waits for that transaction.

    `reported` is called with the delivery report of each: None, or Kafka's error.
    """

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
        self._due: list[float] = []
        self._next = 0.0

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def write(self, now: float, at: int, *, held_back: bool) -> None:
        """Write `at` to the partitions whose turn it is, where the tick before has arrived;
        `held_back`: messages from before wait.

        Raises KafkaException.
        """
        self._due = self._due or [now + TICK_S * turn / _TURNS for turn in range(_TURNS)]
        headers: list[Header] = [self._shard, (RawHeader.TICK, str(at))]
        reports, skipped = self._reports, 0
        for partition in self._take_turns(now):
            report = reports[partition]
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

    def _take_turns(self, now: float) -> list[int]:
        """The partitions that are due; each is due again a second after it was."""
        partitions: list[int] = []
        for turn, due in enumerate(self._due):
            if now >= due:
                self._due[turn] = (now if now - due > TICK_S / 2 else due) + TICK_S
                partitions += range(turn, len(self._reports), _TURNS)
        self._next = min(self._due)
        return partitions

    def _ticked(self, partition: int, error: KafkaError | None, _message: Message) -> None:
        self._waiting.discard(partition)
        if error is None:
            self._metrics.ticks.inc()
        self._reported(error)
