"""A fuzz of a running stack: bad messages in batches, behind each a good one, and then the sums."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import psycopg

from infra.fuzz.oracle import Oracle, RawRecord, Tally
from infra.fuzz.peers import STUCK_S, GoodNode, Publisher, Reader, Stuck, dead_letter, raw_record
from infra.fuzz.plan import Plan, Shot
from infra.local.stack import Stack
from schemas.topics import RAW, RAW_DLQ
from sinks.finality import log_ends, records_behind

BATCH = 500
GOOD_WITHIN_S = 1.0
WARM_BATCHES = 2  # caches fill, Python compiles
GROWTH = 1.10  # of a resident size, from the first third of the batches to the last
GROWTH_MIB = 16.0
_MIB = 1024 * 1024
WATCHED = ("uplink", "worker")

Progress = Callable[[int, int], None]
"""Told after each batch: messages sent, and failures."""


@dataclass(frozen=True)
class Size:
    """Resident MiB of a process: medians of the first and the last third, and the most seen."""

    first: float
    last: float
    most: float

    @property
    def is_flat(self) -> bool:
        return self.last <= max(self.first * GROWTH, self.first + GROWTH_MIB)


@dataclass
class FuzzReport:
    """What became of the messages of a seed. `ok`: all accounted for, and nobody was disturbed.

    `good_ms`: from the publish of a good message, right behind a batch of bad ones, until its row
    is there for everybody: the median, the 95th percentile and the most.
    """

    seed: int
    tally: Tally
    good_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sizes: dict[str, Size] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)
    addresses: int = 0
    rows_counted: int = 0
    seconds: float = 0.0
    stuck: str = ""

    @property
    def troubles(self) -> list[str]:
        """Why it is not ok, beside the tally's own failures."""
        tally, found = self.tally, []
        if self.stuck:
            found.append(self.stuck)
        if tally.records != tally.accounted:
            found.append(f"{tally.records} records, but {tally.accounted} accounted for")
        if self.rows_counted != tally.rows:
            found.append(f"{self.rows_counted} new rows stored, but {tally.rows} were said")
        found += [f"{name} was started anew" for name in self.restarted]
        found += [f"{name} grew: {s}" for name, s in self.sizes.items() if not s.is_flat]
        if self.good_ms[0] > GOOD_WITHIN_S * 1000:
            found.append(f"every other good message took {self.good_ms[0]:.0f} ms or more")
        return found

    @property
    def ok(self) -> bool:
        return not self.tally.failed and not self.troubles

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {"ok": self.ok, "troubles": self.troubles, **asdict(self)}


class Fuzz:
    """One run against a stack in which nobody else speaks."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._plan = Plan(seed)
        self._conn = psycopg.connect(stack.database_url, autocommit=True)
        self._oracle = Oracle(self._conn)
        self._readers = {
            name: Reader(stack.kafka_bootstrap, name) for name in (RAW.name, RAW_DLQ.name)
        }
        self._publisher = Publisher(stack)
        self._good = GoodNode(self._conn, self._publisher, f"fuzz-{seed}")
        self._sizes: dict[str, list[float]] = {}
        self._report = FuzzReport(seed, self._oracle.tally)

    def run(self, payloads: int, progress: Progress = lambda sent, failed: None) -> FuzzReport:
        """Send so many messages, a batch at a time; stops early when nothing goes on."""
        report, started = self._report, time.monotonic()
        began_us = time.time_ns() // 1000
        before = self._processes()
        good_ms: list[float] = []
        try:
            self._good.be_heard()
            began_us = time.time_ns() // 1000
            for done in range(0, payloads, BATCH):
                count = min(BATCH, payloads - done)
                self._batch(self._plan.batch(count, time.time_ns() // 1000), good_ms)
                self._weigh(before)
                progress(done + count, report.tally.failed)
        except Stuck as error:
            report.stuck = str(error)
        else:
            self._batch(self._plan.clear_retained(), good_ms)
        finally:
            self._publisher.close()
        if good_ms:
            ranked = sorted(good_ms)
            report.good_ms = (median(ranked), ranked[len(ranked) * 95 // 100], ranked[-1])
        report.restarted = self._changed(before)
        report.sizes = {name: size_of(all_) for name, all_ in self._sizes.items()}
        report.addresses = len(self._plan.addresses)
        report.rows_counted = self._rows_since(began_us)
        report.seconds = time.monotonic() - started
        self._conn.close()
        return report

    def _batch(self, planned: Iterable[Shot], good_ms: list[float]) -> None:
        begin = {name: log_ends(self._stack.kafka_bootstrap, name) for name in self._readers}
        shots = list(planned)
        for shot in shots:
            self._publisher.publish(shot)
        self._publisher.flush()
        good, took_ms = self._good.say()
        good_ms.append(took_ms)
        sent = [(shot.topic, shot.payload) for shot in (*shots, good)]
        ends = log_ends(self._stack.kafka_bootstrap)
        self._wait_stored(ends)
        records = [
            record
            for message in self._readers[RAW.name].read(begin[RAW.name], ends)
            if (record := raw_record(message)) is not None
        ]
        self._oracle.account(sent, records, self._dead_letters(begin[RAW_DLQ.name], records))

    def _dead_letters(self, begin: dict[int, int], records: Sequence[RawRecord]) -> list[RawRecord]:
        """Announced after the commit: waited for, for a moment."""
        places = [record.place for record in records]
        ((wanted,),) = self._conn.execute(
            "SELECT count(*) FROM refused JOIN unnest(%s::int[], %s::bigint[]) AS v "
            "(part, log_offset) USING (part, log_offset)",
            [[part for part, _ in places], [offset for _, offset in places]],
        ).fetchall()
        deadline = time.monotonic() + 10
        while True:
            ends = log_ends(self._stack.kafka_bootstrap, RAW_DLQ.name)
            there = sum(ends[part] - begin[part] for part in ends)
            if there >= wanted or time.monotonic() > deadline:
                return [dead_letter(m) for m in self._readers[RAW_DLQ.name].read(begin, ends)]
            time.sleep(0.05)

    def _wait_stored(self, ends: dict[int, int]) -> None:
        deadline = time.monotonic() + STUCK_S
        while behind := records_behind(self._conn, ends):
            if time.monotonic() > deadline:
                raise Stuck(f"{behind} records not stored within {STUCK_S:.0f} s: {self._next()}")
            time.sleep(0.02)

    def _next(self) -> str:
        """The records at which the stream stands."""
        rows = self._conn.execute(
            "SELECT part, next_offset FROM stream_progress WHERE topic = %s ORDER BY part",
            [RAW.name],
        ).fetchall()
        ends = log_ends(self._stack.kafka_bootstrap)
        begin = {part: offset for part, offset in rows if offset < ends[part]}
        until = {part: min(offset + 5, ends[part]) for part, offset in begin.items()}
        found = self._readers[RAW.name].read(begin, until)
        shown = [r for m in found if (r := raw_record(m)) is not None][:10]
        return "; ".join(f"{r.place} {r.topic!r} {r.payload[:200]!r}" for r in shown)

    # ---- processes

    def _processes(self) -> dict[str, tuple[int | None, int]]:
        return {one.name: (one.pid, one.restarts) for one in self._stack.status()}

    def _changed(self, before: dict[str, tuple[int | None, int]]) -> list[str]:
        now = self._processes()
        return [name for name, told in before.items() if now.get(name) != told]

    def _weigh(self, processes: dict[str, tuple[int | None, int]]) -> None:
        for name, (pid, _) in processes.items():
            if name.startswith(WATCHED) and pid is not None:
                try:
                    self._sizes.setdefault(name, []).append(resident_mib(pid))
                except FileNotFoundError:  # gone: told as started anew
                    continue

    def _rows_since(self, began_us: int) -> int:
        addresses = [*self._plan.addresses, self._good.address]
        ((count,),) = self._conn.execute(
            "SELECT count(*) FROM readings JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = ANY(%s) AND received_at >= from_us(%s)",
            [addresses, began_us],
        ).fetchall()
        return int(count)


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


def size_of(sizes: Sequence[float]) -> Size:
    steady = sizes[WARM_BATCHES:] if len(sizes) > 3 * WARM_BATCHES else sizes
    third = max(1, len(steady) // 3)
    first, last, most = median(steady[:third]), median(steady[-third:]), max(sizes)
    return Size(round(first, 1), round(last, 1), round(most, 1))
