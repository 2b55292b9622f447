"""The disk below: how long it takes to have something, with nothing else running."""

import os
import shutil
import time
from pathlib import Path

import numpy as np

from infra.bench.results import Row, spread

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 6 * 2**30
"""For what the loads of the latencies leave in Kafka and the database."""
SECONDS = 20.0
_PAGE_BYTES, _FILE_BYTES, _PERIOD_S = 8_192, 2**24, 0.02


def row(folder: Path, seconds: float = SECONDS) -> Row:
    """`fdatasync` of a page of a file that is there already, as of the database's log, 50 times a
    second: what each commit waits for.
    """
    waited_ms = sync_ms(folder, seconds)
    p50, p95, p99 = np.percentile(waited_ms, [50, 95, 99])
    figures = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    return Row(
        "the disk alone",
        {name: spread([float(value)]) for name, value in figures.items()},
        note=f"fdatasync of {_PAGE_BYTES:,} bytes, {len(waited_ms):,} times; "
        f"at most {max(waited_ms):.0f} ms",
    )


def sync_ms(folder: Path, seconds: float) -> list[float]:
    path = folder / "disk"
    with path.open("wb") as file:
        file.write(bytes(_FILE_BYTES))
        os.fsync(file.fileno())
        waited_ms = []
        for number in range(round(seconds / _PERIOD_S)):
            os.pwrite(file.fileno(), os.urandom(_PAGE_BYTES), number * _PAGE_BYTES % _FILE_BYTES)
            begun_s = time.monotonic()
            os.fdatasync(file.fileno())
            waited_ms.append((time.monotonic() - begun_s) * 1000)
            time.sleep(_PERIOD_S)
    path.unlink()
    return waited_ms


def memory_has_room() -> bool:
    """Whether there is a file system in memory, and room for the latencies' loads in it."""
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES
