"""Run one program of the stack under the supervisor. Standard library only; run by file path.

    python -I launch.py --run-dir DIR --name NAME [--stop-signal INT] [--sandbox] -- COMMAND…

Three promises for every program:
- the one before it is gone: a lock, inherited by all its processes, is held until the last
  of them has ended, so a restarted server finds its port and its files free;
- it starts at most once a second, however often it dies, and each start is counted;
- it stops when the supervisor dies.

A program of ours takes this process over (`exec`). A server runs in a sandbox (`bwrap`), which
would not pass signals on: this process stays, hands the signals to the server, and ends as the
server ends. Killed with -9 it takes sandbox and server with it (`--die-with-parent`).
"""

import argparse
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
LEAST_INTERVAL_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--stop-signal", default="TERM")
    parser.add_argument("--sandbox", action="store_true")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    supervisor = os.getppid()
    _die_with_parent(signal.Signals[f"SIG{arguments.stop_signal}"])
    if os.getppid() != supervisor:  # it died before the line above
        return 0

    lock_fd = os.open(arguments.run_dir / f"{arguments.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    os.set_inheritable(lock_fd, True)

    record = arguments.run_dir / f"{arguments.name}.json"
    _wait_for_turn(record)
    if not arguments.sandbox:
        os.execvp(arguments.command[0], arguments.command)
    return _run_sandbox(arguments.command, lock_fd, record)


def _die_with_parent(stop_signal: signal.Signals) -> None:
    """Ask the kernel for this signal when the parent dies; it survives `exec`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _wait_for_turn(record: Path) -> None:
    """Count this start, at least LEAST_INTERVAL_S after the one before."""
    try:
        last = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        last = {"starts": 0, "started_s": 0.0}
    # The monotonic clock starts again with the machine: a record of the future is an old one.
    since_s = time.monotonic() - last["started_s"]
    if 0 <= since_s < LEAST_INTERVAL_S:
        time.sleep(LEAST_INTERVAL_S - since_s)
    _write(record, {"starts": last["starts"] + 1, "started_s": time.monotonic()})


def _run_sandbox(command: list[str], lock_fd: int, record: Path) -> int:
    """Run the sandbox until its server ends; the exit status is the server's."""
    server_pid = 0
    waiting: list[int] = []  # signals that came before the server

    def forward(number: int, _frame: FrameType | None) -> None:
        if server_pid:
            os.kill(server_pid, number)
        else:
            waiting.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, forward)

    info_read, info_write = os.pipe()
    sandbox = subprocess.Popen(
        [command[0], "--info-fd", str(info_write), *command[1:]],
        pass_fds=(info_write, lock_fd),
    )
    os.close(info_write)
    with os.fdopen(info_read) as info:
        text = info.read()
    if text:
        server_pid = int(json.loads(text)["child-pid"])
        _write(record, {**json.loads(record.read_text()), "server_pid": server_pid})
        for early in waiting:
            os.kill(server_pid, early)
    status = sandbox.wait()
    return status if status >= 0 else 128 - status


def _write(path: Path, value: dict[str, float]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value))
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
