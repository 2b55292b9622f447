"""From publish to committed row, swarm and pipeline on the same cores: rates, latency, CPU shares.

The swarm runs in this process. The shares are those of the time in which it sends; so is a
message's CPU. The latency probe (a process of its own, and a backend of PostgreSQL) takes part.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.bench.cpu import Clock, CpuLog, of_process, of_tree, tree_cpu_s
from infra.bench.results import Row, Share, spread
from infra.cli.load import LoadReport, NotRunning, Options, run_load
from infra.local import Stack, processes
from infra.local.parts import Progress
from infra.local.programs import ALL, KAFKA, MOSQUITTO, TIMESCALE, instances
from infra.local.settings import StackSettings
from infra.swarm.swarm import SwarmError
from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection
from sinks.finality import NotFinal

DEVICES = 1000
CPU_PERIOD_S = 1.0
SWARM, PROBE, POSTGRES = "swarm", "probe", "postgres"


@dataclass(frozen=True)
class Load:
    name: str
    messages_per_s: float
    seconds: float
    phases: int = 1
    devices: int = DEVICES


def loads(seconds: float, latency_seconds: float) -> tuple[Load, ...]:
    """Latency first, while the tables are small for all of them."""
    return (
        Load("1,000 messages/s", 1_000, latency_seconds),
        Load("10,000 messages/s", 10_000, latency_seconds),
        Load("single-reading messages", 15_000, seconds),
        Load("three-phase messages", 7_500, seconds, phases=3),
    )


WARM_UP = Load("warming up", 5_000, 150)
"""Before all others: Kafka's JVM compiles for minutes, and takes twice as much meanwhile."""


def stack_of(settings: StackSettings, workers: int) -> Stack:
    """Everything that `make run` has, but for its simulator."""
    return Stack(settings.model_copy(update={"workers": workers}), ALL)


def clocks(stack: Stack) -> dict[str, Clock]:
    """Of each process of the pipeline, in the order in which a message meets them."""
    named: dict[str, Clock] = {
        SWARM: time.process_time,
        "mosquitto": of_process(stack.server_pid(MOSQUITTO.name)),
    }
    servers = (KAFKA, TIMESCALE, MOSQUITTO)
    for program in ALL:
        if program not in servers:
            for one in instances(program, stack.settings):
                named[one.name] = of_tree(stack.pid(one.name))
    named["kafka"] = of_process(stack.server_pid(KAFKA.name))
    named[POSTGRES] = of_tree(stack.server_pid(TIMESCALE.name))
    named[PROBE] = _probe_cpu_s
    return named


def _probe_cpu_s() -> float:
    """CPU of the latency probes that this process has started and that live."""
    found = 0.0
    for pid in processes.children(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"infra.swarm.probe" in command:
            found += tree_cpu_s(pid)
    return found


class _Sending:
    """When the swarm was seen sending, first and last, with the messages made until then."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._told = progress, ""
        self.first: tuple[float, float] | None = None
        self.last: tuple[float, float] = (0.0, 0.0)

    def __call__(self, text: str, done: float, total: float) -> None:
        headline = text.partition(":")[0]
        if headline != self._told:
            self._told = headline
            self._progress(headline)
        if text == "sending" and done:
            self.last = (time.monotonic(), done)
            self.first = self.first or self.last


def run(
    wanted: Sequence[Load], workers: int, folder: Path, progress: Progress
) -> tuple[list[Row], bool]:
    """`measure` on a stack of its own with its files in `folder`, warmed up and wiped."""
    stack = stack_of(StackSettings.free(folder / "state"), workers)
    try:
        stack.up(progress)
        measure(stack, [WARM_UP], folder, progress)
        return measure(stack, wanted, folder, progress)
    finally:
        stack.wipe(progress)


def measure(
    stack: Stack, wanted: Sequence[Load], folder: Path, progress: Progress
) -> tuple[list[Row], bool]:
    """A row a load, and whether every reading of all is accounted for. The stack is up.

    A load that could not be ended is a row that says why.
    """
    mqtt = MqttConnection(port=stack.mqtt_port)
    kafka = KafkaConnection(bootstrap=stack.kafka_bootstrap)
    database = DatabaseConnection(url=stack.database_url)
    rows, ok = [], True
    for seed, load in enumerate(wanted, start=1):
        progress(f"{load.name} for {load.seconds:.0f} s")
        options = Options(load.devices, load.messages_per_s, load.seconds, seed, load.phases)
        sending = _Sending(progress)
        try:
            with CpuLog(clocks(stack), CPU_PERIOD_S) as cpu:
                report = run_load(mqtt, kafka, database, options, progress=sending, folder=folder)
        except (NotFinal, NotRunning, SwarmError) as error:
            rows.append(Row(load.name, note=f"FAILED: {error}"))
            ok = False
            continue
        rows.append(row_of(load, report, shares(cpu, sending.first, sending.last)))
        ok = ok and report.ok
    return rows, ok


def shares(
    cpu: CpuLog, first: tuple[float, float] | None, last: tuple[float, float]
) -> dict[str, Share]:
    """The CPU between two (instant, messages); empty when it was too short to see."""
    if first is None or last[1] <= first[1]:
        return {}
    used = cpu.used_s(first[0], last[0])
    seconds, messages = last[0] - first[0], last[1] - first[1]
    return {
        name: Share(round(100 * one / seconds, 1), round(one / messages * 1e6, 2))
        for name, one in used.items()
    }


def row_of(load: Load, report: LoadReport, taken: dict[str, Share]) -> Row:
    """The report of a load as figures. The ratio is the rate reached to the rate asked for."""
    latency = report.latency_ms
    figures: dict[str, float | None] = {
        "asked_messages_per_s": load.messages_per_s,
        "messages_per_s": report.messages_per_s,
        "readings_per_s": report.readings_per_s,
        "lost": report.lost,
        "duplicates": report.duplicates,
        "p50_ms": latency.p50,
        "p95_ms": latency.p95,
        "p99_ms": latency.p99,
        "error_ms": latency.error,
        "drain_s": report.drain_s,
    }
    failed = "" if report.ok else "THE ACCOUNTING FAILED; "
    return Row(
        load.name,
        {name: spread([value]) for name, value in figures.items() if value is not None},
        ratio=round(report.messages_per_s / load.messages_per_s, 3),
        ratio_to="asked",
        note=(
            f"{failed}{report.devices:,} devices, {load.seconds:.0f} s, "
            f"{report.readings_stored:,} of {report.readings_sent:,} readings stored, energy "
            f"difference {report.energy_difference_wh:g} Wh, latency of {latency.samples:,} "
            "messages"
        ),
        processes=taken,
    )
