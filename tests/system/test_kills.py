"""`kill -9` of everything, under load: nothing acknowledged is lost, nothing is counted twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.chaos.plan import PROCESSES
from infra.chaos.report import Row
from infra.chaos.rig import Rig, private_rig
from infra.chaos.run import Options, run_faults
from infra.loads.steady import SteadyLoad
from tests.system.conftest import PROJECT_ROOT, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

SEED, FAULTS = 1534, 27
"""25 kills of one or two at once, each process at least once; two short stops."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with private_rig(tmp_path / "kills") as one:
        yield one


def test_25_kills_of_all_processes_and_a_rebalance_lose_and_double_nothing(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Two homes are billed meanwhile: their bills and costs end right, and each version is told."""
    rebalances: list[float] = []

    def between(load: SteadyLoad, row: Row) -> None:
        if row.number == FAULTS // 2:
            rebalances.extend(rebalance(rig, load))

    options = Options(
        seed=SEED, kinds=("kill", "kill2", "stop"), targets=PROCESSES, count=FAULTS, rate=500,
        devices=50,
    )  # fmt: skip
    report = run_faults(
        rig, options, lambda text, done, total: None, tmp_path / "loads", after=between
    )
    account = report.account
    with capsys.disabled():
        print(f"\n{FAULTS} faults and a rebalance in {report.duration_s:.0f} s")
        for one in report.recoveries():
            print(f"  {one.kind} {one.target}: {one.count} times, at most {one.max_s} s")
        print(f"  second worker comes {rebalances[0]:.1f} s, leaves {rebalances[1]:.1f} s")
        print(f"  {account}")
    assert report.failures == []
    kinds = Counter(row.kind for row in report.faults)
    assert kinds["kill"] + kinds["kill2"] == 25
    assert {row.target for row in report.faults if row.kind == "stop"} == {"billing", "commands"}
    killed = {name for row in report.faults if row.kind != "stop" for name in row.target.split("+")}
    assert killed == set(PROCESSES)
    assert all(row.recovery_s is not None for row in report.faults)
    assert (account["lost"], account["duplicates"], account["invented"]) == (0, 0, 0)
    assert account["sent"] == account["acked"] == account["stored"]
    assert report.readings_per_s > 250
    assert report.commands["done"] > 0
    ((versions,),) = rig.query("SELECT max(version) FROM bill")
    assert versions > 1, "no day came late"


def rebalance(rig: Rig, load: SteadyLoad) -> tuple[float, float]:
    """A second worker comes and takes partitions, and leaves. Returns the two recoveries."""
    environment = {
        **os.environ, **rig.stack.environment(),
        "METERSTREAM_METRICS_PORT": "0", "METERSTREAM_INSTANCE": "1",
    }  # fmt: skip
    came_at = time.time()
    second = subprocess.Popen([sys.executable, "-m", "streams"], cwd=PROJECT_ROOT, env=environment)
    try:
        wait_for(lambda: len(owners(rig)) == 2, "the second worker has partitions")
        load.wait_until_stored(time.time())
        came_s = time.time() - came_at
        left_at = time.time()
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(timeout=60)
    load.wait_until_stored(time.time())
    assert len(owners(rig)) == 1
    return came_s, time.time() - left_at


def owners(rig: Rig) -> list[int]:
    """The backends that write the partitions' progress."""
    return [
        pid
        for (pid,) in rig.query(
            "SELECT DISTINCT pid FROM stream_progress JOIN pg_stat_activity USING (pid)"
        )
    ]
