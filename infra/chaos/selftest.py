"""Can the accounting fail? Each planted loss must turn it red, and the same run without it green.

A stack of its own runs the product. For each plant the same load with the same fault goes through
twice: as the product is, and with the plant; the plain runs come first, as setting a plant takes
restarts. A run ends when every node's last reading is stored: messages of a node keep their order
on the way, so nothing of it comes later.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from infra.chaos.bed import HEALTHY_S, Bed, SelfTestError
from infra.chaos.plants import PLANTS, Plant
from infra.loads.accounting import account_for, claim_devices
from infra.local.errors import StackError
from infra.swarm.swarm import Swarm, SwarmSettings, new_record
from sinks.accounting import Account
from sinks.finality import wait_final

__all__ = ["FAULTS", "Outcome", "SelfTest", "SelfTestError", "Verdict", "selftest", "verdict"]

DEVICES = 40
RATE = 500.0
CONNECT_S = 30.0
DRAIN_S = 60.0
STORED_S = 90.0
WARM_UP_S = 0.5
FINAL_S = 180.0
SAVED_S = 2.5  # longer than the broker waits with saving, as we set it
FROZEN_S = 2.0
LOOK_S, LOOK_FOR_S = 0.02, 4.0
MANY_RECORDS = 150  # a third of a second's; the product stores fewer at once
QUEUED_S = 5.0  # messages of so long are more than 1,000

Told = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What the accounting says of one run. `energy_difference_uwh` is told of the plain run."""

    sent: int
    acked: int
    stored: int
    lost: int
    duplicates: int
    invented: int
    energy_difference_uwh: int | None
    seconds: float

    @property
    def green(self) -> bool:
        return self.sent == self.stored and not (
            self.lost or self.duplicates or self.invented or self.energy_difference_uwh
        )


@dataclass(frozen=True)
class Verdict:
    """One plant: `caught` when its run is red for losses and the plain one is green."""

    name: str
    what: str
    without: str
    caught: bool
    planted: Outcome
    plain: Outcome


@dataclass(frozen=True)
class SelfTest:
    """`ok` when every plant is caught."""

    ok: bool
    seed: int
    seconds: float
    plants: list[Verdict]


def selftest(seed: int, only: Sequence[str] = (), told: Told = lambda text: None) -> SelfTest:
    """Plant the losses of `only` (all, if empty), one after the other.

    Raises SelfTestError, and what the stack and the swarm raise.
    """
    names = [plant.name for plant in PLANTS]
    if unknown := [name for name in only if name not in names]:
        raise SelfTestError(f"no plant {unknown[0]!r}; there are {', '.join(names)}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meterstream-selftest-") as folder:
        bed = Bed(Path(folder))
        try:
            bed.up(told)
            planted = [plant for plant in PLANTS if not only or plant.name in only]
            plain_runs = [_run(bed, plant, seed, is_planted=False, told=told) for plant in planted]
            planted_runs = [_run(bed, plant, seed, is_planted=True, told=told) for plant in planted]
            bed.set(None)
            told("until the usage of the plain runs is final")
            _wait_final(bed, plain_runs)
            told("accounting")
            plants = [
                verdict(plant, plain.account(with_energy=True), run.account())
                for plant, plain, run in zip(planted, plain_runs, planted_runs, strict=True)
            ]
        finally:
            bed.stack.wipe()
    seconds = round(time.monotonic() - began, 1)
    return SelfTest(all(one.caught for one in plants), seed, seconds, plants)


def verdict(plant: Plant, plain: Outcome, planted: Outcome) -> Verdict:
    return Verdict(
        plant.name, plant.what, plant.without, planted.lost > 0 and plain.green, planted, plain
    )


def _run(bed: Bed, plant: Plant, seed: int, *, is_planted: bool, told: Told) -> "_Run":
    told(f"{plant.name}: {'planted' if is_planted else 'as the product is'}")
    run = _Run(bed, plant, seed)  # its devices are registered while the database is sound
    bed.set(plant if is_planted else None)
    return asyncio.run(run.through())


def _wait_final(bed: Bed, runs: "Iterable[_Run]") -> None:
    addresses = [run.settings.address(node) for run in runs for node in range(DEVICES)]
    wait_final(bed.stack.database_url, bed.stack.kafka_bootstrap, addresses, timeout_s=FINAL_S)


# ---------------------------------------------------------------- one run


class _Run:
    """A load, its fault, and what became of its readings."""

    def __init__(self, bed: Bed, plant: Plant, seed: int) -> None:
        self._bed, self.stack = bed, bed.stack
        self._fault = FAULTS[plant.name]
        self.settings = SwarmSettings(
            home=f"selftest-{plant.name}-{datetime.now(UTC):%H%M%S%f}",
            devices=DEVICES,
            rate=RATE,
            seed=seed,
            believe=plant.believe,
            port=self.stack.mqtt_port,
        )
        self._channels = claim_devices(self.stack.database_url, self.settings)
        self._record = new_record(self.settings, bed.records)
        self._seconds = 0.0

    async def through(self) -> "_Run":
        began = time.monotonic()
        async with Swarm(self.settings, self._record) as self.swarm:
            await self.swarm.connect(CONNECT_S)
            began_us = time.time_ns() // 1000
            await self.swarm.run(WARM_UP_S)
            await asyncio.to_thread(self._wait_stored, began_us)
            await self._fault(self)
            await asyncio.to_thread(self._bed.wait_healthy, "uplink")
            await self.drain()
            last_us = await self.swarm.finish()
            await self.drain()
            await asyncio.to_thread(self._wait_stored, last_us)
        self._seconds = round(time.monotonic() - began, 1)
        return self

    # ---- what a fault does

    @asynccontextmanager
    async def speaking(self, seconds: float) -> AsyncIterator[None]:
        """The nodes speak all the while, and to the end of `seconds`."""
        speech = asyncio.create_task(self.swarm.run(seconds))
        try:
            yield
            await speech
        finally:
            speech.cancel()

    async def drain(self) -> None:
        if left := await self.swarm.drain(DRAIN_S):
            raise SelfTestError(f"{left} messages are not acknowledged after {DRAIN_S:.0f} s")

    async def kill(self, name: str) -> None:
        """`kill -9`; at the return it is started again, and a server answers."""
        await asyncio.to_thread(self._kill, name)

    def _kill(self, name: str) -> None:
        before = self.stack.pid(name)
        os.kill(before, signal.SIGKILL)
        until = time.monotonic() + HEALTHY_S
        while self._pid(name) in (None, before):
            if time.monotonic() > until:
                raise SelfTestError(f"{name} was killed and is not started again")
            time.sleep(0.05)
        self.stack.wait_ready(name)

    def _pid(self, name: str) -> int | None:
        try:
            return self.stack.pid(name)
        except StackError:
            return None

    async def stop(self, name: str) -> None:
        await asyncio.to_thread(self.stack.stop_process, name)

    async def start(self, name: str) -> None:
        await asyncio.to_thread(self.stack.start_process, name)

    async def offset_moved(self) -> None:
        """Wait until the offset has just moved by many records at once, or `LOOK_FOR_S`."""
        await asyncio.to_thread(self._wait_moved)

    def _wait_moved(self) -> None:
        until = time.monotonic() + LOOK_FOR_S
        with psycopg.connect(self.stack.database_url, autocommit=True) as conn:
            before = None
            while time.monotonic() < until:
                row = conn.execute("SELECT sum(next_offset) FROM stream_progress").fetchone()
                assert row is not None
                if before is not None and row[0] - before >= MANY_RECORDS:
                    return
                before = row[0]
                time.sleep(LOOK_S)

    # ---- the end

    def _wait_stored(self, since_us: int) -> None:
        """Wait until a reading of every node from this instant on is stored."""
        ids = [channels[0] for channels in self._channels.values()]
        until = time.monotonic() + STORED_S
        with psycopg.connect(self.stack.database_url, autocommit=True) as conn:
            while True:
                row = conn.execute(
                    "SELECT count(DISTINCT channel_id) FROM readings "
                    "WHERE channel_id = ANY(%s) AND measured_at >= from_us(%s)",
                    [ids, since_us],
                ).fetchone()
                if row and row[0] == len(ids):
                    return
                if time.monotonic() > until:
                    raise SelfTestError(
                        f"{self.settings.home}: the newest readings are not stored after "
                        f"{STORED_S:.0f} s; the pipeline does not work"
                    )
                time.sleep(0.2)

    def account(self, *, with_energy: bool = False) -> Outcome:
        found: Account = account_for(self.stack.database_url, self._record.path, self._channels)
        difference = found.windows_difference_uwh + found.ledger_difference_uwh
        return Outcome(
            sent=found.sent,
            acked=found.acked,
            stored=found.stored,
            lost=found.lost,
            duplicates=found.duplicates,
            invented=found.invented,
            energy_difference_uwh=difference if with_energy else None,
            seconds=self._seconds,
        )


# ---------------------------------------------------------------- faults


async def _kill_the_broker_with_a_saved_queue(run: _Run) -> None:
    await run.stop("uplink")
    async with run.speaking(2.0):
        pass
    await run.drain()
    await asyncio.sleep(SAVED_S)
    await run.kill("mosquitto")
    await run.start("uplink")


async def _leave_the_uplink_down(run: _Run) -> None:
    await run.stop("uplink")
    async with run.speaking(QUEUED_S):
        pass
    await run.drain()
    await run.start("uplink")


async def _kill_the_uplink(run: _Run) -> None:
    async with run.speaking(4.0):
        await asyncio.sleep(1.0)
        await run.kill("uplink")


async def _kill_the_uplink_while_kafka_is_frozen(run: _Run) -> None:
    kafka = await asyncio.to_thread(run.stack.server_pid, "kafka")
    async with run.speaking(5.0):
        await asyncio.sleep(1.0)
        os.kill(kafka, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_S)
            await run.kill("uplink")
        finally:
            os.kill(kafka, signal.SIGCONT)


async def _kill_the_database(run: _Run) -> None:
    async with run.speaking(6.0):
        await asyncio.sleep(4.0)
        await run.kill("timescale")


async def _kill_the_worker(run: _Run) -> None:
    async with run.speaking(6.0):
        await run.offset_moved()
        await run.kill("worker")


FAULTS: dict[str, Callable[[_Run], Awaitable[None]]] = {
    "broker-persistence": _kill_the_broker_with_a_saved_queue,
    "short-queue": _leave_the_uplink_down,
    "clean-start": _kill_the_uplink,
    "auto-ack": _kill_the_uplink_while_kafka_is_frozen,
    "asynchronous-commit": _kill_the_database,
    "offset-first": _kill_the_worker,
}
