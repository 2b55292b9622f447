"""Signals to the processes of a stack, and what the kernel says of them.

Each is found by the stack's own supervisor. A server is a tree of processes (PostgreSQL has one a
connection): `pause` and `resume` mean all of it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from infra.local.errors import StackError
from infra.local.programs import SERVERS
from infra.local.stack import Stack

_SERVER_NAMES = frozenset(program.name for program in SERVERS)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def own_pid(stack: Stack, name: str) -> int:
    """The program itself: of a server the one inside its sandbox. Raises StackError."""
    return stack.server_pid(name) if name in _SERVER_NAMES else stack.pid(name)


def kill(stack: Stack, name: str) -> float:
    """`kill -9`. Returns the instant, as `time.time()`."""
    pid = stack.pid(name)
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


def send(stack: Stack, name: str, number: signal.Signals) -> None:
    """A signal to the program itself, not to its sandbox."""
    os.kill(own_pid(stack, name), number)


def pause(stack: Stack, name: str) -> Callable[[], None]:
    """SIGSTOP to a program and all its children, the parent first. Returns what resumes them."""
    stopped: list[int] = []

    def stop(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
            for child in children(pid):
                stop(child)

    stop(own_pid(stack, name))

    def resume() -> None:
        for pid in reversed(stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return resume


def children(pid: int) -> list[int]:
    """The processes that this one has started and that live. Raises ProcessLookupError."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def resident_bytes(stack: Stack, name: str) -> int | None:
    """Memory that a program occupies, without its children; None while it does not run."""
    return _of(stack, name, _resident)


def open_files(stack: Stack, name: str) -> int | None:
    """Open file descriptors of a program; None while it does not run."""
    return _of(stack, name, lambda pid: len(os.listdir(f"/proc/{pid}/fd")))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _of(stack: Stack, name: str, read: Callable[[int], int]) -> int | None:
    try:
        return read(own_pid(stack, name))
    except (StackError, OSError):
        return None
