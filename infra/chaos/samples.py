"""Memory and open files of our processes while faults go on."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from infra.local import Stack, processes

EVERY_S = 5.0
WATCHED = ("uplink", "worker", "rollup")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """Resident MiB and open files of one process at an instant (`time.time()`)."""

    at: float
    pid: int
    resident_mib: float
    files: int


@dataclass
class Samples:
    """Taken every `EVERY_S` while the block runs, of each process that runs then."""

    stack: Stack
    of: dict[str, list[Sample]] = field(default_factory=lambda: {name: [] for name in WATCHED})

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._take_all, name="samples")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _take_all(self) -> None:
        while True:
            running = {one.name: one.pid for one in self.stack.status()}
            for name in WATCHED:
                resident = processes.resident_bytes(self.stack, name)
                files = processes.open_files(self.stack, name)
                pid = running.get(name)
                if pid and resident and files:
                    taken = Sample(time.time(), pid, round(resident / MIB, 1), files)
                    self.of[name].append(taken)
            if self._done.wait(EVERY_S):
                return

    def resident_mib(self) -> dict[str, float | None]:
        """Now, of each process."""
        found = {}
        for name in WATCHED:
            resident = processes.resident_bytes(self.stack, name)
            found[name] = None if resident is None else round(resident / MIB, 1)
        return found

    def summary(self) -> dict[str, dict[str, float]]:
        """Of each process the first, last and greatest memory and files.

        `growth_mib_per_h`: of the process that lived longest, from its second minute on.
        """
        return {name: _summed(taken) for name, taken in self.of.items() if taken}


def _summed(taken: list[Sample]) -> dict[str, float]:
    lives: dict[int, list[Sample]] = {}
    for one in taken:
        lives.setdefault(one.pid, []).append(one)
    longest = max(lives.values(), key=lambda life: life[-1].at - life[0].at)
    steady = [one for one in longest if one.at - longest[0].at >= 60]
    found = {
        "first_mib": taken[0].resident_mib,
        "last_mib": taken[-1].resident_mib,
        "most_mib": max(one.resident_mib for one in taken),
        "first_files": taken[0].files,
        "last_files": taken[-1].files,
        "most_files": max(one.files for one in taken),
        "longest_life_s": round(longest[-1].at - longest[0].at),
    }
    if len(steady) >= 2 and steady[-1].at > steady[0].at:
        hours = (steady[-1].at - steady[0].at) / 3600
        rise_mib = steady[-1].resident_mib - steady[0].resident_mib
        found["growth_mib_per_h"] = round(rise_mib / hours, 1)
    return found
