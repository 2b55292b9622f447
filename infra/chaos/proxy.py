"""A TCP proxy for one hop, with everything a bad network does to it.

    with Proxies({"uplink-kafka": 9092}) as proxies:
        port = proxies["uplink-kafka"].port    # connect here in place of 9092
        proxies["uplink-kafka"].set(Trouble(latency_s=0.2))

The proxies run on an event loop in a thread of their own; the calls are for other threads, and
return when the proxy does as it was told. Without trouble bytes pass as they come.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

MOST_READ = 64 * 1024
QUEUED_CHUNKS = 256
CALL_S = 10.0
_RST_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


@dataclass(frozen=True)
class Trouble:
    """What happens to the bytes of both directions while it is set.

    `latency_s` and up to `jitter_s` more are added to each chunk, which keep their order;
    `bytes_per_s` is the bandwidth of one direction of one connection. `stalled`: nothing passes.
    `refused`: new connections are reset at once. `corrupt_every`: of so many chunks of at least
    `corrupt_from_bytes` one has a bit flipped in its second half.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    stalled: bool = False
    refused: bool = False
    corrupt_every: int | None = None
    corrupt_from_bytes: int = 512


FINE = Trouble()


class Proxy:
    """One hop. `connections`, `relayed_bytes` and `corrupted` count what has passed."""

    def __init__(self, to_port: int, loop: asyncio.AbstractEventLoop, seed: int = 0) -> None:
        self.to_port = to_port
        self.port = 0
        self.connections = self.relayed_bytes = self.corrupted = 0
        self.trouble = FINE
        self._loop = loop
        self._chance = random.Random(seed)
        self._links: set[_Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None

    # ---- from other threads

    def set(self, trouble: Trouble) -> None:
        """From now on this is what happens."""
        self._call(lambda: self._set(trouble))

    def reset(self) -> int:
        """Cut every connection with an RST to both sides. Returns how many there were."""
        return self._call(lambda: self._each(_Link.reset))

    def half_open(self) -> int:
        """Take the server away from every connection, and let the client believe it is there.

        What the client sends is taken and forgotten; new connections are well. Returns how many
        there were.
        """
        return self._call(lambda: self._each(_Link.half_open))

    # ---- in the loop

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._each(_Link.reset)
        await asyncio.sleep(0)

    def _call(self, what: Callable[[], int]) -> int:
        async def call() -> int:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(CALL_S)

    def _set(self, trouble: Trouble) -> int:
        self.trouble = trouble
        if trouble.stalled:
            self._flows.clear()
        else:
            self._flows.set()
        return 0

    def _each(self, what: "Callable[[_Link], None]") -> int:
        links = list(self._links)
        for link in links:
            what(link)
        return len(links)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.trouble.refused:
            _reset(writer)
            return
        try:
            server = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            _reset(writer)  # as the kernel would: nobody listens there
            return
        self.connections += 1
        link = _Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def passes(self) -> None:
        """Wait while the hop is stalled."""
        await self._flows.wait()

    def delay_s(self) -> float:
        trouble = self.trouble
        if not trouble.latency_s and not trouble.jitter_s:
            return 0.0
        return trouble.latency_s + self._chance.uniform(0, trouble.jitter_s)

    def worn(self, data: bytes) -> bytes:
        """The bytes as they come out."""
        self.relayed_bytes += len(data)
        trouble = self.trouble
        if trouble.corrupt_every is None or len(data) < trouble.corrupt_from_bytes:
            return data
        if self._chance.randrange(trouble.corrupt_every):
            return data
        self.corrupted += 1
        at = self._chance.randrange(len(data) // 2, len(data))
        bit = 1 << self._chance.randrange(8)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection through a proxy."""

    def __init__(self, proxy: Proxy, client: Side, server: Side) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._severed = False

    async def run(self) -> None:
        (from_client, to_client), (from_server, to_server) = self._client, self._server
        for writer in (to_client, to_server):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(
            self._carry(from_client, to_server), self._carry(from_server, to_client)
        )
        to_client.close()
        to_server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: read with the instant at which a chunk is due, write when it is."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        writing = asyncio.create_task(self._write(queue, writer))
        now = asyncio.get_running_loop().time
        try:
            while data := await reader.read(MOST_READ):
                if not self._severed:
                    await queue.put((now() + self._proxy.delay_s(), data))
        except OSError:
            self.reset()
        finally:
            if self._severed:
                writing.cancel()
            else:
                await queue.put((0.0, b""))
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(
        self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        proxy, now = self._proxy, asyncio.get_running_loop().time
        try:
            while True:
                due, data = await queue.get()
                if not data:
                    writer.write_eof()
                    return
                if (early_s := due - now()) > 0:
                    await asyncio.sleep(early_s)
                if proxy.trouble.bytes_per_s is not None:
                    await asyncio.sleep(len(data) / proxy.trouble.bytes_per_s)
                await proxy.passes()
                writer.write(proxy.worn(data))
                await writer.drain()
        except OSError:
            self.reset()

    def reset(self) -> None:
        self._severed = True
        _reset(self._client[1])
        _reset(self._server[1])

    def half_open(self) -> None:
        self._severed = True
        _reset(self._server[1])


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
    writer.transport.abort()


class Proxies:
    """The proxies of some hops (name → port of the server), while the block runs."""

    def __init__(self, hops: Mapping[str, int], seed: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._by_hop = {
            hop: Proxy(port, self._loop, seed + at) for at, (hop, port) in enumerate(hops.items())
        }
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")

    def __getitem__(self, hop: str) -> Proxy:
        return self._by_hop[hop]

    def __enter__(self) -> Self:
        self._thread.start()
        for proxy in self._by_hop.values():
            asyncio.run_coroutine_threadsafe(proxy.start(), self._loop).result(CALL_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async def stop() -> None:
            for proxy in self._by_hop.values():
                await proxy.stop()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(CALL_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
