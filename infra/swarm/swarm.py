"""Thousands of homesync nodes in one process, on one event loop.

    record = Record(path, settings.header())
    async with Swarm(settings, record) as swarm:
        await swarm.connect(timeout_s=60)
        await swarm.run(seconds=60)
        await swarm.drain(timeout_s=120)

One timer makes the readings of all nodes, in a fixed order that follows from the seed; a second one
looks for nodes that nobody answers. A node's reading stays in its outbox until an acknowledgement
is believed: heard, written to the record, fsynced.
"""

import asyncio
import contextlib
import heapq
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from infra.swarm import wire
from infra.swarm.link import Link, packet_id_of
from infra.swarm.nodes import Believe, Counts, Node, SwarmSettings, address
from infra.swarm.oddities import SOON_S, Whims
from infra.swarm.outbox import FalseAck
from infra.swarm.record import Record
from schemas.units import MINUTE_US, SECOND_US

__all__ = ["Believe", "Counts", "Swarm", "SwarmError", "SwarmSettings", "address", "new_record"]

PING_AFTER_S = 25.0
CONNECTING_AT_ONCE = 128
CONNECT_TIMEOUT_S = 15.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 10.0
NODES_PER_ADDRESS = 5_000  # the kernel has 28,000 ports to choose from, shared with others
SPARE_FILES = 64
TICK_S = 0.002
MOST_IN_A_ROW = 500  # messages, before the loop may do something else
SWEEP_S = 0.5
POLL_TICK_S = 0.005
SHORTEST_POLL_S = 0.1
POLLS_PER_S = 4_000
COMMIT_S = 0.02
IDLE_COMMITS = 10  # without acknowledgements to believe, the record is written so much less often

DUPLICATES_FROM = 32_000  # packet ids of duplicates are so far from those in flight

Sampler = Callable[[int, int, int, int], None]
"""Told of every `sample_every`th message of a run as it leaves: node, seq, measured_us,
monotonic ns."""


class SwarmError(Exception):
    """The swarm cannot do what it was asked; the text is meant for a person."""


def next_minute(at_us: int) -> int:
    return at_us - at_us % MINUTE_US + MINUTE_US


class Swarm:
    def __init__(
        self, settings: SwarmSettings, record: Record, sampler: Sampler | None = None
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        self.by_puback = settings.believe == "puback"
        self._record = record
        self._sampler = sampler
        self._chance = Random(settings.seed)
        self._nodes = [
            Node(settings, index, Random(f"{settings.seed}/{index}"))
            for index in range(settings.devices)
        ]
        self._heard: dict[Node, int] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="swarm-record")
        self._closing = False
        self._sampling = 0  # of so many messages one is told to the sampler; 0: none
        self._last_us = 0
        self._later: list[tuple[float, int, int, bytes]] = []  # duplicates: due, node, seq, body

    # ---- life ----

    async def __aenter__(self) -> Self:
        allow_files(self.settings.devices + SPARE_FILES)
        self._slots = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._background = [
            asyncio.create_task(self._commit_for_ever()),
            asyncio.create_task(self._poll_for_ever()),
            asyncio.create_task(self._sweep_for_ever()),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        tasks = [*self._background, *self._connecting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._nodes:
            if node.link is not None:
                node.link.write(wire.DISCONNECT)
                node.link.transport.close()
        await asyncio.sleep(0.05)  # the transports close in the loop's next turns
        self._writer.shutdown(wait=True)
        self._record.close()

    async def connect(self, timeout_s: float) -> None:
        """Connect all nodes. Raises SwarmError if some are not connected in time."""
        for node in self._nodes:
            self._start_connecting(node, 0.0)
        until = time.monotonic() + timeout_s
        while missing := sum(node.link is None for node in self._nodes):
            if time.monotonic() > until:
                raise SwarmError(
                    f"{missing} of {len(self._nodes)} nodes could not connect to "
                    f"{self.settings.host}:{self.settings.port} in {timeout_s:.0f} s"
                )
            await asyncio.sleep(0.05)

    async def run(self, seconds: float) -> None:
        """Make readings at the rate for so long.

        Message k is measured at its planned instant whenever a late timer lets it be sent, so a
        slow machine makes the run longer and never poorer.
        """
        settings, counts, nodes = self.settings, self.counts, self._nodes
        count, rate = len(nodes), settings.rate
        total = round(seconds * rate)
        start_us = max(time.time_ns() // 1000, self._last_us + 1)
        begun, cpu = time.perf_counter(), time.process_time()
        done = 0
        measure = self._measure_oddly if settings.behaviour else self._measure
        self._sampling = settings.sample_every
        try:
            while done < total:
                due = min(total, done + MOST_IN_A_ROW, int((time.perf_counter() - begun) * rate))
                for k in range(done, due):
                    measure(nodes[k % count], start_us + int(k * SECOND_US / rate))
                behind, done = due - done == MOST_IN_A_ROW, due
                self._last_us = start_us + int(done * SECOND_US / rate)
                await asyncio.sleep(0 if behind else TICK_S)
        finally:
            self._sampling = 0
            counts.run_s += time.perf_counter() - begun
            counts.cpu_s += time.process_time() - cpu

    async def finish(self) -> int:
        """One more reading of every node, at the minute after its last. Returns the earliest in µs.

        With it the minute before has its end, so that its energy is final.
        """
        earliest_us = next_minute(max(time.time_ns() // 1000, self._last_us))
        for index, node in enumerate(self._nodes):
            at_us = earliest_us
            if node.meter.last_us is not None:
                at_us = next_minute(node.meter.last_us)
                earliest_us = min(earliest_us, at_us)
            node.meter.roll_over_no_more()
            self._measure(node, at_us)
            self._last_us = max(self._last_us, at_us)
            if index % 200 == 199:
                await asyncio.sleep(TICK_S)
        return earliest_us

    async def drain(self, timeout_s: float, progress: Callable[[int], None] | None = None) -> int:
        """Wait until everything is acknowledged. Returns what is not when time is up."""
        until = time.monotonic() + timeout_s
        while (left := self.unacked) and time.monotonic() < until:
            if progress is not None:
                progress(left)
            await asyncio.sleep(0.05)
        return left

    @property
    def unacked(self) -> int:
        return self.counts.made - self.counts.acked

    @property
    def connected(self) -> int:
        return sum(node.link is not None for node in self._nodes)

    @property
    def sent(self) -> int:
        """Messages that were published at least once."""
        return sum(node.outbox.sent_until - 1 for node in self._nodes)

    # ---- readings ----

    def _measure_oddly(self, node: Node, at_us: int) -> None:
        whims, meter, counts = node.whims, node.meter, self.counts
        assert whims is not None
        at_us = whims.clock(at_us)
        if whims.resets():
            meter.reset()
        self._measure(node, at_us)
        silence_s = whims.silence_s()
        if silence_s and node.link is not None:
            link, node.link = node.link, None
            link.write(wire.DISCONNECT)
            link.transport.close()
            counts.silences += 1
            self._start_connecting(node, silence_s)

    def _measure(self, node: Node, at_us: int) -> None:
        meter, outbox, counts = node.meter, node.outbox, self.counts
        numbers, body = meter.read(at_us)
        if meter.jumps != node.jumps:
            counts.register_jumps += 1
            node.jumps = meter.jumps
            self._record.jumped(node.index, meter.hidden_uwh)
        seq = outbox.add(body)
        now_ns = time.monotonic_ns()
        self._record.sent(node.index, seq, now_ns, at_us, numbers)
        counts.made += 1
        link = node.link
        if link is None:
            return
        every = self._sampling
        if every and self._sampler is not None and counts.made % every == 0:
            self._sampler(node.index, seq, at_us, now_ns)
        now = now_ns / 1e9
        if node.whims is None and outbox.take_newest(now):
            counts.published += 1
            link.sent_until = seq + 1
            node.written_at = now
            link.write(node.packet(seq, body, packet_id_of(seq)))
        else:
            self._send(node, link, now)

    def _send(self, node: Node, link: Link, now: float) -> None:
        """Send what the outbox gives, most often after a while without a connection."""
        batch = node.outbox.take(now)
        if not batch:
            return
        counts = self.counts
        counts.published += len(batch)
        start = batch[0][0]
        if start < link.sent_until:
            counts.sent_again += len(batch)
            link.next_puback = start
        link.sent_until = start + len(batch)
        node.written_at = now
        if node.whims is None:
            link.write(b"".join([node.packet(seq, body, packet_id_of(seq)) for seq, body in batch]))
        else:
            self._send_oddly(node, link, node.whims, [seq for seq, _ in batch], now)

    def _send_oddly(
        self, node: Node, link: Link, whims: Whims, seqs: list[int], now: float
    ) -> None:
        assert link.awaited is not None
        outbox, counts = node.outbox, self.counts
        order = whims.order(seqs, now)
        if order != seqs:
            counts.out_of_order += 1
        packets = []
        for seq in order:
            if seq < outbox.first:
                continue
            body = outbox.held[seq - outbox.first]
            link.awaited.published(packet_id_of(seq), seq)
            packets.append(node.packet(seq, body, packet_id_of(seq)))
            after_s = whims.duplicate_after_s()
            if after_s is not None:
                heapq.heappush(self._later, (now + after_s, node.index, seq, body))
        if packets:
            link.write(b"".join(packets))

    def _send_duplicates(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, index, seq, body = heapq.heappop(self._later)
            node = self._nodes[index]
            if node.link is None or node.link.awaited is None:
                continue
            packet_id = packet_id_of(seq + DUPLICATES_FROM)
            node.link.awaited.published(packet_id, seq)
            node.link.write(node.packet(seq, body, packet_id))
            self.counts.duplicates += 1

    # ---- acknowledgements ----

    def heard(self, node: Node, seq: int) -> None:
        """Somebody says that everything up to `seq` is safe: believed after the next commit."""
        if self._heard.get(node, -1) < seq:
            self._heard[node] = seq

    async def _commit_for_ever(self) -> None:
        idle = 0
        while True:
            await asyncio.sleep(COMMIT_S)
            idle += 1
            if self._heard or idle >= IDLE_COMMITS:
                idle = 0
                await self._commit()

    async def _commit(self) -> None:
        heard, self._heard = self._heard, {}
        now_ns = time.monotonic_ns()
        for node, seq in heard.items():
            self._record.acked(node.index, seq, now_ns)
        ready = self._record.take()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._record.write, ready)
        now = time.monotonic()
        for node, seq in heard.items():
            try:
                self.counts.acked += node.outbox.acknowledged(seq, now)
            except FalseAck:
                self.counts.false_acks += 1
            if node.link is not None:
                self._send(node, node.link, now)

    # ---- connections ----

    async def _poll_for_ever(self) -> None:
        """Read from every node in turn, each `SHORTEST_POLL_S` or as often as there is time for."""
        nodes, count = self._nodes, len(self._nodes)
        rate = min(POLLS_PER_S, count / SHORTEST_POLL_S)
        at, before, owed = 0, time.monotonic(), 0.0
        while True:
            await asyncio.sleep(POLL_TICK_S)
            now = time.monotonic()
            owed = min(count, owed + (now - before) * rate)
            before = now
            for _ in range(int(owed)):
                link = nodes[at].link
                at = at + 1 if at + 1 < count else 0
                if link is not None:
                    link.poll(now)
            owed %= 1

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            self._send_duplicates(now)
            for node in self._nodes:
                link = node.link
                if link is None:
                    continue
                if node.whims is not None and node.whims.held_back is not None:
                    self._send_held_back(node, link, node.whims, now)
                if node.outbox.is_overdue(now):
                    self._send_again(node, link, now)
                elif now - node.written_at > PING_AFTER_S:
                    node.written_at = now
                    link.write(wire.PINGREQ)

    def _send_held_back(self, node: Node, link: Link, whims: Whims, now: float) -> None:
        if whims.held_back is not None and now - whims.held_back[1] > SOON_S:
            self._send_oddly(node, link, whims, [], now)

    def _send_again(self, node: Node, link: Link, now: float) -> None:
        """Say everything once more; on a new connection if even the broker does not answer."""
        if link.is_dead(now):
            link.transport.abort()
            return
        node.outbox.send_again(now, self._chance)
        self._send(node, link, now)

    def _start_connecting(self, node: Node, delay_s: float) -> None:
        task = asyncio.create_task(self._connect(node, delay_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, node: Node, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            link: Link | None = None
            async with self._slots:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        link = await self._open(node)
                        await link.opened
                except (OSError, wire.ProtocolError, TimeoutError):
                    if link is not None:
                        with contextlib.suppress(asyncio.CancelledError):
                            link.transport.abort()
                else:
                    break
            node.attempts += 1
            delay_s = self._backoff_s(node)
        link.read_by_poll()
        if link.transport.is_closing():
            self._start_connecting(node, self._backoff_s(node))
            return
        node.attempts = 0
        self.counts.connections += 1
        outbox = node.outbox
        outbox.rewind()
        if node.whims is not None:
            node.whims.held_back = None
        link.next_puback = link.sent_until = outbox.first
        node.link = link
        if outbox.sent_until > outbox.first:
            self.counts.sent_again += min(outbox.sent_until, outbox.end) - outbox.first
        self._send(node, link, time.monotonic())

    async def _open(self, node: Node) -> Link:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.settings.host.startswith("127."):
                sock.bind((f"127.0.0.{2 + node.index // NODES_PER_ADDRESS}", 0))
            await loop.sock_connect(sock, (self.settings.host, self.settings.port))
            _, link = await loop.create_connection(lambda: Link(self, node, sock), sock=sock)
        except BaseException:
            sock.close()
            raise
        return link

    def _backoff_s(self, node: Node) -> float:
        longest = min(BACKOFF_FIRST_S * 2**node.attempts, BACKOFF_MAX_S)
        return self._chance.uniform(0.3 * longest, longest)

    def lost(self, node: Node, link: Link) -> None:
        """Called by a link whose connection has ended."""
        if node.link is not link:
            return
        node.link = None
        if not self._closing:
            self.counts.connection_losses += 1
            self._start_connecting(node, self._backoff_s(node))


def allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, or SwarmError if the machine forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SwarmError(
            f"this machine allows {hard} open files a process and {wanted} are needed; "
            "raise `ulimit -Hn` or take fewer devices"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def new_record(settings: SwarmSettings, folder: Path) -> Record:
    """A record in `folder`, named after the run."""
    folder.mkdir(parents=True, exist_ok=True)
    return Record(folder / f"{settings.home}.swarm", settings.header())
