"""A process of the stream under test, on the real servers: started, ended, killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.local import Stack
from infra.local.settings import PROJECT_ROOT

LONGEST_S = 200.0  # for what takes a second on a quiet machine


class RunningProcess:
    """`python -m MODULE`, more than one at a time if need be. `settings` are its environment."""

    def __init__(
        self, module: str, stack: Stack, database_url: str, log: Path, **settings: str
    ) -> None:
        self._module, self._log = module, log
        self._environment = {
            **os.environ,
            **stack.environment(),
            "METERSTREAM_DATABASE_URL": database_url,
            "METERSTREAM_METRICS_PORT": "0",
            **settings,
        }
        self._running: list[subprocess.Popen[bytes]] = []
        self._begun = 0

    def start(self) -> None:
        self._begun = self._starts()
        with self._log.open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", self._module],
                    cwd=PROJECT_ROOT,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                )
            )

    def wait_up(self) -> None:
        """Until the newest has said so: before that a SIGTERM finds no handler."""
        deadline = time.monotonic() + LONGEST_S
        while self._starts() == self._begun:
            assert time.monotonic() < deadline, f"not within {LONGEST_S:.0f} s: it starts"
            time.sleep(0.05)

    @property
    def all_run(self) -> bool:
        return all(one.poll() is None for one in self._running)

    def end(self, number: signal.Signals) -> int:
        """End the oldest that runs; returns its exit code."""
        one = self._running.pop(0)
        one.send_signal(number)
        return one.wait(LONGEST_S)

    def close(self) -> None:
        for one in self._running:
            one.kill()
            one.wait()
        if self._log.exists():
            print(self._log.read_text()[-4000:])  # shown with a failure

    def _starts(self) -> int:
        name = self._module.rpartition(".")[2]
        return self._log.read_bytes().count(f"{name} starts".encode()) if self._log.exists() else 0
