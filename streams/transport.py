"""Faust's aiokafka transport, but with one event a fetch.

Stock Faust spends 61 µs a record, 40 of them on one `wait_first`; here all that one fetch brought
of the raw topic is one event, its value a `Fetch`. Offsets come from `app.positions` (the
database), not from the group. Faust commits the acknowledged prefix of chunks, for lag displays
only.

Private names of faust-streaming 0.15.3 are used; `tests/streams/test_transport_contract.py` pins
them.
"""

import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from schemas.topics import RAW
from streams.records import Record

SCHEME = "kafkachunk"


class RawRecords(PartitionRecords):  # type: ignore[misc]
    """Records of one fetch. Those of the raw topic stay as they come out of their batch: what
    aiokafka makes of a record costs more than reading it.
    """

    next_fetch_offset: int

    def __iter__(self) -> Iterator[Any]:
        return self._records_iterator  # type: ignore[no-any-return]

    def _unpack_records(self) -> Iterator[Any]:
        if self._tp.topic != RAW.name:
            yield from super()._unpack_records()
            return
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not batch.is_control_batch:
                for record in batch:
                    if record.offset >= self.next_fetch_offset:
                        self.next_fetch_offset = record.offset + 1
                        yield record
            self.next_fetch_offset = batch.next_offset


class FetchedChunk(NamedTuple):
    """Records of one partition from one fetch."""

    part: int
    records: Sequence[Record]


class Fetch(NamedTuple):
    """Everything that one fetch brought. `seek` counts the seeks before it."""

    chunks: Sequence[FetchedChunk]
    seek: int


class FetchMessage(ConsumerMessage):  # type: ignore[misc]
    """Stands in its first chunk's place in the log, and acknowledges all of them.

    From before a seek it acknowledges nothing: what is fetched after it may end at the same places.
    """

    def on_final_ack(self, consumer: "Consumer") -> bool:
        if self.value.seek != consumer.seeks:
            self.acked = True
            return False
        consumer.ack_others(self.value)
        return bool(super().on_final_ack(consumer))


IDLE_FETCH_BYTES, IDLE_FETCH_MS = 1, 500
BUSY_FETCH_BYTES, BUSY_FETCH_MS, LONGEST_FETCH_MS = 1024 * 1024, 25, 100
BUSY_WITHIN_S = 0.2
RECORDS_A_MS = 10  # a fetch waits a millisecond longer for so many records
RATE_OVER_S = 1.0


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """While records come closely, the broker gathers those of all partitions for some milliseconds.

    Else every record of a small stream would be a fetch. The faster they come, the longer it
    gathers: in a transaction of a thousand a record costs half of what it does in one of twenty.
    What comes after a silence comes at once.
    """

    _last_s = 0.0
    _records_per_s = 0.0

    async def _fetch_records(self, consumer: AIOKafkaConsumer, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        now_s = time.monotonic()
        took_s, self._last_s = now_s - self._last_s, now_s
        settings = consumer._fetcher
        if records and took_s < BUSY_WITHIN_S:
            self._count(sum(map(len, records.values())), took_s)
            settings._fetch_min_bytes = BUSY_FETCH_BYTES
            settings._fetch_max_wait_ms = self._wait_ms()
        else:
            self._records_per_s = 0.0
            settings._fetch_min_bytes = IDLE_FETCH_BYTES
            settings._fetch_max_wait_ms = IDLE_FETCH_MS
        return records

    def _count(self, records: int, took_s: float) -> None:
        """Records a second, over the last `RATE_OVER_S`."""
        share = min(1.0, took_s / RATE_OVER_S)
        self._records_per_s += records / RATE_OVER_S - self._records_per_s * share

    def _wait_ms(self) -> int:
        worth_ms = round(self._records_per_s / 1000 * RECORDS_A_MS)
        return min(max(BUSY_FETCH_MS, worth_ms), LONGEST_FETCH_MS)


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Yields chunks for the raw topic; every other topic is as in Faust."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._chunks: dict[TP, deque[int]] = defaultdict(deque)  # last offset of each chunk
        self.seeks = 0
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _forget(self, partitions: Iterable[TP]) -> None:
        """An acknowledgement from before a seek says nothing of what is fetched after it."""
        for tp in partitions:
            self._chunks.pop(tp, None)
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.app.release()
        try:
            await super().on_partitions_revoked(revoked)
        finally:
            self._forget(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        offsets = dict(await super().seek_to_committed())
        self.seeks += 1
        parts = [tp for tp in self.assignment() if tp.topic == RAW.name]
        ours = await self.app.positions([tp.partition for tp in parts], self.seeks)
        self._forget(parts)
        places = {tp: ours[tp.partition] for tp in parts}
        if places:
            await self._thread.seek_wait(places)
        # Faust drops what lies before a read offset, and takes 0 for "nothing read yet".
        return {**offsets, **{tp: max(0, place - 1) for tp, place in places.items()}}

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic != RAW.name:
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """The end of the acknowledged prefix of chunks (cures faust-streaming #606)."""
        if tp.topic != RAW.name:
            return super()._new_offset(tp)  # type: ignore[no-any-return]
        acked, chunks, offset = set(self._acked[tp]), self._chunks[tp], None
        while chunks and chunks[0] in acked:
            last = chunks.popleft()
            acked.discard(last)
            self._acked_index[tp].discard(last)
            offset = last + 1
        self._acked[tp][:] = [o for o in acked if chunks and o >= chunks[0]]
        return offset

    def _message(self, fetch: Fetch) -> tuple[TP, ConsumerMessage]:
        for part, records in fetch.chunks:
            self._chunks[TP(RAW.name, part)].append(records[-1].offset)
        part, records = fetch.chunks[0]
        tp, last = TP(RAW.name, part), records[-1]
        return tp, FetchMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            1,  # the log's own append time
            (),
            last.key,
            fetch,
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def ack_others(self, fetch: Fetch) -> None:
        """What Faust does for a message's own partition, for the others of its fetch."""
        for part, records in fetch.chunks[1:]:
            tp, last = TP(RAW.name, part), records[-1].offset
            committed = self._committed_offset[tp]
            if (committed is None or last >= committed) and last not in self._acked_index[tp]:
                self._acked_index[tp].add(last)
                self._acked[tp].append(last)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """`faust.transport.consumer.Consumer.getmany`, a fetch at a time.

        Records fetched while a seek went on are from before it or from after it, nobody knows:
        they are left, and sought again.
        """
        while not (self.flow_active or self.should_stop):
            await self.wait(self.can_resume_flow)
        seek = self.seeks
        fetched, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if fetched is None or self.should_stop:
            return
        if not self.flow_active or seek != self.seeks:
            await self.perform_seek()
            return
        chunks = []
        for tp, records in fetched.items():
            if not records:
                continue
            if not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if tp.topic == RAW.name:
                chunks.append(FetchedChunk(tp.partition, records))
                continue
            for record in records:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    break
                yield tp, self._to_message(tp, record)
        if chunks and self.flow_active and self.app.consumer_generation_id == generation:
            yield self._message(Fetch(chunks, seek))


class Transport(driver.Transport):  # type: ignore[misc]
    Consumer = Consumer


def register() -> None:
    """Let Faust know `kafkachunk://host:port`, and aiokafka `RawRecords`."""
    fetcher.PartitionRecords = RawRecords
    drivers.TRANSPORTS.aliases[SCHEME] = "streams.transport:Transport"
