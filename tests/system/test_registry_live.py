"""What people change of a device reaches the running stream: its home, and its longest gap."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from schemas.topics import READING, USAGE_1M, USAGE_15M
from schemas.units import MINUTE_US, SECOND_US
from sinks.contracts import set_home
from sinks.device_details import change_device
from sinks.device_homes import move_device
from sinks.registry import claim_device
from tests.system.conftest import (
    Node,
    Pipeline,
    Publisher,
    Record,
    TopicReader,
    minute_ago,
    wait_for,
)

pytestmark = pytest.mark.stack

Told = dict[tuple[int, int], tuple[str | None, int, int]]
"""(channel, start) -> home, energy and export in µWh."""

STORED = """
    SELECT u.channel_id, to_us(u.window_start), h.home_id, u.energy_uwh, u.export_uwh
    FROM {table} u JOIN channel c USING (channel_id) JOIN device d USING (device_id)
    LEFT JOIN device_home h ON h.device_id = d.device_id AND h.valid_from <= u.window_start
                           AND coalesce(h.valid_to, 'infinity') > u.window_start
    WHERE d.address = ANY(%s) AND {which}"""


def at(us: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)


def final(pipeline: Pipeline, node: Node) -> None:
    def is_final() -> bool:
        pipeline.final(node.address)
        return True

    wait_for(is_final, f"the usage of {node.address} is final")  # Kafka may be too busy to say


def minutes_stored(pipeline: Pipeline, *addresses: str) -> Told:
    rows = pipeline.query(STORED.format(table="usage_1m", which="true"), list(addresses))
    return {row[:2]: row[2:] for row in rows}


def quarters_stored(pipeline: Pipeline, *addresses: str) -> Told:
    """Those that are complete, once all of them are announced."""
    unannounced = STORED.format(table="usage_15m", which="complete AND NOT announced")
    wait_for(
        lambda: (
            not pipeline.query("SELECT FROM usage_retold LIMIT 1")
            and not pipeline.query(unannounced, list(addresses))
        ),
        "the ledger is announced",
    )
    rows = pipeline.query(STORED.format(table="usage_15m", which="complete"), list(addresses))
    return {row[:2]: row[2:] for row in rows}


def read(topics: TopicReader, topic: str) -> list[Record]:
    """What the topic holds; a broker that is too busy to tell is asked again."""

    def once() -> list[Record] | None:
        try:
            return topics.read(topic)
        except AssertionError:
            return None

    return list(wait_for(once, f"{topic} is read", timeout_s=200))


def told(topics: TopicReader, topic: str, *addresses: str) -> Told:
    """What the topic says in the end: of each window the highest revision."""
    newest: dict[tuple[int, int], Any] = {}
    for record in read(topics, topic):
        said = record.document
        if said["address"] not in addresses:
            continue
        assert record.key == said.get("home_id", said["address"])
        key = (said["channel_id"], said["window_start_us"])
        if key not in newest or said["revision"] >= newest[key]["revision"]:
            newest[key] = said
    return {
        key: (said.get("home_id"), said["energy_uwh"], said["export_uwh"])
        for key, said in newest.items()
    }


def agree(topic: Told, stored: Told) -> bool:
    """Whether the topic says the same of all that was stored; meanwhile it may say more."""
    return {key: topic.get(key) for key in stored} == stored


def sums(windows: Told) -> dict[str | None, int]:
    found: dict[str | None, int] = defaultdict(int)
    for home_id, energy_uwh, _ in windows.values():
        found[home_id] += energy_uwh
    return dict(found)


@pytest.fixture
def load(publisher: Publisher, home: str) -> Iterator[Node]:
    """Another device, which does not stop speaking."""
    node, over = Node(publisher, home, "load"), threading.Event()

    def speak() -> None:
        while not over.wait(0.05):
            node.say(None, power_w=50.0 + node.seq % 7)

    speaking = threading.Thread(target=speak)
    speaking.start()
    yield node
    over.set()
    speaking.join()


def say(node: Node, start_us: int, end_us: int) -> None:
    """1 kW, a reading every 10 s with its register, `end_us` included."""
    for us in range(start_us, end_us + 1, 10 * SECOND_US):
        register_wh = round(us % 10**15 / 3_600_000, 3)
        node.say(us, power_w=1000.0, import_total_wh=register_wh)
    node.safe()


def test_a_device_that_moves_under_load_is_told_as_each_homes_own(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str, load: Node
):
    node, elsewhere = Node(publisher, home), f"{home}-new"
    with psycopg.connect(pipeline.stack.database_url) as conn:
        set_home(conn, home)
        set_home(conn, elsewhere)
        device_id = claim_device(conn, node.address, None, home, "Asia/Bangkok")
    start_us = minute_ago(75)
    moved_us = start_us + 22 * MINUTE_US + 17 * SECOND_US + 1
    say(node, start_us, moved_us)
    first = say_reading_home(topics, device_id)
    assert first == home

    with psycopg.connect(pipeline.stack.database_url) as conn:
        move_device(conn, device_id, elsewhere, at(moved_us))
    moved_at = time.monotonic()
    us = moved_us

    def is_known() -> bool:
        nonlocal us
        us += SECOND_US
        node.say(us, power_w=1000.0)
        node.safe()
        return say_reading_home(topics, device_id) == elsewhere

    wait_for(is_known, "readings are told as the new home's")
    print(f"\nthe worker knew the new home after {time.monotonic() - moved_at:.1f} s at the latest")
    say(node, us + 10 * SECOND_US, start_us + 63 * MINUTE_US)
    final(pipeline, node)

    minutes = minutes_stored(pipeline, node.address)
    assert len(minutes) >= 62
    wait_for(lambda: told(topics, USAGE_1M.name, node.address).keys() >= minutes.keys(), "minutes")
    assert agree(told(topics, USAGE_1M.name, node.address), minutes)
    quarters = quarters_stored(pipeline, node.address)
    assert agree(told(topics, USAGE_15M.name, node.address), quarters)
    assert {
        (start - start_us) // (15 * MINUTE_US): one[0] for (_, start), one in quarters.items()
    } == {0: home, 1: home, 2: elsewhere, 3: elsewhere}
    by_home = sums(quarters)
    assert set(by_home) == {home, elsewhere}
    assert sum(by_home.values()) == pytest.approx(1e9, abs=1e6)  # 1 kW for an hour

    # A device that was claimed late: its quarter hours are told once more, as the home's.
    publisher.flush()
    stranger = Node(publisher, f"{home}x")
    say(stranger, start_us, start_us + 32 * MINUTE_US)
    final(pipeline, stranger)
    unclaimed = quarters_stored(pipeline, stranger.address)
    assert set(sums(unclaimed)) == {None}
    with psycopg.connect(pipeline.stack.database_url) as conn:
        claim_device(conn, stranger.address, None, home, "Asia/Bangkok")
    claimed = quarters_stored(pipeline, stranger.address)
    assert sums(claimed) == {home: sums(unclaimed)[None]}
    assert agree(told(topics, USAGE_15M.name, stranger.address), claimed)


def say_reading_home(topics: TopicReader, device_id: int) -> str | None:
    """Whose the newest reading of the device is told to be."""

    def newest() -> list[tuple[int, str | None]]:
        packed = [one.document for one in read(topics, READING.name) if one.key == str(device_id)]
        return [(max(r["measured_us"] for r in one["readings"]), one["home_id"]) for one in packed]

    return max(wait_for(newest, "a reading is told"), key=lambda one: one[0])[1]


def test_a_gap_limit_that_is_set_while_the_worker_runs_decides_over_the_next_silence(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    node = Node(publisher, home)
    with psycopg.connect(pipeline.stack.database_url) as conn:
        device_id = claim_device(conn, node.address, None, home, "Asia/Bangkok", gap_limit_s=300)
    us = minute_ago(600)

    def is_bridged() -> bool:
        """Whether the power of the next 200 s of silence is integrated."""
        nonlocal us
        begins, us = us, us + 4 * MINUTE_US
        node.say(begins, power_w=600.0)
        node.say(begins + 200 * SECOND_US, power_w=600.0)
        node.say(us, power_w=600.0)
        node.safe()
        final(pipeline, node)
        stored = {one.start_us: one.energy_uwh for one in pipeline.minutes(node.address)}
        inside = [stored.get(begins + n * MINUTE_US) for n in (1, 2)]
        assert inside in ([10_000_000] * 2, [None] * 2)
        return inside[0] is not None

    assert is_bridged()
    with psycopg.connect(pipeline.stack.database_url) as conn:
        change_device(conn, device_id, {"gap_limit_s": 60})
    wait_for(lambda: not is_bridged(), "the shorter limit holds")
    assert not is_bridged()
    with psycopg.connect(pipeline.stack.database_url) as conn:
        change_device(conn, device_id, {"gap_limit_s": 250})
    wait_for(is_bridged, "the longer limit holds")
    assert is_bridged()

    # Complete windows stay as their limit of then made them; those made since are judged.
    since_us, made_by_s = pipeline.query(
        "SELECT to_us(since), gap_limit_s FROM channel_limits JOIN channel USING (channel_id) "
        "WHERE device_id = %s", device_id,
    )[0]  # fmt: skip
    starts = [one.start_us for one in pipeline.minutes(node.address)]
    assert made_by_s == 250
    assert min(starts) < since_us < max(starts)
    found = pipeline.meterstream("verify")
    (minutes,) = [check for check in found["checks"] if check["name"] == "minutes"]
    assert minutes["outdated"] >= sum(start < since_us for start in starts)
