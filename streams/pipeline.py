"""From chunks to transactions: fold in one thread, store in another, one transaction in flight.

The agent hands fetches in; every transaction takes all that wait, of all partitions. While one
is being stored, the next is folded into memory. That is safe because a transaction is either
retried until it commits or the process exits: memory is never used without it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
import structlog
from confluent_kafka import Consumer as Watermarks
from confluent_kafka import KafkaException, TopicPartition

from schemas.topics import RAW
from sinks.device_registry import KnownDevice
from sinks.errors import is_transient
from sinks.progress import FencedOut, note_published
from streams import metrics
from streams.announce import Announcer, fresh_windows, read_states, read_windows, unannounced
from streams.fold import fold, missing_channels
from streams.link import Link
from streams.partition import Partition
from streams.records import Chunk, decode_chunks, meet, strangers
from streams.registry_changes import RegistryChanges, apply
from streams.store import Store
from streams.takeover import resolve, take_over
from streams.transport import Fetch
from streams.work import Work

log = structlog.get_logger()

EXIT_FENCED = 70
MOST_QUEUED = 10_000
STUCK_S = 30.0  # a worker is stuck when it stores nothing of a log that goes on for so long;
STUCK_IN_FLIGHT_S = 75.0  # or, with a transaction under way, for longer than one may take
LOOK_S = 1.0  # how often the registry is asked what has changed
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 10.0


class Waiting(NamedTuple):
    """A fetch on its way in, and how to acknowledge it."""

    fetch: Fetch
    ack: Callable[[], Awaitable[Any]]

    @property
    def size(self) -> int:
        return sum(len(records) for _, records in self.fetch.chunks)


class Pipeline:
    def __init__(
        self, *, database_url: str, bootstrap: str, most_records: int, pace_s: float
    ) -> None:
        self._bootstrap = bootstrap
        self._most_records, self._pace_s = most_records, pace_s
        self._announcer = Announcer(bootstrap, self.die)
        self._folding = ThreadPoolExecutor(1, "fold")
        self._storing = ThreadPoolExecutor(1, "store")
        self._fold_link, self._store_link = Link(database_url), Link(database_url)
        self._store: Store | None = None
        self._registry = RegistryChanges()
        self._watermarks = Watermarks(
            {"bootstrap.servers": bootstrap, "group.id": "meterstream-watermarks"}
        )
        self._partitions: dict[int, Partition] = {}
        self._read_until: dict[int, int] = {}
        self._seek = 0
        self._queue: list[Waiting] = []
        self._queued = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._turn = asyncio.Lock()  # held while records are folded or partitions change hands
        self._in_flight: asyncio.Task[None] | None = None
        self._noted: dict[int, int] = {}
        self.last_commit = time.monotonic()
        self.database_ok = True
        self.named = threading.Event()  # set while this worker's name is its own
        self.named.set()

    # -- what the agent and the transport call

    async def put(self, waiting: Waiting) -> None:
        """Take a fetch in. Waits while too many records are queued: Kafka holds the backlog."""
        await self._room.wait()
        if waiting.fetch.seek != self._seek:
            return
        self._queue.append(waiting)
        self._queued += waiting.size
        metrics.QUEUED.set(self._queued)
        if self._queued > MOST_QUEUED:
            self._room.clear()
        self._arrived.set()

    async def release(self) -> None:
        """Partitions are leaving: finish what is in flight, forget the rest."""
        self._drop_queue()
        async with self._turn:
            await self._finish_in_flight(at_most_s=5.0)
            self._announcer.forget(self._partitions)
            self._partitions.clear()
            self._read_until.clear()
            metrics.PARTITIONS.set(0)

    async def positions(self, parts: Sequence[int], seek: int) -> dict[int, int]:
        """Own these partitions, and say from where each is to be read."""
        self._seek = seek
        self._drop_queue()
        async with self._turn:
            await self._finish_in_flight()
            loop = asyncio.get_running_loop()
            for part in parts:
                if part not in self._partitions:
                    partition = await loop.run_in_executor(self._storing, self._take_over, part)
                    self._partitions[part] = partition
                    self._read_until[part] = min(partition.published_offset, partition.next_offset)
                else:
                    self._read_until[part] = self._partitions[part].next_offset
            metrics.PARTITIONS.set(len(self._partitions))
            return {part: self._read_until[part] for part in parts}

    async def run(self) -> None:
        """Fold and store until cancelled."""
        last_start = 0.0
        while True:
            await self._arrived.wait()
            pause_s = last_start + self._pace_s - time.monotonic()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            last_start = time.monotonic()
            async with self._turn:
                taken = self._take()
                if not taken:
                    continue
                loop = asyncio.get_running_loop()
                work = await loop.run_in_executor(self._folding, self._fold, taken)
                await self._finish_in_flight()
                self._in_flight = asyncio.create_task(self._finish(work, taken))

    async def note_published(self) -> None:
        """Write down how far derived topics are, once a second."""
        while True:
            await asyncio.sleep(1.0)
            metrics.UNCONFIRMED.set(self._announcer.unconfirmed)
            published = [
                (part, self._partitions[part].epoch, offset)
                for part, offset in list(self._announcer.published.items())
                if part in self._partitions and self._noted.get(part) != offset
            ]
            if published:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._storing, self._note, published)

    async def follow_registry(self) -> None:
        """Let devices in memory follow what people change of them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._partitions:
                continue
            changed = await loop.run_in_executor(self._storing, self._read_registry)
            if changed:
                async with self._turn:
                    await self._finish_in_flight()
                    metrics.CHANGED.inc(apply(list(self._partitions.values()), changed))

    async def watch(self) -> None:
        """End a worker that is alive but no longer takes what the log holds.

        Faust and aiokafka have ways to stop fetching without an error (`no-loss.md` §2.6); a
        start takes seconds.
        """
        while True:
            await asyncio.sleep(STUCK_S / 4)
            idle_s, bound_s = time.monotonic() - self.last_commit, self._stuck_s()
            if idle_s < bound_s or not self.database_ok or not self._partitions:
                continue
            loop = asyncio.get_running_loop()
            behind = await loop.run_in_executor(None, self._is_behind)  # waits while Kafka is away
            await asyncio.sleep(STUCK_S / 8)
            if behind and time.monotonic() - self.last_commit >= max(bound_s, self._stuck_s()):
                self.die(f"nothing was stored for {idle_s:.0f} s though the log goes on")

    def _stuck_s(self) -> float:
        in_flight = self._in_flight is not None and not self._in_flight.done()
        return STUCK_IN_FLIGHT_S if in_flight else STUCK_S

    def _is_behind(self) -> bool:
        return any(
            self._log_bounds(part)[1] > partition.next_offset
            for part, partition in list(self._partitions.items())
        )

    def poll_forever(self) -> None:
        """Serve delivery reports; runs in a thread of its own."""
        while True:
            self._announcer.poll(1.0)

    @property
    def lag_s(self) -> float | None:
        """How far the stream time of the slowest partition is behind the clock."""
        times = [p.stream_us for p in self._partitions.values() if p.stream_us]
        return time.time() - min(times) / 1e6 if times else None

    @staticmethod
    def die(why: str) -> None:
        """Leave at once: Faust's own way out would acknowledge what is not stored."""
        log.critical("worker stops; its supervisor starts it anew", why=why)
        os._exit(EXIT_FENCED)

    # -- inside

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued = 0
        self._room.set()
        self._arrived.clear()

    def _take(self) -> list[Waiting]:
        taken, records = [], 0
        while self._queue and records < self._most_records:
            waiting = self._queue.pop(0)
            records += waiting.size
            taken.append(waiting)
        self._queued -= records
        metrics.QUEUED.set(self._queued)
        if self._queued <= MOST_QUEUED:
            self._room.set()
        if not self._queue:
            self._arrived.clear()
        return taken

    async def _finish_in_flight(self, at_most_s: float | None = None) -> None:
        if self._in_flight is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._in_flight), at_most_s)
            except TimeoutError:
                self.die("a transaction was still waiting for the database at a rebalance")
            self._in_flight = None

    async def _finish(self, work: Work, taken: Sequence[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._storing, self._store_and_announce, work)
        for waiting in taken:
            await waiting.ack()

    # -- in the folding thread

    def _fold(self, taken: Sequence[Waiting]) -> Work:
        try:
            return self._fold_chunks(taken)
        except Exception as error:
            log.critical("fold failed", exc_info=True)
            self.die(f"folding failed: {error!r}")
            raise

    def _fold_chunks(self, taken: Sequence[Waiting]) -> Work:
        fetched, gaps = [], []
        for part, records in (chunk for waiting in taken for chunk in waiting.fetch.chunks):
            partition = self._partitions.get(part)
            if partition is None:
                continue
            first, read_until = records[0].offset, self._read_until[part]
            if first > read_until:
                self._require_gap(part, read_until, first)
                gaps.append((part, read_until, first))
            self._read_until[part] = max(read_until, records[-1].offset + 1)
            fetched.append((partition, records))
        unknown = strangers(fetched)
        if unknown:
            self._resolve(decode_chunks(unknown)[0])
            meet(unknown)
        chunks, samples = decode_chunks(fetched)
        self._resolve(chunks)
        work = fold(chunks, samples)
        work.gaps_in_log = gaps
        work.records = sum(len(records) for _, records in fetched)
        return work

    def _resolve(self, chunks: Sequence[Chunk]) -> None:
        missing = missing_channels(chunks)
        if missing:
            self._retried(self._fold_link, lambda conn: resolve(conn, missing, self._partitions))

    def _require_gap(self, part: int, read_until: int, first: int) -> None:
        low, _ = self._log_bounds(part)
        if low < first:
            self.die(
                f"{RAW.name}[{part}] goes on at {first} where {read_until} was due, "
                f"and the log begins at {low}"
            )
        log.error(
            "offsets are gone from the log and were never read",
            part=part, from_offset=read_until, to_offset=first,
        )  # fmt: skip
        metrics.LOG_GAPS.inc(first - read_until)

    def _log_bounds(self, part: int) -> tuple[int, int]:
        """The first offset the log holds, and the one its next record will have."""
        while True:
            try:
                low, high = self._watermarks.get_watermark_offsets(
                    TopicPartition(RAW.name, part), 10
                )
                return low, high
            except KafkaException as error:
                log.warning("Kafka does not tell its offsets; asking again", error=str(error))
                time.sleep(_FIRST_PAUSE_S)

    # -- in the storing thread

    def _retried(self, link: Link, step: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Run a step of the database's until it succeeds; outages only slow it down."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                result = step(link.connection())
                self.database_ok = True
                return result
            except FencedOut as error:
                self.die(str(error))
            except psycopg.Error as error:
                if not is_transient(error):
                    log.critical("the database refuses what we send", exc_info=True)
                    self.die(f"{type(error).__name__}: {error}")
                self.database_ok = False
                metrics.RETRIES.inc()
                log.warning("database away; trying again", error=str(error), pause_s=pause_s)
                link.drop()
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _take_over(self, part: int) -> Partition:
        self.named.wait()  # who was stopped, and has lost it, ends before it takes anything back
        self._retried(self._store_link, self._registry.begin)
        partition: Partition = self._retried(self._store_link, lambda conn: take_over(conn, part))
        _, high = self._log_bounds(part)
        if high < partition.next_offset:
            self.die(
                f"{RAW.name}[{part}] ends at {high}, but {partition.next_offset} records of it "
                "are stored: was Kafka wiped and the database not? Restore the log, or move the "
                "database aside with `meterstream down --wipe`"
            )
        windows = self._retried(
            self._store_link, lambda conn: unannounced(conn, part, partition.published_offset)
        )
        self._announcer.announce(Work(), windows)
        metrics.TAKEOVERS.inc()
        return partition

    def _store_and_announce(self, work: Work) -> None:
        try:
            started = time.monotonic()
            self._retried(self._store_link, lambda conn: self._store_once(conn, work))
            if work.stored_before:
                self.die("the answer to a COMMIT was lost; the next start announces what it stored")
            metrics.TRANSACTION_S.observe(time.monotonic() - started)
            self.last_commit = time.monotonic()
            revised = work.changed_minutes[len(work.minutes) :]
            windows = fresh_windows(work)
            if revised:
                keys = [record[:2] for record, _ in revised]
                windows += self._retried(self._store_link, lambda conn: read_windows(conn, keys))
            said = self._retried(self._store_link, lambda conn: read_states(conn, work))
            self._announcer.announce(work, windows, said)
            _count(work)
        except Exception as error:
            log.critical("store failed", exc_info=True)
            self.die(f"storing failed: {error!r}")
            raise

    def _store_once(self, conn: psycopg.Connection[Any], work: Work) -> None:
        if self._store is None or self._store.conn is not conn:
            self._store = Store(conn)
        self._store.store(work, self._announcer.published)

    def _read_registry(self) -> list[KnownDevice]:
        changed: list[KnownDevice] = self._retried(self._store_link, self._registry.read)
        return changed

    def _note(self, published: list[tuple[int, int, int]]) -> None:
        self._retried(self._store_link, lambda conn: note_published(conn, RAW.name, published))
        self._noted.update((part, offset) for part, _, offset in published)


def _count(work: Work) -> None:
    metrics.RECORDS.inc(work.records)
    metrics.BATCH.observe(work.records)
    metrics.READINGS.inc(work.stored)
    metrics.DUPLICATES.inc(work.duplicates + work.stored_duplicates)
    metrics.CONFLICTS.inc(len(work.conflicts))
    metrics.WINDOWS.inc(len(work.changed_minutes))
    metrics.LATE.inc(len(work.redo))
    metrics.TICKS_AHEAD.inc(work.ticks_ahead)
    for refused in work.refused:
        metrics.REFUSED.labels(refused.reason.value).inc()
