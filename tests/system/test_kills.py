"""`kill -9` of everything, under load: nothing acknowledged is lost, nothing is counted twice."""

import json
import signal
import time
from pathlib import Path

import pytest

from infra.chaos.report import Row
from infra.chaos.rig import Rig
from infra.chaos.run import Options, run_faults
from infra.loads.steady import SteadyLoad
from tests.system.conftest import PROJECT_ROOT, Pipeline, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

KILLS = 25
KILLED = ("uplink", "worker", "rollup", "mosquitto", "timescale", "kafka")


def test_25_kills_and_a_rebalance_under_load_lose_and_double_nothing(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rebalances: list[float] = []

    def between(load: SteadyLoad, row: Row) -> None:
        if row.number == KILLS // 2:
            rebalances.extend(rebalance(pipeline, load))

    options = Options(
        seed=11, kinds=("kill", "kill2"), targets=KILLED, count=KILLS, rate=500, devices=50
    )
    report = run_faults(
        Rig(pipeline.stack), options, lambda text, done, total: None, tmp_path, after=between
    )
    account = report.account
    with capsys.disabled():
        print(f"\n{KILLS} kills and a rebalance in {report.duration_s:.0f} s")
        for one in report.recoveries():
            print(f"  {one.kind} {one.target}: {one.count} times, at most {one.max_s} s")
        print(f"  second worker comes {rebalances[0]:.1f} s, leaves {rebalances[1]:.1f} s")
        print(f"  {account}")
    assert report.failures == []
    assert len(report.faults) == KILLS
    assert all(row.recovery_s is not None for row in report.faults)
    assert (account["lost"], account["duplicates"], account["invented"]) == (0, 0, 0)
    assert account["sent"] == account["acked"] == account["stored"]
    assert report.readings_per_s > 250


def rebalance(pipeline: Pipeline, load: SteadyLoad) -> tuple[float, float]:
    """A second worker comes and takes partitions, and leaves. Returns the two recoveries."""
    came_at = time.time()
    second = pipeline.spawn("-m", "streams", METERSTREAM_INSTANCE="1")
    try:
        wait_for(lambda: len(owners(pipeline)) == 2, "the second worker has partitions")
        load.wait_until_stored(time.time())
        came_s = time.time() - came_at
        left_at = time.time()
    finally:
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=60)
    load.wait_until_stored(time.time())
    assert len(owners(pipeline)) == 1
    return came_s, time.time() - left_at


def owners(pipeline: Pipeline) -> list[int]:
    """The backends that write the partitions' progress."""
    return [
        pid
        for (pid,) in pipeline.query(
            "SELECT DISTINCT pid FROM stream_progress JOIN pg_stat_activity USING (pid)"
        )
    ]


# ---- the accounting can fail ----

PLANT = "tests/system/planted_uplink.py"


def test_an_uplink_that_acknowledges_before_kafka_turns_the_accounting_red(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
):
    pipeline.stack.stop_process("uplink")
    plant = pipeline.spawn(str(PROJECT_ROOT / PLANT))
    try:
        load = pipeline.start_meterstream(
            *("load", "--devices", 50, "--rate", 500, "--seconds", 20),
            *("--believe", "puback", "--json"),
        )
        wait_until_it_speaks(pipeline)
        pipeline.kill("kafka")
        time.sleep(2)
        plant.kill()
    finally:
        plant.kill()
        plant.communicate()
        pipeline.stack.start_process("uplink")
    output, errors = load.communicate(timeout=280)
    assert load.returncode == 1, errors
    assert output, errors
    report = json.loads(output)
    with capsys.disabled():
        print(f"\nplanted: {report['lost']} of {report['readings_sent']} lost, exit 1")
    assert not report["ok"]
    assert report["lost"] > 0
    assert any("was acknowledged and is not stored" in one["text"] for one in report["failures"])
    assert report["duplicates"] == report["invented"] == 0


def wait_until_it_speaks(pipeline: Pipeline) -> None:
    """Wait until every node of the newest load has been stored for 3 s."""
    newest = (
        "SELECT count(DISTINCT channel_id) FROM readings JOIN channel USING (channel_id) "
        "JOIN device USING (device_id) WHERE measured_at > now() - interval '2 s' "
        "AND home_id = (SELECT home_id FROM device WHERE home_id LIKE 'load-%%' "
        "ORDER BY device_id DESC LIMIT 1) AND %s"
    )
    wait_for(lambda: pipeline.value(newest, True) == 50, "the load is stored")
