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
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Literal, Self

import msgspec

from infra.swarm import wire
from infra.swarm.meters import Meter
from infra.swarm.outbox import FalseAck, Outbox
from infra.swarm.record import Header, Record
from schemas.homesync import VERSION, Ack, ack_topic, telemetry_topic
from schemas.units import MINUTE_US, SECOND_US

Believe = Literal["ack", "puback"]

KEEPALIVE_S = 60
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
MOST_RECEIVED = 64 * 1024
COMMIT_S = 0.02
IDLE_COMMITS = 10  # without acknowledgements to believe, the record is written so much less often

_decode_ack = msgspec.json.Decoder(Ack).decode
_PUBACK_SUCCESS = b"\x40\x02"
_REFUSED_FROM = 0x80

Sampler = Callable[[int, int, int, int], None]
"""Told of every `sample_every`th message of a run as it leaves: node, seq, measured_us,
monotonic ns."""


class SwarmError(Exception):
    """The swarm cannot do what it was asked; the text is meant for a person."""


@dataclass(frozen=True)
class SwarmSettings:
    """`rate` is in messages a second, of all nodes together."""

    home: str
    devices: int
    rate: float
    seed: int = 1
    phases: int = 1
    believe: Believe = "ack"
    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: str | None = None
    sample_every: int = 0

    def header(self) -> Header:
        return Header(self.home, self.devices, self.phases, self.seed, self.believe)

    def address(self, node: int) -> str:
        return address(self.home, node)


@dataclass
class Counts:
    """`made` readings' messages exist; the others count what became of them."""

    made: int = 0
    published: int = 0  # packets, those sent again too
    sent_again: int = 0
    acked: int = 0
    refused_by_broker: int = 0
    false_acks: int = 0
    connections: int = 0
    connection_losses: int = 0
    run_s: float = 0.0
    cpu_s: float = 0.0


def node_name(index: int) -> str:
    return f"n{index:05d}"


def address(home: str, index: int) -> str:
    return f"homesync:{home}/{node_name(index)}"


class Node:
    """One device: its meter, its outbox, and the connection it has just now."""

    __slots__ = (
        "ack_topic",
        "attempts",
        "body_head",
        "boot",
        "index",
        "link",
        "meter",
        "outbox",
        "topic",
        "written_at",
    )

    def __init__(self, settings: SwarmSettings, index: int, chance: Random) -> None:
        name = node_name(index)
        self.index = index
        self.boot = f"{chance.getrandbits(32):08x}"
        self.topic = wire.text(telemetry_topic(settings.home, name))
        self.ack_topic = ack_topic(settings.home, name)
        self.body_head = b'{"v":%d,"boot":"%b",' % (VERSION, self.boot.encode())
        self.meter = Meter(index, settings.phases, chance)
        self.outbox = Outbox()
        self.link: Link | None = None
        self.attempts = 0
        self.written_at = 0.0


class Link(asyncio.Protocol):
    """One connection of a node. It is the node's `link` from CONNACK until it is lost."""

    __slots__ = (
        "_node",
        "_rest",
        "_sock",
        "_swarm",
        "next_puback",
        "opened",
        "sent_until",
        "transport",
    )

    def __init__(self, swarm: "Swarm", node: Node, sock: socket.socket) -> None:
        self._swarm, self._node, self._sock = swarm, node, sock
        self._rest = b""
        self.next_puback = 0  # seq of the next PUBACK; they come in the order of PUBLISH
        self.sent_until = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        settings = self._swarm.settings
        client_id = f"{settings.home}-{node_name(self._node.index)}"
        self.transport.write(
            wire.connect(client_id, KEEPALIVE_S, settings.username, settings.password)
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionResetError("closed before CONNACK"))
        self._swarm.lost(self._node, self)

    def read_by_poll(self) -> None:
        """From now on nothing is received but by `poll`."""
        self.transport.pause_reading()

    def poll(self) -> None:
        """Take what has come since the last time.

        The event loop would wake up for each PUBACK, at twice the cost of the message it answers.
        """
        try:
            data = self._sock.recv(MOST_RECEIVED)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.data_received(data)
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if len(data) == 4 and data[:2] == _PUBACK_SUCCESS and not self._rest:
            self._pubacked(data[2:])
            return
        try:
            found, self._rest = wire.packets(self._rest + data if self._rest else data)
            for first, body in found:
                self._packet(first, body)
        except (wire.ProtocolError, IndexError) as error:
            if not self.opened.done():
                self.opened.set_exception(error)
            self.transport.abort()

    def _packet(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == wire.PUBACK:
            self._pubacked(body)
        elif kind == wire.PUBLISH:
            _, packet_id, payload = wire.published(first, body)
            if packet_id is not None:
                self.transport.write(wire.puback(packet_id))
            self._acked(payload)
        elif kind == wire.CONNACK:
            if body[1] != 0:
                raise wire.ProtocolError(f"the broker refused the connection: 0x{body[1]:02x}")
            self.transport.write(wire.subscribe(wire.LARGEST_PACKET_ID, self._node.ack_topic))
        elif kind == wire.SUBACK:
            if body[-1] >= _REFUSED_FROM:
                raise wire.ProtocolError(f"the broker refused {self._node.ack_topic}")
            if not self.opened.done():
                self.opened.set_result(None)

    def _pubacked(self, body: bytes) -> None:
        seq = self.next_puback
        if body[0] << 8 | body[1] != _packet_id(seq):
            raise wire.ProtocolError("a PUBACK out of order")
        self.next_puback = seq + 1
        swarm = self._swarm
        if len(body) > 2 and body[2] >= _REFUSED_FROM:
            swarm.counts.refused_by_broker += 1
        elif swarm.by_puback:
            swarm.heard(self._node, seq)

    def _acked(self, payload: bytes) -> None:
        if self._swarm.by_puback:
            return
        try:
            ack = _decode_ack(payload)
        except msgspec.MsgspecError as error:
            raise wire.ProtocolError(f"an acknowledgement that is none: {error}") from error
        if ack.boot == self._node.boot:
            self._swarm.heard(self._node, ack.seq)


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
                node.link.transport.write(wire.DISCONNECT)
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
        self._sampling = settings.sample_every
        try:
            while done < total:
                due = min(total, done + MOST_IN_A_ROW, int((time.perf_counter() - begun) * rate))
                for k in range(done, due):
                    self._measure(nodes[k % count], start_us + int(k * SECOND_US / rate))
                behind, done = due - done == MOST_IN_A_ROW, due
                self._last_us = start_us + int(done * SECOND_US / rate)
                await asyncio.sleep(0 if behind else TICK_S)
        finally:
            self._sampling = 0
            counts.run_s += time.perf_counter() - begun
            counts.cpu_s += time.process_time() - cpu

    async def finish(self) -> int:
        """One more reading of every node, at the next whole minute. Returns its instant in µs.

        With it the minute before has its end, so that its energy is final.
        """
        now_us = max(time.time_ns() // 1000, self._last_us)
        at_us = now_us - now_us % MINUTE_US + MINUTE_US
        for index, node in enumerate(self._nodes):
            self._measure(node, at_us)
            if index % 200 == 199:
                await asyncio.sleep(TICK_S)
        self._last_us = at_us
        return at_us

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

    def _measure(self, node: Node, at_us: int) -> None:
        numbers, body = node.meter.read(at_us)
        outbox = node.outbox
        seq = outbox.add(body)
        now_ns = time.monotonic_ns()
        self._record.sent(node.index, seq, now_ns, at_us, numbers)
        self.counts.made += 1
        if node.link is None:
            return
        every = self._sampling
        if every and self._sampler is not None and self.counts.made % every == 0:
            self._sampler(node.index, seq, at_us, now_ns)
        self._send(node, node.link, now_ns / 1e9)

    def _send(self, node: Node, link: Link, now: float) -> None:
        batch = node.outbox.take(now)
        if not batch:
            return
        first, head, topic = node.outbox.first, node.body_head, node.topic
        packets = [
            wire.publish(
                topic, _packet_id(seq), b'%b"seq":%d,"first":%d,%b' % (head, seq, first, body)
            )
            for seq, body in batch
        ]
        counts = self.counts
        counts.published += len(packets)
        start = batch[0][0]
        if start < link.sent_until:
            counts.sent_again += len(packets)
            link.next_puback = start
        link.sent_until = start + len(packets)
        node.written_at = now
        link.transport.write(packets[0] if len(packets) == 1 else b"".join(packets))

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
        at, before, owed = 0, time.perf_counter(), 0.0
        while True:
            await asyncio.sleep(POLL_TICK_S)
            now = time.perf_counter()
            owed = min(count, owed + (now - before) * rate)
            before = now
            for _ in range(int(owed)):
                link = nodes[at].link
                at = at + 1 if at + 1 < count else 0
                if link is not None:
                    link.poll()
            owed %= 1

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for node in self._nodes:
                link = node.link
                if link is None:
                    continue
                if node.outbox.is_overdue(now):
                    self._send_again(node, link, now)
                elif now - node.written_at > PING_AFTER_S:
                    node.written_at = now
                    link.transport.write(wire.PINGREQ)

    def _send_again(self, node: Node, link: Link, now: float) -> None:
        """Say everything once more; on a new connection if even the broker does not answer."""
        if link.next_puback < link.sent_until:
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


def _packet_id(seq: int) -> int:
    """1…65534: the last one belongs to SUBSCRIBE."""
    return seq % (wire.LARGEST_PACKET_ID - 1) + 1


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
