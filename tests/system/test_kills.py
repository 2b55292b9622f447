"""`kill -9` of everything, under load: nothing acknowledged is lost, nothing is counted twice."""

import json
import random
import signal
import time
from pathlib import Path

import psycopg
import pytest

from schemas.topics import RAW, USAGE_1M
from sinks.finality import log_ends
from tests.system.conftest import PROJECT_ROOT, Pipeline, TopicReader, wait_for
from tests.system.steady_load import SteadyLoad

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

VICTIMS = ("uplink", "worker", "mosquitto", "timescale", "kafka")
ROUNDS = 3


def test_three_kills_of_every_process_and_a_rebalance_lose_and_double_nothing(
    pipeline: Pipeline,
    topics: TopicReader,
    home: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    chance = random.Random(11)
    recoveries: list[tuple[str, float]] = []
    began = time.monotonic()
    with SteadyLoad(pipeline, tmp_path, home, devices=100, rate=1_000) as load:
        load.wait_until_stored(time.time())
        for round_ in range(ROUNDS):
            for name in chance.sample(VICTIMS, len(VICTIMS)):
                before = pipeline.pid(name)
                killed_at = pipeline.kill(name)
                load.wait_until_stored(killed_at)
                recoveries.append((name, time.time() - killed_at))
                assert pipeline.pid(name) != before
                time.sleep(chance.uniform(0.2, 1.5))
            if round_ == 1:
                came_s, left_s = rebalance(pipeline, load)
                recoveries += [("second worker comes", came_s), ("it leaves", left_s)]
        spoke_s = time.monotonic() - began
        account = load.finish()

    counts = load.counts
    with capsys.disabled():
        print(f"\n{ROUNDS * len(VICTIMS)} kills and 2 rebalances in {spoke_s:.0f} s of load")
        print("  s until rows again: " + ", ".join(f"{who} {s:.1f}" for who, s in recoveries))
        print(
            f"  {account.sent:,} sent, {account.stored:,} stored, {counts.sent_again:,} again, "
            f"{counts.connection_losses:,} connections cut, lost {account.lost}, duplicates "
            f"{account.duplicates}, invented {account.invented}, energy off by "
            f"{account.windows_difference_uwh} µWh (ledger {account.ledger_difference_uwh}), "
            f"all told in {time.monotonic() - began:.0f} s"
        )
    assert account.failures == []
    assert account.ok
    assert (account.lost, account.duplicates, account.invented, account.refused) == (0, 0, 0, 0)
    assert (account.windows_difference_uwh, account.ledger_difference_uwh) == (0, 0)
    assert account.sent == account.stored == counts.made == counts.acked
    assert load.unacked == counts.false_acks == 0
    assert account.sent > 500 * spoke_s

    check_offsets(pipeline)
    wait_for(lambda: pipeline.value("SELECT count(*) FROM announcement") == 0, "all is announced")
    check_announced(pipeline, topics, home)


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


def check_offsets(pipeline: Pipeline) -> None:
    """The table of offsets follows the log to its end, and nowhere beyond; nothing was jumped."""
    pipeline.caught_up()
    with psycopg.connect(pipeline.stack.database_url) as conn:
        stored = dict(
            conn.execute(
                "SELECT part, next_offset FROM stream_progress WHERE topic = %s", [RAW.name]
            ).fetchall()
        )
    ends = log_ends(pipeline.stack.kafka_bootstrap)
    assert stored.keys() == ends.keys()
    assert all(stored[part] <= ends[part] for part in ends)
    assert pipeline.query("SELECT * FROM log_gap") == []


def check_announced(pipeline: Pipeline, topics: TopicReader, home: str) -> None:
    """Who keeps the highest revision of each announced window has just the table's rows."""
    announced: dict[tuple[int, int], dict[str, int]] = {}
    for record in topics.read(USAGE_1M.name):
        if record.key == home:
            said = record.document
            key = (said["channel_id"], said["window_start_us"])
            if key not in announced or announced[key]["revision"] <= said["revision"]:
                announced[key] = said
    columns = ("energy_uwh", "export_uwh", "readings", "quality", "why", "revision")
    stored = {
        (row[0], row[1]): dict(zip(columns, row[2:], strict=True))
        for row in pipeline.query(
            f"SELECT channel_id, to_us(window_start), {', '.join(columns)} FROM usage_1m "
            "JOIN channel USING (channel_id) JOIN device USING (device_id) WHERE home_id = %s",
            home,
        )
    }
    kept = {key: {name: said.get(name, 0) for name in columns} for key, said in announced.items()}
    assert kept == stored


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


def test_without_the_plant_the_same_kills_and_a_database_outage_lose_and_refuse_nothing(
    pipeline: Pipeline, home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    refused = pipeline.value("SELECT count(*) FROM refused")
    worker = pipeline.pid("worker")
    with SteadyLoad(
        pipeline, tmp_path, home, devices=50, rate=500, seed=3, believe="puback"
    ) as load:
        load.wait_until_stored(time.time())
        killed_at = pipeline.kill("kafka")
        time.sleep(2)
        pipeline.kill("uplink")
        load.wait_until_stored(killed_at)
        pipeline.stack.stop_process("timescale")
        stopped = time.monotonic()
        wait_for(lambda: pipeline.health("worker") == 503, "the worker says that it is not well")
        time.sleep(max(0.0, stopped + 20 - time.monotonic()))
        pipeline.stack.start_process("timescale")
        up_at = time.time()
        load.wait_until_stored(up_at)
        back_s = time.time() - up_at
        wait_for(lambda: pipeline.health("worker") == 200, "the worker is well again")
        account = load.finish()
    with capsys.disabled():
        print(
            f"\nno plant: {account.sent:,} sent and believed at PUBACK, lost {account.lost}; "
            f"rows {back_s:.1f} s after a database outage of 20 s"
        )
    assert account.failures == []
    assert account.ok
    assert account.sent == account.stored == load.counts.made
    assert pipeline.value("SELECT count(*) FROM refused") == refused
    assert pipeline.pid("worker") == worker
