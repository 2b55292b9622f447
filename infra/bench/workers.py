"""Stream workers on a full log: readings/s, and what each reading costs which process."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from infra.bench.cpu import Clock, CpuLog, of_process, of_tree
from infra.bench.log import Log
from infra.local import Stack
from infra.local.settings import PROJECT_ROOT

LOOK_S = 0.1
STREAMED = (
    "readings", "usage_1m", "gap_energy", "channel_state", "window_dirty", "stream_progress",
    "announcement", "refused", "rollup_dirty",
)  # fmt: skip


class TooShort(ValueError):
    """The log was taken before it could be timed; it needs more readings."""


def forget(stack: Stack) -> None:
    """Empty what workers have stored."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f"TRUNCATE {', '.join(STREAMED)}")


def settle(stack: Stack) -> None:
    """Write out what earlier work has left, so that the next does not pay for it."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute("CHECKPOINT")


def server_clocks(stack: Stack) -> dict[str, Clock]:
    """Of PostgreSQL with all its backends, and of Kafka."""
    return {
        "postgres": of_tree(stack.server_pid("timescale")),
        "kafka": of_process(stack.server_pid("kafka")),
    }


def measure(
    stack: Stack, log: Log, workers: int, *, timeout_s: float, skip: float = 0.0
) -> dict[str, float]:
    """Start workers on the full log; their time runs from the first commit to the last.

    `skip` leaves out that share of the log at its begin. CPU is that of the same stretch, in µs a
    reading: all workers together, PostgreSQL, Kafka, and their sum. Raises TooShort, TimeoutError.
    """
    settle(stack)
    with (
        psycopg.connect(stack.database_url, autocommit=True) as conn,
        _running(stack, workers) as pids,
    ):
        clocks = server_clocks(stack)
        clocks |= {f"worker {n}": of_process(pid) for n, pid in enumerate(pids)}
        with CpuLog(clocks) as cpu:
            samples = list(_until_done(conn, log, timeout_s))
    least = max(1.0, skip * log.records)
    begun_s, begun = next(sample for sample in samples if sample[1] >= least)
    ended_s, ended = samples[-1]
    if begun == ended:
        raise TooShort(f"{log.readings:,} readings are stored before they can be timed: take more")
    readings = log.readings * (ended - begun) / log.records
    used = cpu.used_s(begun_s, ended_s)
    micros = {name: seconds / readings * 1e6 for name, seconds in used.items()}
    worker = sum(micros[f"worker {n}"] for n in range(workers))
    return {
        "readings_per_s": readings / (ended_s - begun_s),
        "cpu_us_per_reading": worker,
        "postgres_us_per_reading": micros["postgres"],
        "kafka_us_per_reading": micros["kafka"],
        "all_us_per_reading": worker + micros["postgres"] + micros["kafka"],
    }


@contextmanager
def _running(stack: Stack, workers: int) -> Iterator[Sequence[int]]:
    """The process ids of so many new workers, in a group of their own."""
    group = f"bench-{uuid.uuid4().hex[:8]}"
    with (stack.log_dir / "bench-worker.log").open("ab") as output:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "streams"],
                cwd=PROJECT_ROOT,
                env={
                    **os.environ,
                    **stack.environment(),
                    "METERSTREAM_METRICS_PORT": "0",
                    "METERSTREAM_INSTANCE": str(number),
                    "METERSTREAM_WORKER_GROUP": group,
                },
                stdout=output,
                stderr=output,
            )
            for number in range(workers)
        ]
        try:
            yield [one.pid for one in running]
        finally:
            for one in running:
                one.kill()
            for one in running:
                one.wait()


def _until_done(
    conn: psycopg.Connection[tuple[int, int]], log: Log, timeout_s: float
) -> Iterator[tuple[float, int]]:
    """(instant, records taken) until the log's end is reached."""
    deadline = time.monotonic() + timeout_s
    while True:
        rows = conn.execute("SELECT part, next_offset FROM stream_progress").fetchall()
        taken = sum(min(offset, log.ends[part]) for part, offset in rows)
        yield time.monotonic(), taken
        if taken == log.records:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers took {taken} of {log.records} records in time")
        time.sleep(LOOK_S)
