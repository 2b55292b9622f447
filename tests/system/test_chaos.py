"""Faults other than kills, under load and accounted for, on a stack with proxies on its hops."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.chaos.plan import kinds_of, targets_of
from infra.chaos.report import Report
from infra.chaos.rig import Rig, private_rig
from infra.chaos.run import Options, run_faults

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with private_rig(tmp_path_factory.mktemp("chaos"), proxied=True) as one:
        yield one


def each_once(rig: Rig, folder: Path, kinds: str, *, seed: int, target: str = "all") -> Report:
    """Every one of these kinds once, and nothing lost or doubled by them."""
    names = kinds_of(kinds)
    options = Options(
        seed=seed, kinds=names, targets=targets_of(target), count=len(names), rate=500,
        devices=50, zombie_s=20,
    )  # fmt: skip
    report = run_faults(rig, options, lambda text, done, total: None, folder)
    for row in report.faults:
        print(row)
    assert report.failures == []
    assert {row.kind for row in report.faults} == set(names)
    assert all(row.recovery_s is not None for row in report.faults)
    assert report.account["sent"] == report.account["stored"] == report.account["acked"] > 0
    return report


def test_bad_hops_lose_and_double_nothing(rig: Rig, tmp_path: Path):
    assert rig.proxies is not None
    report = each_once(rig, tmp_path, "latency,bandwidth,stall,reset,corrupt", seed=13)
    (corrupt,) = [row for row in report.faults if row.kind == "corrupt"]
    assert corrupt.notes["bits"] > 0
    assert all(rig.proxies[hop].relayed_bytes > 0 for hop in ("node-broker", "worker-database"))


def test_a_wiped_broker_new_processes_and_a_restored_database_lose_and_double_nothing(
    rig: Rig, tmp_path: Path
):
    report = each_once(rig, tmp_path, "wipe,immediate,upgrade,backup", seed=2)
    notes = {row.kind: row.notes for row in report.faults}
    assert notes["wipe"]["removed_bytes"] > 0
    assert notes["backup"]["dump_bytes"] > 10_000
    assert report.account["sent_again"] > 0


def test_a_stopped_worker_is_replaced_and_commits_nothing_afterwards(rig: Rig, tmp_path: Path):
    report = each_once(rig, tmp_path, "zombie", seed=2)
    (row,) = report.faults
    assert row.notes["zombies_transaction"] == "ended"
    assert "another worker has taken over" in row.notes["zombie_said"]
    print(f"taken over within {row.notes['taken_over_s']} s")


def test_killed_and_stopped_processes_of_costs_and_bills_tell_nothing_wrong(
    rig: Rig, tmp_path: Path
):
    options = Options(
        seed=3, kinds=kinds_of("kill,stop"), targets=targets_of("cost,billing"), count=5,
        rate=200, devices=20,
    )  # fmt: skip
    report = run_faults(rig, options, lambda text, done, total: None, tmp_path)
    for row in report.faults:
        print(row)
    assert report.failures == []
    assert {row.target for row in report.faults} == {"cost", "billing"}
    assert all(row.recovery_s is not None for row in report.faults)
    ((versions,),) = rig.query("SELECT max(version) FROM bill")
    assert versions > 1, "no day came late"
