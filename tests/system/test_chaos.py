"""Faults other than kills, under load and accounted for, on a stack with proxies on its hops."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.chaos.plan import kinds_of, targets_of
from infra.chaos.rig import Rig, private_rig
from infra.chaos.run import Options, run_faults

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

KINDS = "latency,bandwidth,stall,reset,corrupt,wipe,immediate,upgrade,backup,zombie"
SEED = 1068  # each hop is hit once


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with private_rig(tmp_path / "rig", proxied=True) as one:
        yield one


def test_each_kind_of_fault_loses_and_doubles_nothing(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = kinds_of(KINDS)
    options = Options(
        seed=SEED, kinds=names, targets=targets_of("all"), count=len(names), rate=500,
        devices=50, zombie_s=20,
    )  # fmt: skip
    report = run_faults(rig, options, lambda text, done, total: None, tmp_path / "loads")
    with capsys.disabled():
        print(f"\n{len(names)} faults in {report.duration_s:.0f} s")
        for row in report.faults:
            print(f"  {row.kind} {row.target}: back after {row.recovery_s} s, {row.notes}")
    assert report.failures == []
    assert {row.kind for row in report.faults} == set(names)
    assert all(row.recovery_s is not None for row in report.faults)
    assert report.account["sent"] == report.account["stored"] == report.account["acked"] > 0
    assert report.account["sent_again"] > 0

    notes = {row.kind: row.notes for row in report.faults}
    assert rig.proxies is not None
    assert all(rig.proxies[hop].relayed_bytes for hop in ("node-broker", "worker-database"))
    assert notes["corrupt"]["bits"] > 0
    assert notes["wipe"]["removed_bytes"] > 0
    assert notes["backup"]["dump_bytes"] > 10_000
    zombie = notes["zombie"]
    assert zombie["zombies_transaction"] == "ended"
    assert "another worker has taken over" in zombie["zombie_said"]
