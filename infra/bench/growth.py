"""What a reading costs as devices and stored rows become more.

Each size has a stack of its own, and a full log of one channel a device, 12 readings a minute. All
have the same number of readings, so with 100,000 devices the log is minutes long, with 1,000 hours.
The first third of a log warms up and is not counted: a worker meets every device in it. In the rest
one window to twelve readings completes whatever the size: of three minutes, two are counted, in
which the first two windows complete.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import psycopg

from infra.bench import log, workers
from infra.bench.results import Row, Taken, costing_times, rows_of
from infra.local import Stack
from infra.local.parts import Progress
from schemas.reading import VALUE_NAMES

STORED_DEVICES = 1000
WARM_UP = 1 / 3
LEAST_ROUNDS = 36  # 3 minutes
ROWS_AT_ONCE = 1_000_000
BYTES_PER_ROW = 300  # with index; as much again for the write-ahead log and to spare
TIMEOUT_S = 1800.0

Servers = Callable[[], AbstractContextManager[Stack]]
"""Makes a stack of the three servers with an empty state, gone after the block."""

_HISTORY = f"""
INSERT INTO readings (channel_id, measured_at, received_at, log_offset, seq, clock, source,
                      {", ".join(VALUE_NAMES)})
SELECT channel_id, at, at + interval '50 ms', n, n, 0, 0,
       {
    ", ".join(
        "NULL"
        if name in ("interval_s", "interval_import_wh", "humidity_percent")
        else "n"
        if name == "import_total_wh"
        else f"{place} + n %% 977"
        for place, name in enumerate(VALUE_NAMES)
    )
}
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
     LATERAL (SELECT to_timestamp(%(begin_s)s::bigint + n * %(step_s)s::int) AS at) AS t,
     channel
"""


def measure_devices(
    servers: Servers,
    sizes: Sequence[int],
    readings: int,
    workers_count: int,
    repeats: int,
    progress: Progress,
) -> list[Row]:
    """Cost a reading by number of devices. All logs hold the readings that the largest needs."""
    readings = max(readings, LEAST_ROUNDS * max(sizes))
    taken = []
    for repeat in range(1, repeats + 1):
        for devices in sizes:
            progress(f"{devices:,} devices, {repeat} of {repeats}")
            with servers() as stack:
                filled = log.fill(stack, readings, devices, progress)
                figures = _timed(stack, filled, workers_count)
            minutes = filled.readings / devices * log.STEP_S / 60
            note = f"{filled.readings:,} readings, {minutes:,.1f} minutes of log"
            taken.append(Taken(f"{devices:,} devices", figures, note))
    return costing_times(rows_of(taken), f"{sizes[0]:,} devices", "all_us_per_reading")


def measure_stored(
    servers: Servers,
    sizes: Sequence[int],
    readings: int,
    workers_count: int,
    repeats: int,
    progress: Progress,
) -> list[Row]:
    """Cost a reading by how many rows `readings` holds: the same channels' past, 5 s apart."""
    taken = []
    for repeat in range(1, repeats + 1):
        for wanted in sizes:
            progress(f"{wanted:,} rows stored, {repeat} of {repeats}")
            with servers() as stack:
                stored = min(wanted, _room(stack))
                filled = log.fill(stack, readings, STORED_DEVICES, progress)
                store_history(stack, stored, filled.start_s, progress)
                figures = _timed(stack, filled, workers_count)
            note = f"{STORED_DEVICES:,} devices, {filled.readings:,} readings"
            if stored < wanted:
                note += f"; the disk has room for {stored:,} rows only"
            taken.append(Taken(f"{wanted:,} rows stored", figures, note))
    return costing_times(rows_of(taken), f"{sizes[0]:,} rows stored", "all_us_per_reading")


def _timed(stack: Stack, filled: log.Log, workers_count: int) -> dict[str, float]:
    return workers.measure(stack, filled, workers_count, timeout_s=TIMEOUT_S, skip=WARM_UP)


def _room(stack: Stack) -> int:
    """So many rows may be stored without filling the disk, in whole rounds of the devices."""
    free = shutil.disk_usage(stack.settings.state_dir).free
    return free // 2 // BYTES_PER_ROW // STORED_DEVICES * STORED_DEVICES


def store_history(stack: Stack, rows: int, end_s: int, progress: Progress) -> None:
    """Whole rounds of all channels, 5 s apart, up to `end_s`; in the order of time."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        counted = conn.execute("SELECT count(*) FROM channel").fetchone()
        assert counted is not None
        rounds = rows // counted[0]
        begin_s = end_s - (rounds + 1) * log.STEP_S
        for first, last in _portions(rounds, max(1, ROWS_AT_ONCE // counted[0])):
            conn.execute(
                _HISTORY, {"first": first, "last": last, "begin_s": begin_s, "step_s": log.STEP_S}
            )
            progress(f"storing the past: {last * counted[0]:,} of {rows:,} rows")
        conn.execute("ANALYZE readings")


def _portions(total: int, at_once: int) -> Iterator[tuple[int, int]]:
    """[first, last] of 1 to `total`."""
    for first in range(1, total + 1, at_once):
        yield first, min(first + at_once - 1, total)
