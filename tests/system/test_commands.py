"""A short `meterstream trial commands`: the whole flow, with relays that keep a journal.

The long one: `meterstream trial commands --commands 10000`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
MILD = ("--rate", "10", "--kill-every-s", "8")
COMMANDS = int(os.environ.get("METERSTREAM_TRIAL_COMMANDS", "300"))


def test_commands_run_once_in_time_and_as_asked():
    command = "import infra.cli as cli; cli.main()"
    arguments = ["trial", "commands", "--commands", str(COMMANDS), "--seed", "7", *MILD, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1450,
    )
    assert done.stdout, done.stderr[-4000:]
    trial = json.loads(done.stdout)
    print(json.dumps({key: value for key, value in trial.items() if key != "account"}))
    assert trial["ok"], json.dumps([trial["account"], trial["open"]]) + done.stderr[-2000:]
    assert done.returncode == 0
    assert trial["accepted"] == COMMANDS
    assert trial["states"].get("done", 0) > COMMANDS / 4
    assert trial["account"]["changed"] > COMMANDS / 10
