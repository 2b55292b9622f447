"""What `streams.transport` takes from Faust, and what it makes of it: one event a chunk."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord
from aiokafka.structs import TopicPartition as AioTP
from faust.transport import consumer as faust_consumer
from faust.transport import drivers
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from mode.utils.imports import FactoryMapping

from schemas.topics import RAW
from streams import transport
from streams.transport import Consumer, Fetch

# ---------------------------------------------------------------- the private names

fetcher_records = transport.RawRecords.__mro__[1]  # aiokafka's own


@pytest.mark.parametrize(
    ("package", "tried_with"),
    [("faust-streaming", "0.15.3"), ("aiokafka", "0.14.0"), ("mode-streaming", "0.7.1")],
)
def test_the_versions_are_those_that_the_transport_was_written_for(package: str, tried_with: str):
    assert version(package) == tried_with


METHODS = [
    (faust_consumer.Consumer, "getmany", ["self", "timeout"]),
    (faust_consumer.Consumer, "_wait_next_records", ["self", "timeout"]),
    (faust_consumer.Consumer, "_new_offset", ["self", "tp"]),
    (faust_consumer.Consumer, "_add_gap", ["self", "tp", "offset_from", "offset_to"]),
    (faust_consumer.Consumer, "_filter_committable_offsets", ["self", "tps"]),
    (faust_consumer.Consumer, "_commit_offsets", ["self", "offsets", "start_new_transaction"]),
    (faust_consumer.Consumer, "_drain_messages", ["self", "fetcher"]),
    (faust_consumer.Consumer, "ack", ["self", "message"]),
    (faust_consumer.Consumer, "perform_seek", ["self"]),
    (faust_consumer.Consumer, "on_partitions_revoked", ["self", "revoked"]),
    (driver.Consumer, "seek_to_committed", ["self"]),
    (driver.Consumer, "_to_message", ["self", "tp", "record"]),
    (driver.Consumer, "assignment", ["self"]),
    (driver.Consumer, "highwater", ["self", "tp"]),
    (driver.Consumer, "_new_consumer_thread", ["self"]),
    (
        driver.AIOKafkaConsumerThread,
        "_fetch_records",
        ["self", "consumer", "active_partitions", "timeout", "max_records"],
    ),
    (fetcher.PartitionRecords, "_unpack_records", ["self"]),
    (fetcher.PartitionRecords, "__iter__", ["self"]),
    (driver.AIOKafkaConsumerThread, "seek_wait", ["self", "partitions"]),
    (driver.AIOKafkaConsumerThread, "seek_to_committed", ["self"]),
    (driver.AIOKafkaConsumerThread, "getmany", ["self", "active_partitions", "timeout"]),
    (aiokafka.AIOKafkaConsumer, "seek", ["self", "partition", "offset"]),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), METHODS)
def test_a_method_has_its_name_and_parameters(owner: type, name: str, parameters: list[str]):
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


@pytest.mark.parametrize(
    ("name", "is_coroutine"),
    [
        ("_wait_next_records", True),
        ("_add_gap", True),
        ("perform_seek", True),
        ("seek_to_committed", True),
        ("on_partitions_revoked", True),
        ("_new_offset", False),
        ("ack", False),
    ],
)
def test_a_method_is_awaited_where_faust_awaits_it(name: str, is_coroutine: bool):
    inherited = inspect.unwrap(getattr(driver.Consumer, name))
    assert inspect.iscoroutinefunction(inherited) is is_coroutine
    assert inspect.iscoroutinefunction(inspect.unwrap(getattr(Consumer, name))) is is_coroutine


def test_a_fetcher_reads_its_bounds_for_every_request():
    source = inspect.getsource(fetcher.Fetcher._get_actions_per_node)
    assert "self._fetch_max_wait_ms" in source
    assert "self._fetch_min_bytes" in source


@pytest.mark.parametrize("codec", [0, 3])
def test_raw_records_are_those_of_aiokafka_without_their_dress(codec: int):
    """From the position on, with CRC checked, and the position after the last."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for offset in range(4):
        builder.append(offset, 1000 + offset, b"k", b"v%d" % offset, [("h", b"1")])
    whole = bytes(builder.build())

    def unpacked(kind: type[Any], data: bytes, topic: str) -> Any:
        tp = AioTP(topic, 0)
        return kind(tp, MemoryRecords(data), [], 1, None, None, True, 0)

    plain = unpacked(fetcher_records, whole, RAW.name)
    raw = unpacked(transport.RawRecords, whole, RAW.name)
    expected = [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in plain]
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in raw] == expected
    assert [offset for offset, *_ in expected] == [1, 2, 3]
    assert raw.next_fetch_offset == plain.next_fetch_offset == 4
    other = list(unpacked(transport.RawRecords, whole, "energy.other.v1"))
    assert isinstance(other[0], ConsumerRecord)
    broken = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(CorruptRecordException):
        list(unpacked(transport.RawRecords, broken, RAW.name))


def test_getmany_is_an_asynchronous_generator():
    assert inspect.isasyncgenfunction(faust_consumer.Consumer.getmany)
    assert inspect.isasyncgenfunction(Consumer.getmany)


def test_a_consumer_has_the_attributes_that_the_transport_uses():
    async def run() -> None:
        assert_attributes(Log().consumer)

    asyncio.run(run())


def assert_attributes(consumer: Consumer) -> None:
    assert isinstance(consumer._acked, dict)
    assert isinstance(consumer._acked[TP_0], list)
    assert isinstance(consumer._acked_index[TP_0], set)
    assert consumer._buffered_partitions == set()
    assert consumer._committed_offset[TP_0] is None
    assert consumer._read_offset[TP_0] is None
    assert consumer.flow_active is True
    assert consumer.should_stop is False
    assert consumer.app.consumer_generation_id == 0
    assert callable(consumer.app.monitor.track_tp_end_offset)


def test_a_message_takes_its_fields_in_this_order():
    assert list(inspect.signature(ConsumerMessage.__init__).parameters)[1:13] == [
        "topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value",
        "checksum", "serialized_key_size", "serialized_value_size", "tp",
    ]  # fmt: skip
    assert "generation_id" in inspect.signature(ConsumerMessage.__init__).parameters


def test_the_scheme_leads_to_the_transport():
    assert isinstance(drivers.TRANSPORTS, FactoryMapping)
    transport.register()
    assert drivers.by_url(f"{transport.SCHEME}://127.0.0.1:1") is transport.Transport
    assert transport.Transport.Consumer is Consumer
    assert drivers.by_url("kafka://127.0.0.1:1") is driver.Transport


# ---------------------------------------------------------------- the bookkeeping of chunks

TP_0, TP_1 = TP(RAW.name, 0), TP(RAW.name, 1)
OTHER = TP("energy.other.v1", 0)
PARTITIONS = (TP_0, TP_1)


def record(tp: TP, offset: int) -> ConsumerRecord:
    return ConsumerRecord(
        topic=tp.topic, partition=tp.partition, offset=offset, timestamp=1000 + offset,
        timestamp_type=1, key=b"k", value=b"v", checksum=None, serialized_key_size=1,
        serialized_value_size=1, headers=(),
    )  # fmt: skip


class Wire:
    """In place of the consumer's thread: a log without end, the group's offsets, a position."""

    def __init__(self) -> None:
        self.assigned = set(PARTITIONS)
        self.position = dict.fromkeys((*PARTITIONS, OTHER), 0)
        self.committed: dict[TP, int] = {}
        self.next_fetch: dict[TP, int] = {}  # how many records
        self.held: asyncio.Event | None = None  # a fetch that waits with its answer,
        self.asked: asyncio.Event | None = None  # or before it looks at the position
        self.consumer: Consumer

    def assignment(self) -> set[TP]:
        return set(self.assigned)

    def highwater(self, tp: TP) -> int:
        return 1 << 40

    async def getmany(self, active: set[TP] | None, timeout: float) -> Mapping[TP, Sequence[Any]]:
        if self.asked is not None:
            await self.asked.wait()
        fetched = {}
        for tp, count in self.next_fetch.items():
            if active is None or tp in active:
                start = self.position[tp]
                fetched[tp] = [record(tp, start + i) for i in range(count)]
                self.position[tp] = start + count
        self.next_fetch = {}
        if self.held is not None:
            await self.held.wait()
        return fetched

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {tp: self.committed.get(tp, 0) for tp in self.assigned}

    async def seek_wait(self, places: Mapping[TP, int]) -> None:
        for tp, offset in places.items():
            self.position[tp] = offset
            self.consumer._read_offset[tp] = offset or None

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        self.committed.update(offsets)
        return True


class App(faust.App):  # type: ignore[misc]
    """Its offsets come from `stored`, as the pipeline's do from the database."""

    case: "Log"

    async def release(self) -> None:
        self.case.released += 1

    async def positions(self, parts: Sequence[int], seek: int) -> dict[int, int]:
        return await self.case.positions(parts, seek)


class Producer:
    async def flush(self) -> None:
        pass


class Once:
    """A fetcher that is stopped after one round of `_drain_messages`."""

    def __init__(self) -> None:
        self.rounds = 0
        self._stopped = self

    def is_set(self) -> bool:
        self.rounds += 1
        return self.rounds > 1


@dataclass(frozen=True)
class Chunk:
    """One partition's part of a delivered fetch; its parts are acknowledged together."""

    message: ConsumerMessage
    records: Sequence[Any]

    @property
    def acked(self) -> bool:
        return bool(self.message.acked)

    @property
    def offset(self) -> int:
        return int(self.records[-1].offset)

    @property
    def seek(self) -> int:
        return int(self.message.value.seek)


@dataclass
class Log:
    """A consumer over a `Wire`, and the model: chunks delivered since the last seek."""

    stored: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    chunks: dict[TP, list[Chunk]] = field(default_factory=lambda: {TP_0: [], TP_1: []})
    finish_before_seek: list[Chunk] = field(default_factory=list)
    others: list[ConsumerMessage] = field(default_factory=list)
    seeks: list[int] = field(default_factory=list)
    released: int = 0
    deliveries: int = 0

    def __post_init__(self) -> None:
        transport.register()
        app = App("t", broker=f"{transport.SCHEME}://127.0.0.1:1", web_enabled=False)
        app.case = self
        app.producer = Producer()
        app.topics._acking_topics |= {RAW.name, OTHER.topic}
        self.wire = Wire()
        self.consumer = self.wire.consumer = app.transport.create_consumer(
            self._deliver, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing
        )
        self.consumer._thread.thread_loop.close()
        self.consumer._thread = self.wire
        self.consumer._set_active_tps({*PARTITIONS, OTHER})

    async def _deliver(self, message: ConsumerMessage) -> None:
        if not isinstance(message.value, Fetch):
            self.others.append(message)
            return
        self.deliveries += 1
        for part, records in message.value.chunks:
            self.chunks[TP(RAW.name, part)].append(Chunk(message, records))

    async def positions(self, parts: Sequence[int], seek: int) -> dict[int, int]:
        """What is in flight is stored and acknowledged first, as in `Pipeline.positions`."""
        self.seeks.append(seek)
        await asyncio.sleep(0)
        for message in self.finish_before_seek:
            self.ack(message)
        self.finish_before_seek = []
        return {part: self.stored[part] for part in parts}

    async def fetch(self, counts: Mapping[TP, int]) -> None:
        self.wire.next_fetch = dict(counts)
        await self.consumer._drain_messages(Once())

    def ack(self, chunk: Chunk) -> None:
        chunk.message.ack(self.consumer)

    def acked_prefix(self, tp: TP) -> int | None:
        """The end of the acknowledged chunks since the seek, before the first that is not."""
        end = None
        for message in self.chunks[tp]:
            if not message.acked:
                break
            end = message.offset + 1
        return end

    async def commit(self) -> None:
        await self.consumer.commit()

    async def seek(self) -> None:
        for tp in PARTITIONS:
            self.chunks[tp] = []
        await self.consumer.perform_seek()

    async def rebalance(self) -> None:
        self.consumer.app.on_rebalance_start()
        self.consumer.stop_flow()
        await self.consumer.on_partitions_revoked(set(PARTITIONS))
        self.consumer.app.consumer_generation_id += 1
        await self.consumer.on_partitions_assigned(
            set(PARTITIONS), self.consumer.app.consumer_generation_id
        )
        await self.seek()
        self.consumer.resume_flow()


async def _nothing(*_: object) -> None:
    pass


def values(log: Log, tp: TP = TP_0) -> list[list[int]]:
    return [[r.offset for r in m.records] for m in log.chunks[tp]]


def test_a_fetch_is_one_event_with_all_records_of_all_partitions():
    async def run() -> None:
        log = Log()
        await log.fetch({TP_0: 3, TP_1: 2})
        assert log.deliveries == 1
        assert values(log, TP_0) == [[0, 1, 2]]
        assert values(log, TP_1) == [[0, 1]]
        message = log.chunks[TP_0][0].message
        assert (message.offset, message.timestamp, message.tp) == (2, 1.002, TP_0)

    asyncio.run(run())


def test_other_topics_come_record_by_record_and_are_counted_as_in_faust():
    async def run() -> None:
        log = Log()
        await log.fetch({OTHER: 3})
        assert [(m.offset, m.value) for m in log.others] == [(0, b"v"), (1, b"v"), (2, b"v")]
        log.wire.assigned.add(OTHER)
        log.others[0].ack(log.consumer)
        log.others[2].ack(log.consumer)
        await log.commit()
        assert log.wire.committed == {OTHER: 1}

    asyncio.run(run())


def test_an_empty_fetch_is_no_event():
    async def run() -> None:
        log = Log()
        await log.fetch({TP_0: 0})
        assert log.chunks[TP_0] == []

    asyncio.run(run())


def test_offsets_missing_from_the_log_are_no_gap_of_acknowledgements():
    """A compacted or truncated raw log would make Faust wait for offsets that never come."""

    async def run() -> None:
        log = Log()
        await log.fetch({TP_0: 2})
        log.wire.position[TP_0] = 500
        await log.fetch({TP_0: 2})
        for message in log.chunks[TP_0]:
            log.ack(message)
        await log.commit()
        assert log.wire.committed == {TP_0: 502}
        assert not log.consumer._gap[TP_0]

    asyncio.run(run())


def test_a_seek_goes_to_the_stored_offset_whatever_the_group_has_committed():
    async def run() -> None:
        log = Log(stored={0: 7, 1: 0})
        log.wire.committed = {TP_0: 90, TP_1: 40}
        await log.seek()
        assert log.wire.position[TP_0] == 7
        assert log.wire.position[TP_1] == 0
        await log.fetch({TP_0: 2, TP_1: 1})
        assert values(log, TP_0) == [[7, 8]]
        assert values(log, TP_1) == [[0]]

    asyncio.run(run())


def test_a_chunk_says_how_many_seeks_lie_before_its_fetch():
    async def run() -> None:
        log = Log()
        for expected in (0, 1, 2):
            await log.fetch({TP_0: 1})
            assert log.chunks[TP_0][0].seek == expected
            await log.seek()
        assert log.seeks == [1, 2, 3]

    asyncio.run(run())


def test_records_fetched_before_a_seek_are_not_delivered_after_it():
    """They would move Faust's read offset past what is fetched anew, which it then drops."""

    async def run() -> None:
        log = Log()
        log.wire.held = asyncio.Event()
        log.wire.next_fetch = {TP_0: 100}
        fetching = asyncio.create_task(log.consumer._drain_messages(Once()))
        await asyncio.sleep(0.01)
        await log.seek()
        log.wire.held.set()
        await fetching
        assert log.chunks[TP_0] == []
        await log.fetch({TP_0: 10})
        assert values(log) == [list(range(10))]

    asyncio.run(run())


def test_a_fetch_over_a_seek_loses_nothing_wherever_it_was_answered_from():
    """The thread serves two calls at once: the answer may hold records from after the seek."""

    async def run() -> None:
        log = Log(stored={0: 50, 1: 0})
        log.wire.asked = asyncio.Event()
        log.wire.next_fetch = {TP_0: 100}
        fetching = asyncio.create_task(log.consumer._drain_messages(Once()))
        await asyncio.sleep(0.01)
        await log.seek()
        log.wire.asked.set()
        await fetching
        assert log.wire.position[TP_0] == 50, "what was taken out is fetched again"
        await log.fetch({TP_0: 10})
        assert values(log) == [list(range(50, 60))]
        assert log.chunks[TP_0][0].seek == log.seeks[-1]

    asyncio.run(run())


def test_what_is_fetched_after_a_rebalance_belongs_to_it():
    """Faust asks for the next records while the flow is stopped, and waits inside."""

    async def run() -> None:
        log = Log(stored={0: 50, 1: 0})
        log.consumer.stop_flow()
        log.wire.next_fetch = {TP_0: 10}
        fetching = asyncio.create_task(log.consumer._drain_messages(Once()))
        await asyncio.sleep(0.01)
        await log.seek()
        log.consumer.resume_flow()
        await fetching
        assert values(log) == [list(range(50, 60))]
        assert log.chunks[TP_0][0].seek == log.seeks[-1] == 1

    asyncio.run(run())


def test_a_stopped_flow_delivers_nothing_and_seeks_before_it_goes_on():
    async def run() -> None:
        log = Log(stored={0: 4, 1: 0})
        log.wire.held = asyncio.Event()
        log.wire.next_fetch = {TP_0: 100}
        fetching = asyncio.create_task(log.consumer._drain_messages(Once()))
        await asyncio.sleep(0.01)
        log.consumer.stop_flow()
        log.wire.held.set()
        await fetching
        assert (log.chunks[TP_0], log.wire.position[TP_0]) == ([], 4)

    asyncio.run(run())


def test_a_rebalance_releases_before_it_forgets():
    async def run() -> None:
        log = Log()
        await log.fetch({TP_0: 5})
        log.ack(log.chunks[TP_0][0])
        await log.rebalance()
        assert log.released == 1
        await log.commit()
        assert log.wire.committed == {}, "a chunk from before the rebalance says nothing now"

    asyncio.run(run())


def test_chunks_acknowledged_while_a_seek_waits_are_not_taken_for_those_fetched_after_it():
    """A transaction in flight finishes inside the seek; here its predecessor has not."""

    async def run() -> None:
        log = Log()
        await log.fetch({TP_0: 10})
        await log.fetch({TP_0: 10})
        log.finish_before_seek = [log.chunks[TP_0][1]]
        await log.seek()
        await log.fetch({TP_0: 20})  # the same last offset, 19, as the acknowledged chunk's
        await log.commit()
        assert log.wire.committed == {}
        log.ack(log.chunks[TP_0][0])
        await log.commit()
        assert log.wire.committed == {TP_0: 20}

    asyncio.run(run())


OPERATIONS = st.one_of(
    st.tuples(
        st.just("fetch"),
        st.fixed_dictionaries({tp: st.integers(0, 4) for tp in PARTITIONS}),
    ),
    st.tuples(st.just("ack"), st.integers(0, 10_000)),
    st.tuples(st.just("ack again"), st.integers(0, 10_000)),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.sampled_from(["seek", "rebalance"]), st.lists(st.integers(0, 30), max_size=4)),
)


@given(st.lists(OPERATIONS, max_size=30))
@settings(max_examples=150, deadline=None)
def test_the_committed_offset_is_the_end_of_the_acknowledged_prefix(operations: list[Any]):
    """Chunks acknowledged in any order, twice, around seeks to anywhere before what is stored."""

    async def run() -> None:
        log = Log()
        everything: dict[TP, list[int]] = {tp: [] for tp in PARTITIONS}
        for name, argument in operations:
            open_chunks = [m for tp in PARTITIONS for m in log.chunks[tp] if not m.acked]
            match name:
                case "fetch":
                    before = {tp: log.wire.position[tp] for tp in PARTITIONS}
                    count = {tp: len(log.chunks[tp]) for tp in PARTITIONS}
                    await log.fetch(argument)
                    for tp, n in argument.items():
                        new = log.chunks[tp][count[tp] :]
                        expected = [list(range(before[tp], before[tp] + n))] if n else []
                        assert [[r.offset for r in m.records] for m in new] == expected
                        everything[tp] += [m.offset for m in new]
                case "ack" if open_chunks:
                    log.ack(open_chunks[argument % len(open_chunks)])
                case "ack again":
                    acked = [m for tp in PARTITIONS for m in log.chunks[tp] if m.acked]
                    if acked:
                        log.ack(acked[argument % len(acked)])
                case "commit":
                    await commit_and_check(log)
                case "seek" | "rebalance":
                    log.finish_before_seek = [
                        open_chunks[i % len(open_chunks)] for i in argument if open_chunks
                    ]
                    for tp in PARTITIONS:
                        done = log.acked_prefix(tp) or log.stored[tp.partition]
                        # A new owner reads from what is announced, which lies before.
                        back = argument[0] if argument and name == "rebalance" else 0
                        log.stored[tp.partition] = max(0, done - back)
                    await (log.seek() if name == "seek" else log.rebalance())
                    for tp in PARTITIONS:
                        assert log.wire.position[tp] == log.stored[tp.partition]
        for tp in PARTITIONS:
            for message in log.chunks[tp]:
                log.ack(message)
        await commit_and_check(log)
        for tp in PARTITIONS:
            assert not log.consumer._acked[tp]
            assert not log.consumer._acked_index[tp]
            assert not log.consumer._chunks[tp]

    async def commit_and_check(log: Log) -> None:
        before = dict(log.wire.committed)
        await log.commit()
        for tp in PARTITIONS:
            committed, prefix = log.wire.committed.get(tp), log.acked_prefix(tp)
            first_open = next((m for m in log.chunks[tp] if not m.acked), None)
            if committed != before.get(tp):
                assert committed == prefix, "committed is the acknowledged prefix"
            if prefix is not None:
                assert committed == prefix
            if committed is not None and first_open is not None and committed != before.get(tp):
                assert committed <= first_open.records[0].offset

    asyncio.run(run())
