"""A worker that is stopped inside its transaction, and the one that takes its place meanwhile."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from infra.chaos.plan import Planned
from infra.chaos.rig import Rig, Struck
from infra.local import processes
from infra.local.servers import wait_until
from infra.local.settings import PROJECT_ROOT
from schemas.topics import RAW

MOST_TRIES = 300
SETTLE_S = 0.1  # a COMMIT under way is over after it
TAKEN_WITHIN_S = 90.0
ENDS_WITHIN_S = 60.0
LEAVES_WITHIN_S = 60.0

_INSIDE = """
SELECT pid FROM stream_progress AS p JOIN pg_locks AS l USING (pid)
WHERE l.relation = 'stream_progress'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted LIMIT 1
"""
_STANDING = "SELECT part, epoch, next_offset FROM stream_progress WHERE topic = %s ORDER BY 1"


class ZombieError(Exception):
    """What a stopped worker must not do, or a replacement must; the text says which."""


def zombie(rig: Rig, planned: Planned) -> Struck:
    """Stop the worker inside a transaction, start another of the same name, wake the first.

    Returns the start of the replacement as the fault's end. Raises ZombieError if the replacement
    does not take all partitions, or the zombie does anything but end.
    """
    name = planned.target
    pid = rig.stack.pid(name)
    resume, backend = stop_inside(rig, name, random.Random(planned.draw))
    stopped_at = time.monotonic()
    notes: dict[str, object] = {}
    try:
        before = _epochs(rig)
        with _replacement(rig) as (process, started_at):
            wait_until(
                lambda: _all_taken(rig, before) or process.poll() is not None,
                timeout_s=TAKEN_WITHIN_S,
            )
            if not _all_taken(rig, before):
                raise ZombieError("the replacement has not taken over; see replacement.log")
            notes["taken_over_s"] = round(time.time() - started_at, 2)
            assert rig.load is not None
            recovery_s = rig.load.wait_until_stored(started_at, nodes=1)
            rig.load.wait_until_stored(started_at)
            time.sleep(max(0.0, stopped_at + planned.lasts_s - time.monotonic()))
            notes["stopped_s"] = round(time.monotonic() - stopped_at, 1)
            notes["zombies_transaction"] = _transaction(rig, backend)
            owners = _epochs(rig)
            resume()
            woken_at = time.monotonic()
            if not wait_until(lambda: not _runs(pid), timeout_s=ENDS_WITHIN_S):
                raise ZombieError(f"the zombie goes on {ENDS_WITHIN_S:.0f} s after SIGCONT")
            notes["zombie_ended_s"] = round(time.monotonic() - woken_at, 2)
            notes["zombie_said"] = _last_words(rig, name)
            if _epochs(rig) != owners:
                raise ZombieError("the zombie has taken partitions back")
    finally:
        resume()
    return Struck(started_at, notes, recovery_s)


def stop_inside(rig: Rig, name: str, chance: random.Random) -> tuple[Callable[[], None], int]:
    """SIGSTOP the worker so that a transaction of it stays open; returns what wakes it, and the
    backend of the transaction. Raises ZombieError if that never succeeds."""
    with psycopg.connect(rig.stack.database_url, autocommit=True) as conn:
        for _ in range(MOST_TRIES):
            resume = processes.pause(rig.stack, name)
            time.sleep(SETTLE_S)
            row = conn.execute(_INSIDE).fetchone()
            if row is not None:
                return resume, row[0]
            resume()
            time.sleep(chance.uniform(0.005, 0.06))
    raise ZombieError(f"{name} was never caught inside a transaction; is there any load?")


@contextlib.contextmanager
def _replacement(rig: Rig) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Another worker of the same name, beside the supervised one, and when it started."""
    environment = {
        **os.environ,
        **rig.stack.environment(),
        "METERSTREAM_INSTANCE": "0",
        "METERSTREAM_METRICS_PORT": "0",
    }
    log = rig.stack.log_dir / "replacement.log"
    with log.open("ab") as output:
        started_at = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "streams"],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process, started_at
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LEAVES_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _epochs(rig: Rig) -> dict[int, int]:
    return {part: epoch for part, epoch, _ in rig.query(_STANDING, RAW.name)}


def _all_taken(rig: Rig, before: dict[int, int]) -> bool:
    return all(epoch != before[part] for part, epoch in _epochs(rig).items())


def _transaction(rig: Rig, backend: int) -> str:
    found = rig.query("SELECT state FROM pg_stat_activity WHERE pid = %s", backend)
    return found[0][0] if found else "ended"


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _last_words(rig: Rig, name: str) -> str:
    """Why the worker says that it ends."""
    lines = (rig.stack.log_dir / f"{name}.log").read_text(errors="replace").splitlines()
    said = [line for line in lines[-200:] if "worker stops" in line or "already running" in line]
    return said[-1][:300] if said else ""
