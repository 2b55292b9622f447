"""The same month with several numbers of workers and other orders of arrival: the same bills?"""

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from infra.bench.log import LogWriter
from infra.local import Stack, StackSettings, start
from infra.local.parts import Progress
from infra.local.programs import OWN, SERVERS, instances
from infra.trials.street import Street, street
from schemas.units import SECOND_US
from sinks.finality import Missing, wait_final
from streams.billing.job import Billing, BillingSettings
from streams.tariffs.loading import known_tariffs

TICK_S = 300
LAST_TICKS_S = 2 * 3600
FINAL_WITHIN_S = 3 * 3600.0
TOLD_EACH = 100_000
SMALL_TRANSACTIONS = {"METERSTREAM_WORKER_MOST_RECORDS": "2000"}
"""A full log's transaction holds hours of late readings, each a window anew; it may take 60 s."""


@dataclass(frozen=True)
class Replay:
    """One run. `sha256` is that of all its bills; `differing` are homes whose bill, or any quarter
    hour of it, is another than by the register alone.
    """

    workers: int
    records: int
    filled_s: float
    streamed_s: float
    sha256: str
    differing: list[str]


@dataclass(frozen=True)
class BillTrial:
    """`sha256` is that of the bills made from the registers alone, without any server."""

    seed: int
    homes: int
    step_s: int
    readings: int
    sha256: str
    replays: list[Replay] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(one.sha256 == self.sha256 and not one.differing for one in self.replays)


def run_trial(
    readings: int, homes: int, workers: Sequence[int], seed: int, progress: Progress
) -> BillTrial:
    """Replay the month once for each number of workers, each on a stack of its own.

    Raises StackError, NotFinal, and ValueError for more readings than a month has seconds.
    """
    homes_of_it = street("home", readings, homes, seed)
    month = homes_of_it.month
    wanted = {home_id: bill.sha256 for home_id, bill in homes_of_it.bills().items()}
    trial = BillTrial(seed, homes, month.step_s, month.readings, _sum_of(wanted))
    for run, count in enumerate(workers, 1):
        told = partial(_tell, progress, f"{count} workers, run {run} of {len(workers)}")
        with _servers(count, told) as stack:
            trial.replays.append(_replay(stack, homes_of_it, wanted, (seed, run), told))
    return trial


def _tell(progress: Progress, where: str, text: str) -> None:
    progress(f"{where}: {text}")


@contextmanager
def _servers(workers: int, progress: Progress) -> Iterator[Stack]:
    """Servers with topics and tables; workers and roll-up are known, and do not run yet."""
    with tempfile.TemporaryDirectory(prefix="meterstream-trial-") as folder:
        settings = StackSettings.free(Path(folder) / "stack").model_copy(
            update={"workers": workers}
        )
        stream = [one for one in OWN if one.name in ("worker", "rollup")]
        small = {
            one.name: SMALL_TRANSACTIONS
            for program in stream
            for one in instances(program, settings)
        }
        stack = Stack(settings, [*SERVERS, *stream], small)
        try:
            start(settings, SERVERS, progress).prepare(progress)
            yield stack
        finally:
            stack.wipe(progress)


def _replay(
    stack: Stack,
    homes: Street,
    wanted: Mapping[str, str],
    shuffled_by: tuple[int, int],
    progress: Progress,
) -> Replay:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        homes.set_up(conn)
        begun = time.monotonic()
        records = fill(stack.kafka_bootstrap, homes, shuffled_by, progress)
        filled_s, begun = time.monotonic() - begun, time.monotonic()
        stack.up(progress)

        def missing(what: Missing) -> None:
            progress(f"streaming: {what}")

        wait_final(
            stack.database_url,
            stack.kafka_bootstrap,
            homes.addresses,
            timeout_s=FINAL_WITHIN_S,
            progress=missing,
        )
        streamed_s = time.monotonic() - begun
        progress("billing")
        issued = _issued(conn)
        differing = {one for one in wanted.keys() | issued if wanted.get(one) != issued.get(one)}
        differing |= homes.other_ledgers(conn)
    return Replay(
        stack.settings.workers,
        records,
        round(filled_s, 1),
        round(streamed_s, 1),
        _sum_of(issued),
        sorted(differing),
    )


def fill(bootstrap: str, homes: Street, shuffled_by: tuple[int, int], progress: Progress) -> int:
    """Write the month into the raw log as it arrives, with ticks; returns how many records."""
    out, records, tick_s = LogWriter(bootstrap), 0, homes.month.at_s(0)
    for arrival in homes.month.arrivals(*shuffled_by):
        while tick_s * SECOND_US < arrival.received_us:
            out.tick(tick_s)
            tick_s += TICK_S
        homes.write(out, [arrival])
        records += 1
        if records % TOLD_EACH == 0:
            progress(f"filling the log: {records:,} records")
    for at_s in range(tick_s, tick_s + LAST_TICKS_S, TICK_S):
        out.tick(at_s)
    out.flush()
    return records


def _issued(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Issue what is due: the hash of each home's bill."""
    settings = BillingSettings.model_validate({"billing_quiet_s": 0})
    issued = Billing(known_tariffs(), "trial", settings).work_off(conn, datetime.now(UTC))
    return {bill.home_id: bill.sha256 for bill in issued}


def _sum_of(bills: Mapping[str, str]) -> str:
    text = "".join(f"{home} {sha256}\n" for home, sha256 in sorted(bills.items()))
    return hashlib.sha256(text.encode()).hexdigest()
