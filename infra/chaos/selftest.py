"""Can the accounting fail? Each planted loss must turn it red, and the same run without it green.

A stack of its own runs the product. For each plant the same load with the same fault goes through
twice: as the product is, and with the plant. A run ends when every node's last reading is stored:
messages of a node keep their order on the way, so nothing of it comes later.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg

from infra.chaos.plants import MODULES, PLANT_FILE, PLANTS, Plant
from infra.loads.accounting import account_for, claim_devices
from infra.local import Stack, StackSettings
from infra.local.errors import StackError
from infra.local.programs import MOSQUITTO, OWN, SERVERS, Program
from infra.local.settings import PROJECT_ROOT
from infra.swarm.swarm import Swarm, SwarmSettings, new_record
from sinks.accounting import Account
from sinks.finality import wait_final

DEVICES = 40
RATE = 500.0
CONNECT_S = 30.0
DRAIN_S = 60.0
STORED_S = 90.0
WARM_UP_S = 0.5
HEALTHY_S = 60.0
FINAL_S = 180.0
SAVED_S = 2.5  # longer than the broker waits with saving, as we set it
FROZEN_S = 2.0
QUEUED_S = 5.0  # messages of so long are more than 1,000

Told = Callable[[str], None]


class SelfTestError(Exception):
    """The self-test itself does not work; the text says where."""


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
        bed = _Bed(Path(folder))
        try:
            bed.up(told)
            pairs = []
            for plant in PLANTS:
                if not only or plant.name in only:
                    plain = bed.run(plant, seed, is_planted=False, told=told)
                    pairs.append((plant, plain, bed.run(plant, seed, is_planted=True, told=told)))
            bed.set(None)
            told("until the usage of the plain runs is final")
            bed.wait_final([plain for _, plain, _ in pairs])
            told("accounting")
            plants = [
                verdict(plant, plain.account(with_energy=True), planted.account())
                for plant, plain, planted in pairs
            ]
        finally:
            bed.stack.wipe()
    seconds = round(time.monotonic() - began, 1)
    return SelfTest(all(one.caught for one in plants), seed, seconds, plants)


def verdict(plant: Plant, plain: Outcome, planted: Outcome) -> Verdict:
    return Verdict(plant.name, plant.what, planted.lost > 0 and plain.green, planted, plain)


# ---------------------------------------------------------------- the stack


class _Bed:
    """The stack in which plants are set, one at a time."""

    def __init__(self, folder: Path) -> None:
        settings = StackSettings.free(folder / "stack")
        self.stack = Stack(settings, _programs())
        self.records = folder / "records"
        self._state = settings.state_dir
        self._planted: Plant | None = None

    def up(self, told: Told) -> None:
        for folder in (self._state, self._state / MOSQUITTO.name):
            folder.mkdir(mode=0o700)
        self._write_broker({})
        self.stack.up(told)
        self.wait_healthy("uplink")

    def set(self, plant: Plant | None) -> None:
        """Let the stack run with this plant, or as the product is."""
        before, self._planted = self._planted, plant
        if before == plant:
            return
        (self._state / PLANT_FILE).write_text(plant.name if plant else "")
        both = [one for one in (before, plant) if one]
        if any(one.database for one in both):
            self._set_database(before, plant)
        if any(one.broker for one in both):
            self._write_broker(plant.broker if plant else {})
            self.stack.restart("mosquitto")
        for process in {one.process for one in both if one.process}:
            self.stack.restart(process)
        self.wait_healthy("uplink")

    def _write_broker(self, settings: Mapping[str, str | None]) -> None:
        lines = (PROJECT_ROOT / "infra" / "mosquitto" / "mosquitto.conf").read_text().splitlines()
        kept = [line for line in lines if line.partition(" ")[0] not in settings]
        added = [f"{name} {value}" for name, value in settings.items() if value is not None]
        (self._state / MOSQUITTO.name / "mosquitto.conf").write_text("\n".join([*kept, *added, ""]))

    def _set_database(self, before: Plant | None, plant: Plant | None) -> None:
        with psycopg.connect(self.stack.database_url, autocommit=True) as conn:
            for name in before.database if before else ():
                conn.execute(f"ALTER SYSTEM RESET {name}".encode())
            for name, value in (plant.database if plant else {}).items():
                conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            conn.execute("CHECKPOINT")  # none of its own, which would save what shall be lost
            conn.execute("SELECT pg_reload_conf()")

    def wait_healthy(self, name: str) -> None:
        """Wait until a process of ours says that it works."""
        url = f"http://127.0.0.1:{getattr(self.stack.settings, f'{name}_metrics_port')}/health"
        until = time.monotonic() + HEALTHY_S
        while True:
            try:
                with urlopen(url, timeout=5):
                    return
            except (URLError, OSError):
                if time.monotonic() > until:
                    raise SelfTestError(f"{name} is not healthy after {HEALTHY_S:.0f} s") from None
            time.sleep(0.1)

    def run(self, plant: Plant, seed: int, *, is_planted: bool, told: Told) -> "_Run":
        told(f"{plant.name}: {'planted' if is_planted else 'as the product is'}")
        run = _Run(self, plant, seed)  # its devices are registered while the database is sound
        self.set(plant if is_planted else None)
        return asyncio.run(run.through())

    def wait_final(self, runs: "Iterable[_Run]") -> None:
        addresses = [run.settings.address(node) for run in runs for node in range(DEVICES)]
        wait_final(
            self.stack.database_url, self.stack.kafka_bootstrap, addresses, timeout_s=FINAL_S
        )


def _programs() -> list[Program]:
    """The product's programs, in forms that can be started with a plant."""
    return [
        *(one for one in SERVERS if one is not MOSQUITTO),
        replace(MOSQUITTO, command=(MOSQUITTO.command[0], "-c", "/srv/mosquitto.conf")),
        *(
            replace(one, command=(one.command[0], "-m", "infra.chaos.plants", one.name))
            for one in OWN
            if one.name in MODULES
        ),
        *(one for one in OWN if one.name == "rollup"),
    ]


# ---------------------------------------------------------------- one run


class _Run:
    """A load, its fault, and what became of its readings."""

    def __init__(self, bed: _Bed, plant: Plant, seed: int) -> None:
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
    async with run.speaking(4.0):
        await asyncio.sleep(2.5)
        await run.kill("worker")


FAULTS: dict[str, Callable[[_Run], Awaitable[None]]] = {
    "broker-persistence": _kill_the_broker_with_a_saved_queue,
    "short-queue": _leave_the_uplink_down,
    "clean-start": _kill_the_uplink,
    "auto-ack": _kill_the_uplink_while_kafka_is_frozen,
    "asynchronous-commit": _kill_the_database,
    "offset-first": _kill_the_worker,
}
