"""CPU time of processes over any stretch of a run."""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local import processes

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PERIOD_S = 0.1

Clock = Callable[[], float]
"""CPU seconds so far, user and system."""


def process_cpu_s(pid: int) -> float:
    """CPU of a process and of its children that have ended; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    user, system, ended_user, ended_system = map(int, stat.rpartition(")")[2].split()[11:15])
    return (user + system + ended_user + ended_system) / TICKS_PER_S


def tree_cpu_s(pid: int) -> float:
    """CPU of a process and of all that it has started: of PostgreSQL, every backend."""
    try:
        children = processes.children(pid)
    except ProcessLookupError:
        return 0.0
    return process_cpu_s(pid) + sum(map(tree_cpu_s, children))


def of_process(pid: int) -> Clock:
    return lambda: process_cpu_s(pid)


def of_tree(pid: int) -> Clock:
    return lambda: tree_cpu_s(pid)


class CpuLog:
    """Reads clocks every tenth of a second while the block runs.

    A clock never goes back here: one of a process that has ended stays where it was.
    """

    def __init__(self, clocks: Mapping[str, Clock], period_s: float = PERIOD_S) -> None:
        self._clocks, self._period_s = dict(clocks), period_s
        self._at_s: list[float] = []
        self._read_s: list[dict[str, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-log", daemon=True)

    def __enter__(self) -> Self:
        self._take()
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
        self._take()

    def _run(self) -> None:
        while not self._done.wait(self._period_s):
            self._take()

    def _take(self) -> None:
        last = self._read_s[-1] if self._read_s else {}
        read = {name: max(clock(), last.get(name, 0.0)) for name, clock in self._clocks.items()}
        self._read_s.append(read)
        self._at_s.append(time.monotonic())

    def used_s(self, begin_s: float, end_s: float) -> dict[str, float]:
        """CPU seconds of each between two instants of `time.monotonic()`."""
        begun, ended = self._at(begin_s), self._at(end_s)
        return {name: ended[name] - begun[name] for name in self._clocks}

    def _at(self, instant_s: float) -> dict[str, float]:
        """The clocks at an instant, straight between the readings around it."""
        after = bisect_right(self._at_s, instant_s)
        if after == 0:
            return self._read_s[0]
        if after == len(self._at_s):
            return self._read_s[-1]
        (left, right), (low, high) = (
            self._at_s[after - 1 : after + 1],
            self._read_s[after - 1 : after + 1],
        )
        share = (instant_s - left) / (right - left)
        return {name: low[name] + share * (high[name] - low[name]) for name in self._clocks}
