"""A long command that is asked to end takes the servers along that it has started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def of(folder: Path) -> dict[int, str]:
    """The processes that have been started with this folder: pid to command."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if process.name.isdigit() and os.fsencode(folder) in command:
            found[int(process.name)] = command.decode(errors="replace")
    return found


def test_chaos_that_is_asked_to_end_leaves_no_server_behind(tmp_path: Path):
    with subprocess.Popen(
        [Path(sys.executable).with_name("meterstream"), "chaos", "--kills", "5", "--rate", "50"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as chaos:
        assert chaos.stderr is not None
        while not any("kafka" in command for command in of(tmp_path).values()):
            assert chaos.poll() is None, chaos.stderr.read()
            time.sleep(0.2)
        chaos.send_signal(signal.SIGTERM)
        chaos.stderr.read()

    assert chaos.returncode == 128 + signal.SIGTERM
    assert of(tmp_path) == {}
