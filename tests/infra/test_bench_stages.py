"""The benchmark's stages, small, on real servers: does each measure what it says?"""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.bench import end_to_end, growth, log, peers, sink, workers
from infra.bench.cpu import CpuLog
from infra.bench.end_to_end import Load
from infra.bench.results import Share
from infra.cli.load import LoadReport, Percentiles
from infra.local import Stack, StackSettings, start
from infra.local.programs import SERVERS
from infra.swarm.probe import Probe

DEVICES = 200
READINGS = 120_000

pytestmark = pytest.mark.stack


def said(_text: str) -> None:
    """Progress is for people."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = StackSettings.free(tmp_path_factory.mktemp("bench"))
    running = Stack(settings, SERVERS)
    try:
        start(settings, SERVERS)
        running.prepare()
        yield running
    finally:
        running.wipe()


@pytest.fixture(scope="module")
def filled(stack: Stack) -> log.Log:
    return log.fill(stack, READINGS, DEVICES, said, peers=True)


@pytest.fixture
def conn(stack: Stack) -> Iterator[psycopg.Connection[tuple[int, ...]]]:
    with psycopg.connect(stack.database_url, autocommit=True) as one:
        yield one


def test_every_way_into_the_table_stores_all_rows(stack: Stack):
    rows = sink.measure(stack, 4000, 2, said, batch=1000)

    assert [row.name for row in rows] == [way.name for way in sink.ways()]
    assert all(row.figures["rows_per_s"].repeats == 2 for row in rows)
    assert all(row.figures["rows_per_s"].least > 0 for row in rows)
    assert next(row.ratio for row in rows if row.name == sink.LIMIT) == 1.0


def test_columns_and_rows_are_the_same_readings():
    columns, rows = sink.columns_of(3, 50), sink.rows_of_batch(3, 50)

    assert columns.rows() == rows
    assert len({row[:2] for row in rows}) == 50
    assert rows[0][:2] != sink.rows_of_batch(4, 50)[0][:2]


def test_workers_take_the_whole_log_and_tell_what_it_cost(
    stack: Stack, filled: log.Log, conn: psycopg.Connection[tuple[int, ...]]
):
    figures = workers.measure(stack, filled, 1, timeout_s=120)

    assert filled.readings == READINGS
    assert conn.execute("SELECT count(*) FROM readings").fetchone() == (READINGS,)
    # 600 rounds, 5 s apart: 50 minutes of each device, the last of which nothing completes
    windows = conn.execute("SELECT count(*) FROM usage_1m WHERE readings = 12").fetchone()
    assert windows == (49 * DEVICES,)
    assert 0 < figures["cpu_us_per_reading"] < figures["all_us_per_reading"]
    assert figures["postgres_us_per_reading"] > 0
    workers.forget(stack)
    assert conn.execute("SELECT count(*) FROM readings").fetchone() == (0,)


def test_stock_faust_computes_windows_of_the_same_readings(stack: Stack, filled: log.Log):
    few = log.Log(60_000, filled.start_s, filled.ends)

    taken = peers.measure(stack, few, peers.STOCK_FAUST_TABLE, said, timeout_s=120)

    assert taken.figures["readings_per_s"] > 0
    assert taken.figures["cpu_us_per_reading"] > 0
    assert "1,800 readings" in taken.note


def test_a_peer_whose_job_is_missing_is_told_and_left_out(stack: Stack, filled: log.Log):
    gone = peers.Peer("gone", (), Path("/nowhere/gone_job.py"), Path("/nowhere/gone.txt"))

    taken = peers.measure(stack, filled, gone, said, timeout_s=10)

    assert taken.figures == {}
    assert taken.note == "left out: gone_job.py is missing in ../shared/bench"


def test_a_peer_that_tells_nothing_is_an_error(stack: Stack, filled: log.Log):
    silent = peers.Peer("silent", ("-c", "import sys; sys.exit('no such broker')"))

    with pytest.raises(peers.PeerFailed, match="no such broker"):
        peers.measure(stack, filled, silent, said, timeout_s=30)


def test_the_past_lies_before_the_log_of_every_channel(
    stack: Stack, filled: log.Log, conn: psycopg.Connection[tuple[int, ...]]
):
    conn.execute("TRUNCATE readings")

    growth.store_history(stack, 7 * DEVICES, filled.start_s, said)

    found = conn.execute(
        "SELECT count(*), count(DISTINCT channel_id), extract(epoch FROM min(measured_at))::bigint,"
        " extract(epoch FROM max(measured_at))::bigint FROM readings"
    ).fetchone()
    assert found == (7 * DEVICES, DEVICES, filled.start_s - 35, filled.start_s - 5)
    conn.execute("TRUNCATE readings")


def test_every_process_of_the_pipeline_has_a_clock(tmp_path: Path):
    whole = end_to_end.stack_of(StackSettings.free(tmp_path / "state"), workers=2)
    try:
        whole.up()
        probe = Probe(whole.database_url)
        read = {name: clock() for name, clock in end_to_end.clocks(whole).items()}
        probe.kill()
    finally:
        whole.wipe()

    assert list(read) == [
        *("swarm", "mosquitto", "uplink", "worker-0", "worker-1", "rollup", "cost", "billing"),
        *("poller", "presence", "commands", "downlink", "api", "kafka", "postgres", "probe"),
    ]
    assert all(cpu_s > 0 for name, cpu_s in read.items() if name != "mosquitto"), read


def test_shares_are_those_of_the_time_in_which_the_swarm_sends():
    log = CpuLog({})
    log._clocks = {"uplink": lambda: 0.0}
    log._at_s = [100.0, 110.0]
    log._read_s = [{"uplink": 1.0}, {"uplink": 3.0}]

    # 2 s of CPU in 10 s: 0.8 s in the 4 s in which 20,000 messages were sent
    assert end_to_end.shares(log, (103.0, 5_000.0), (107.0, 25_000.0)) == {
        "uplink": Share(20.0, 40.0)
    }
    assert end_to_end.shares(log, None, (0.0, 0.0)) == {}


@pytest.mark.parametrize(("lost", "told"), [(0, False), (3, True)])
def test_a_load_that_lost_something_says_so_in_its_row(lost: int, told: bool):
    report = LoadReport(
        ok=not lost, home="h", seed=1, devices=1000, phases=3, believe="ack", messages_sent=750,
        messages_acked=750, readings_sent=3000, readings_acked=3000, readings_stored=3000 - lost,
        refused=0, lost=lost, duplicates=0, invented=0, messages_per_s=75.0, readings_per_s=300.0,
        latency_ms=Percentiles(40.0, 80.0, None, 4.5, 100, 0), energy_difference_wh=0.0,
        ledger_difference_wh=0.0, sent_again=0, connection_losses=0, false_acks=0, unacked=0,
        load_s=10.0, drain_s=0.5, final_s=60.0, cpu_percent=10.0, record="", failures=[],
    )  # fmt: skip

    row = end_to_end.row_of(Load("three-phase messages", 100, 10.0, 3), report, {})

    assert (row.ratio, row.ratio_to) == (0.75, "asked")
    assert row.figures["lost"].p50 == lost
    assert row.figures["p50_ms"].p50 == 40.0
    assert "p99_ms" not in row.figures  # nothing was seen
    assert ("THE ACCOUNTING FAILED" in row.note) is told


def test_a_load_that_cannot_run_is_told_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    absent = Stack(StackSettings.free(tmp_path))
    monkeypatch.setattr(end_to_end, "clocks", lambda _stack: {})  # nothing runs

    rows, ok = end_to_end.measure(absent, [Load("idle", 100, 5.0, devices=10)], tmp_path, said)

    assert not ok
    assert rows[0].figures == {}
    assert rows[0].note.startswith("FAILED: mosquitto does not answer")
