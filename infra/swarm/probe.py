"""How long from publish to a committed row that somebody else can see: a process of its own.

    python -m infra.swarm.probe <database-url>

Stdout: `ready`, when it can follow. Stdin: frames (`FRAME`) of channel, measured_us and the
monotonic ns at which the message left. While frames are outstanding, a connection that does nothing
else asks for their rows every `PERIOD_S` (250 times a second, and at most half of the time). A
latency ends when the answer that holds the row has come, so it is never told too short; too long
by at most the time since the last question that did not find it, which is told too (`error_ms`).
After the end of stdin the outstanding ones get `LAST_WAIT_S`; then one JSON line:
{"latency_ms": [...], "error_ms": [...], "unseen": n}.

Its own process, because in the swarm's the thread that polls would wait for the interpreter lock,
5 ms at a time. CLOCK_MONOTONIC is the same in all processes of a machine.
"""

import os
import struct
import subprocess
import sys
import time
from itertools import islice
from typing import Any

import msgspec
import psycopg

FRAME = struct.Struct("<iqq")
PERIOD_S = 0.004
MOST_ASKED = 300  # in turn, when more are outstanding: a pipeline that lags is not slowed
LAST_WAIT_S = 10.0
WARM_UPS = 10  # PostgreSQL plans a prepared question anew the first five times
READY = "ready"

_QUESTION = """
SELECT wanted.channel_id, wanted.measured_us
FROM unnest(%s::integer[], %s::bigint[]) AS wanted (channel_id, measured_us)
JOIN readings AS r ON r.channel_id = wanted.channel_id
     AND r.measured_at = from_us(wanted.measured_us)
WHERE r.measured_at >= from_us(%s)
"""
Key = tuple[int, int]


class Latencies(msgspec.Struct):
    latency_ms: list[float]
    error_ms: list[float]
    unseen: int


def watch(database_url: str, source: int) -> Latencies:
    """Follow the frames that come on the file descriptor `source`."""
    os.set_blocking(source, False)
    waiting: dict[Key, int] = {}
    asked: dict[Key, int] = {}
    found = Latencies([], [], 0)
    rest, ended_at = b"", 0.0
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(WARM_UPS):
            _ask(connection, {(0, 0): 0}, {}, found)
        print(READY, flush=True)
        while not ended_at or (waiting and time.monotonic() - ended_at < LAST_WAIT_S):
            begun = time.monotonic()
            if not ended_at:
                try:
                    data = os.read(source, FRAME.size * 4096)
                except BlockingIOError:
                    data = None
                if data == b"":
                    ended_at = begun
                elif data:
                    rest += data
                    whole = len(rest) - len(rest) % FRAME.size
                    for channel_id, measured_us, left_ns in FRAME.iter_unpack(rest[:whole]):
                        key = (channel_id, measured_us)
                        waiting[key] = asked[key] = left_ns
                    rest = rest[whole:]
            if waiting:
                try:
                    _ask(connection, waiting, asked, found)
                except psycopg.OperationalError:  # killed under the load: that is what it is for
                    connection = _reconnected(connection, database_url)
            took = time.monotonic() - begun
            time.sleep(max(PERIOD_S - took, took))
    found.unseen = len(waiting)
    return found


def _reconnected(connection: psycopg.Connection[Any], database_url: str) -> psycopg.Connection[Any]:
    """A new connection, or the broken one once more while the database is away."""
    try:
        found = psycopg.connect(database_url, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        return connection
    connection.close()
    return found


def _ask(
    connection: psycopg.Connection[Any],
    waiting: dict[Key, int],
    asked: dict[Key, int],
    found: Latencies,
) -> None:
    keys = list(islice(waiting, MOST_ASKED))
    asked_ns = time.monotonic_ns()
    rows = connection.execute(
        _QUESTION,
        ([key[0] for key in keys], [key[1] for key in keys], min(key[1] for key in keys)),
        prepare=True,
    ).fetchall()
    seen_ns = time.monotonic_ns()
    for key in rows:
        left_ns = waiting.pop(key)
        found.latency_ms.append((seen_ns - left_ns) / 1e6)
        found.error_ms.append((seen_ns - asked.pop(key)) / 1e6)
    for key in keys:
        if key in waiting:
            asked[key] = asked_ns
            waiting[key] = waiting.pop(key)  # to the end: the others have their turn


class Probe:
    """The probe's process, seen from the swarm. `tell` never waits."""

    def __init__(self, database_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infra.swarm.probe", database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != READY.encode():
            raise RuntimeError("the latency probe did not start; its error stands above")
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        self.untold = 0

    def tell(self, channel_id: int, measured_us: int, left_ns: int) -> None:
        """A message has left. Frames that the probe is too slow to take are left out, counted."""
        try:
            os.write(self._pipe, FRAME.pack(channel_id, measured_us, left_ns))
        except OSError:  # full, or gone
            self.untold += 1

    def end(self) -> Latencies:
        """Wait for the outstanding rows, at most `LAST_WAIT_S`."""
        output, _ = self._process.communicate(timeout=LAST_WAIT_S + 20)
        if self._process.returncode:
            raise RuntimeError(f"the latency probe ended with {self._process.returncode}")
        return msgspec.json.decode(output, type=Latencies)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def percentile(values: list[float], part: float) -> float | None:
    """The least value that `part` of all values do not exceed."""
    if not values:
        return None
    ranked = sorted(values)
    return round(ranked[max(0, -(-len(ranked) * round(part * 1000) // 1000) - 1)], 2)


if __name__ == "__main__":
    print(msgspec.json.encode(watch(sys.argv[1], sys.stdin.fileno())).decode())
