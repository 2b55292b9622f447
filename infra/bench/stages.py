"""The stages of the benchmark, each on stacks of its own with an empty state."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from infra.bench.results import Row, Run, Taken, cheaper_than, rows_of
from infra.bench.surroundings import commit, machine, versions
from infra.local import Stack, StackSettings, start
from infra.local.parts import Progress
from infra.local.programs import SERVERS


class Stage(StrEnum):
    UPLINK = "uplink"
    STREAM = "stream"
    SINK = "sink"
    RATING = "rating"
    END_TO_END = "end-to-end"
    COMMANDS = "commands"
    GROWTH_DEVICES = "growth-devices"
    GROWTH_STORED = "growth-stored"


GROWTH = (Stage.GROWTH_DEVICES, Stage.GROWTH_STORED)
USUAL = tuple(stage for stage in Stage if stage not in GROWTH)


@dataclass(frozen=True)
class Sizes:
    """How much each stage does. `repeats` None: three, but one of growth."""

    messages: int = 200_000
    readings: int = 1_000_000
    rows: int = 400_000
    homes: int = 1_000
    seconds: float = 300.0
    latency_seconds: float = 60.0
    command_seconds: float = 60.0
    growth_readings: int = 3_600_000
    devices: tuple[int, ...] = (1_000, 10_000, 100_000)
    stored: tuple[int, ...] = (1_000_000, 10_000_000, 50_000_000)
    workers: int = 1
    repeats: int | None = None

    def repeats_of(self, stage: Stage) -> int:
        return self.repeats or (1 if stage in GROWTH else 3)


def run(stage: Stage, sizes: Sizes, progress: Progress) -> Run:
    """Measure one stage. Its stacks and files are gone afterwards."""
    begun_at, load_average, begun_s = datetime.now(UTC), os.getloadavg(), time.monotonic()
    own = _OWN_SIZES[stage]
    with _folder() as folder:
        rows, ok = _STAGES[stage](sizes, folder, progress)
    told = {name: value for name, value in asdict(sizes).items() if name in own}
    if stage not in (Stage.END_TO_END, Stage.COMMANDS):
        told["repeats"] = sizes.repeats_of(stage)
    return Run(
        stage=stage.value,
        commit=commit(),
        begun_at=begun_at.isoformat(timespec="seconds"),
        took_s=round(time.monotonic() - begun_s, 1),
        machine=machine(),
        load_average=load_average,
        versions=versions(),
        sizes=told,
        ok=ok,
        rows=rows,
    )


@contextmanager
def _folder(parent: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="meterstream-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def servers(folder: Path, progress: Progress) -> Iterator[Stack]:
    """The three servers with topics and tables, wiped after the block."""
    settings = StackSettings.free(Path(tempfile.mkdtemp(dir=folder)))
    stack = Stack(settings, SERVERS)
    try:
        start(settings, SERVERS, progress)
        stack.prepare(progress)
        yield stack
    finally:
        stack.wipe(progress)


Measured = tuple[list[Row], bool]


def _uplink(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import uplink

    taken = []
    repeats = sizes.repeats_of(Stage.UPLINK)
    with servers(folder, progress) as stack:
        for repeat in range(1, repeats + 1):
            progress(f"uplink beside stock paho, {repeat} of {repeats}")
            for one in uplink.run(
                stack.mqtt_port,
                stack.kafka_bootstrap,
                messages=sizes.messages,
                stock_messages=sizes.messages // 4,
            ):
                figures = {
                    "messages_per_s": one.messages_per_s,
                    "cpu_us_per_message": one.cpu_us_per_message,
                }
                note = f"{one.bytes_per_message:.0f} bytes, {one.messages:,} messages"
                taken.append((one.feed, Taken(f"{one.connector}, {one.feed}", figures, note)))
    rows: list[Row] = []
    for kind in uplink.FEEDS:
        of_kind = rows_of([one for feed, one in taken if feed == kind])
        rows += cheaper_than(of_kind, f"stock paho, {kind}", "cpu_us_per_message")
    return rows, True


def _stream(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import stream

    with servers(folder, progress) as stack:
        repeats = sizes.repeats_of(Stage.STREAM)
        return stream.measure(stack, sizes.readings, repeats, progress), True


def _sink(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import sink

    with servers(folder, progress) as stack:
        return sink.measure(stack, sizes.rows, sizes.repeats_of(Stage.SINK), progress), True


def _rating(sizes: Sizes, _folder: Path, progress: Progress) -> Measured:
    from infra.bench import rating

    return rating.measure(sizes.homes, sizes.repeats_of(Stage.RATING), progress), True


def _end_to_end(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    """Latencies once more with all files in memory: the difference is the disk."""
    from infra.bench import disk, end_to_end

    wanted = end_to_end.loads(sizes.seconds, sizes.latency_seconds)
    progress(f"the disk alone for {disk.SECONDS:.0f} s")
    alone = disk.row(folder)
    rows, ok = end_to_end.run(wanted, sizes.workers, folder, progress)
    if disk.memory_has_room():
        with _folder(disk.MEMORY) as memory:
            quick = [replace(one, name=f"{one.name}, files in memory") for one in wanted[:2]]
            found, as_well = end_to_end.run(quick, sizes.workers, memory, progress)
        rows, ok = rows + found, ok and as_well
    return [*rows, alone], ok


def _commands(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import commands

    stack = commands.stack_of(StackSettings.free(folder / "state"))
    try:
        stack.up(progress)
        wanted = (commands.WARM_UP, *commands.loads(sizes.command_seconds))
        rows, ok = commands.measure(stack, wanted, folder, progress)
        return rows[1:], ok
    finally:
        stack.wipe(progress)


def _growth_devices(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import growth

    rows = growth.measure_devices(
        lambda: servers(folder, progress),
        sizes.devices,
        sizes.growth_readings,
        sizes.workers,
        sizes.repeats_of(Stage.GROWTH_DEVICES),
        progress,
    )
    return rows, True


def _growth_stored(sizes: Sizes, folder: Path, progress: Progress) -> Measured:
    from infra.bench import growth

    rows = growth.measure_stored(
        lambda: servers(folder, progress),
        sizes.stored,
        sizes.growth_readings,
        sizes.workers,
        sizes.repeats_of(Stage.GROWTH_STORED),
        progress,
    )
    return rows, True


_STAGES: dict[Stage, Callable[[Sizes, Path, Progress], Measured]] = {
    Stage.UPLINK: _uplink,
    Stage.STREAM: _stream,
    Stage.SINK: _sink,
    Stage.RATING: _rating,
    Stage.END_TO_END: _end_to_end,
    Stage.COMMANDS: _commands,
    Stage.GROWTH_DEVICES: _growth_devices,
    Stage.GROWTH_STORED: _growth_stored,
}
_OWN_SIZES = {
    Stage.UPLINK: {"messages"},
    Stage.STREAM: {"readings"},
    Stage.SINK: {"rows"},
    Stage.RATING: {"homes"},
    Stage.END_TO_END: {"seconds", "latency_seconds", "workers"},
    Stage.COMMANDS: {"command_seconds"},
    Stage.GROWTH_DEVICES: {"growth_readings", "devices", "workers"},
    Stage.GROWTH_STORED: {"growth_readings", "stored", "workers"},
}
