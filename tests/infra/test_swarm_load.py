"""`meterstream load` through the whole pipeline, and its verdict when a row is touched."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from infra.cli import load
from infra.cli.load import BadLoad, LoadReport, NotRunning, Options, run_load
from infra.cli.verify import verify_stored
from infra.loads.accounting import account_for, claim_devices
from infra.local import Stack, StackSettings, start
from infra.local.programs import ALL
from infra.local.settings import PROJECT_ROOT
from infra.swarm.oddities import ODD
from infra.swarm.record import Record, read_header
from infra.swarm.swarm import Believe, Counts, Swarm, SwarmSettings, new_record
from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection
from sinks.finality import wait_final

pytestmark = pytest.mark.stack
LONGEST_S = 120.0


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = StackSettings.free(tmp_path_factory.mktemp("pipeline"))
    programs = [program for program in ALL if program.name != "api"]
    running = Stack(settings, programs)
    try:
        yield start(settings, programs)
    finally:
        running.wipe()


def connections(stack: Stack) -> tuple[MqttConnection, KafkaConnection, DatabaseConnection]:
    return (
        MqttConnection(port=stack.mqtt_port),
        KafkaConnection(bootstrap=stack.kafka_bootstrap),
        DatabaseConnection(url=stack.database_url),
    )


class Loads(NamedTuple):
    """A load as it is, and what the command said of one that lost a row meanwhile."""

    sound: LoadReport
    robbed: dict[str, Any]
    robbed_exit: int


@pytest.fixture(scope="module")
def loads(pipeline: Stack) -> Loads:
    command = [
        sys.executable, "-c", "import infra.cli; infra.cli.main()", "load", "--seed", "9",
        "--devices", "10", "--rate", "50", "--seconds", "5", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env={**os.environ, **pipeline.environment()},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with psycopg.connect(pipeline.database_url, autocommit=True) as conn:
            taken = take_a_reading(conn, "load-9-%")
            options = Options(devices=40, rate=200, seconds=5, phases=3)
            folder = pipeline.settings.state_dir / "loads"
            sound = run_load(*connections(pipeline), options, folder=folder)
            output, _ = process.communicate(timeout=LONGEST_S)
            give_back(conn, taken)
    finally:
        process.kill()
        process.wait()
    return Loads(sound, json.loads(output), process.returncode)


def take_a_reading(conn: psycopg.Connection[Any], home: str) -> tuple[Any, ...]:
    """Delete a reading of a home like this as soon as one is stored; returns the row."""
    until = time.monotonic() + LONGEST_S
    while True:
        row = conn.execute(
            "DELETE FROM readings AS r USING channel JOIN device USING (device_id) "
            "WHERE r.channel_id = channel.channel_id AND home_id LIKE %s AND r.seq = 3 "
            "AND right(address, 5) = '00004' RETURNING r.*",
            [home],
        ).fetchone()
        if row is not None:
            return row
        assert time.monotonic() < until, f"no reading of {home} is stored"
        time.sleep(0.1)


def give_back(conn: psycopg.Connection[Any], row: tuple[Any, ...]) -> None:
    conn.execute(f"INSERT INTO readings VALUES ({', '.join(['%s'] * len(row))})".encode(), row)


@pytest.fixture(scope="module")
def report(loads: Loads) -> LoadReport:
    return loads.sound


def test_a_reading_that_is_not_there_ends_the_command_with_1_and_is_named(loads: Loads):
    said = loads.robbed
    assert loads.robbed_exit == 1
    assert (said["ok"], said["lost"], said["duplicates"], said["invented"]) == (False, 1, 0, 0)
    assert any("was acknowledged and is not stored" in one["text"] for one in said["failures"])


def test_every_reading_arrives_once_and_the_energy_is_the_registers(report: LoadReport):
    assert report.ok, report.failures
    assert report.messages_sent == report.messages_acked == 1_040
    assert report.readings_sent == report.readings_acked == report.readings_stored == 4_160
    assert (report.lost, report.duplicates, report.invented, report.refused) == (0, 0, 0, 0)
    assert report.energy_difference_wh == report.ledger_difference_wh == 0
    assert report.latency_ms.samples + report.latency_ms.unseen == 500
    assert report.latency_ms.p50 is not None
    assert report.latency_ms.p50 > 0


def test_the_stored_whole_verifies(pipeline: Stack, report: LoadReport):
    checks = verify_stored(pipeline.database_url, pipeline.kafka_bootstrap)
    assert {check.name: check.failures for check in checks if not check.ok} == {}
    assert {check.name for check in checks if check.checked} >= {"minutes", "quarters", "days"}


@pytest.mark.parametrize(
    ("change", "lost", "duplicates", "off"),
    [
        ("DELETE FROM readings WHERE {}", 1, 0, 0),
        ("UPDATE readings SET current_a = current_a + 0.001 WHERE {}", 1, 0, 0),
        ("UPDATE readings SET measured_at = measured_at + interval '1 us' WHERE {}", 1, 1, 0),
        ("UPDATE usage_1m SET energy_uwh = energy_uwh + 1 WHERE channel_id = {channel} AND "
         "window_start = (SELECT min(window_start) FROM usage_1m WHERE channel_id = {channel})",
         0, 0, 1),
    ],
)  # fmt: skip
def test_a_touched_row_turns_the_account_red(
    pipeline: Stack, report: LoadReport, change: str, lost: int, duplicates: int, off: int
):
    with psycopg.connect(pipeline.database_url, autocommit=True) as conn:
        channels = _channels(conn, report)
        channel = channels[7][0]
        text = change.format(f"channel_id = {channel} AND seq = 5", channel=channel)
        before = conn.execute(
            "SELECT * FROM readings WHERE channel_id = %s AND seq = 5", [channel]
        ).fetchone()
        assert before is not None
        assert conn.execute(text.encode()).rowcount == 1
        try:
            account = account_for(pipeline.database_url, _record(report), channels)
        finally:
            conn.execute("DELETE FROM readings WHERE channel_id = %s AND seq = 5", [channel])
            give_back(conn, before)
            if off:
                conn.execute(text.replace("+ 1 WHERE", "- 1 WHERE").encode())
    assert (account.lost, account.duplicates, account.windows_difference_uwh) == (
        lost, duplicates, off,
    )  # fmt: skip
    assert not account.ok
    assert account.failures[0].channel == f"homesync:{report.home}/n00007 total"
    assert account_for(pipeline.database_url, _record(report), channels).ok


def _record(report: LoadReport) -> Path:
    return Path(report.record)


def _channels(conn: psycopg.Connection, report: LoadReport) -> dict[int, tuple[int, ...]]:
    assert read_header(_record(report)).home == report.home
    rows = conn.execute(
        "SELECT right(address, 5)::int, array_agg(channel_id ORDER BY "
        "array_position('{total,l1,l2,l3}', channel.name)) "
        "FROM channel JOIN device USING (device_id) WHERE home_id = %s GROUP BY 1",
        [report.home],
    ).fetchall()
    return {node: tuple(ids) for node, ids in rows}


def test_a_stopped_process_is_named(
    pipeline: Stack, report: LoadReport, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load, "TICKS_WITHIN_S", 5.0)
    for name in ("worker", "uplink"):
        pipeline.stop_process(name)
        try:
            with pytest.raises(NotRunning, match=name):
                run_load(*connections(pipeline), Options(1, 1, 1))
        finally:
            pipeline.start_process(name)


# ---- options ----


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((0, 1, 1), "1 to 19,000"),
        ((20_000, 1_000, 60), "1 to 19,000"),
        ((10, 0, 10), "above 0"),
        ((1_000, 1, 10_000), "give --rate 4.2 or more"),
        ((100, 10, 5), "give --seconds 10 or more"),
        ((1, 1, 1, 1, 2), "1 or 3"),
        ((1, 1, 1, 1, 1, "hope"), "ack or puback"),
    ],
)
def test_options_that_make_no_load_say_what_to_change(options: tuple, text: str):
    with pytest.raises(BadLoad, match=text):
        Options(*options)


def test_without_a_stack_the_first_server_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METERSTREAM_MQTT_PORT", "1")
    app = typer.Typer()
    load.register(app)
    app.callback()(lambda: None)
    words = ["load", "--devices", "1", "--rate", "1", "--seconds", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "mosquitto does not answer at 127.0.0.1:1; is the stack up? `meterstream up`" in (
        done.stderr
    )
    bad = CliRunner().invoke(app, [*words, "--phases", "2"])
    assert bad.exit_code == 2
    assert "a node has 1 or 3" in bad.stderr


# ---- odd nodes ----


def test_odd_nodes_are_stored_once_and_their_energy_is_what_the_meters_counted(
    pipeline: Stack, tmp_path: Path
):
    beliefs: tuple[Believe, ...] = ("ack", "puback")
    loads = []
    for believe in beliefs:
        settings = SwarmSettings(
            home=f"odd-{believe}", devices=40, rate=400, seed=5, phases=3, believe=believe,
            port=pipeline.mqtt_port, behaviour=replace(ODD, silence=0.01, longest_silence_s=4),
        )  # fmt: skip
        channels = claim_devices(pipeline.database_url, settings)
        loads.append((settings, new_record(settings, tmp_path), channels))
    for counts in asyncio.run(all_speak_oddly(loads)):
        assert min(counts.silences, counts.duplicates, counts.out_of_order) > 5
        assert counts.register_jumps > 0
        assert counts.false_acks == 0
    addresses = [one.address(node) for one, _, _ in loads for node in range(one.devices)]
    wait_final(pipeline.database_url, pipeline.kafka_bootstrap, addresses, timeout_s=200)
    for _, record, channels in loads:
        account = account_for(pipeline.database_url, record.path, channels)
        assert account.failures == []
        assert account.ok
        assert account.sent == account.stored == 4 * (3_200 + 40)


async def all_speak_oddly(loads: list[tuple[SwarmSettings, Record, Any]]) -> list[Counts]:
    return await asyncio.gather(*(speak_oddly(one, record) for one, record, _ in loads))


async def speak_oddly(settings: SwarmSettings, record: Record) -> Counts:
    async with Swarm(settings, record) as swarm:
        await swarm.connect(30)
        await swarm.run(8)
        assert await swarm.drain(60) == 0
        await swarm.finish()
        assert await swarm.drain(60) == 0
        return swarm.counts
