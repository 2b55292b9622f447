"""Late, doubled and shuffled readings end in the same windows, and correct those that were told."""

import random
import time
from collections import Counter

import pytest

from schemas.topics import USAGE_1M
from schemas.units import MINUTE_US, SECOND_US
from tests.system.conftest import Node, Pipeline, Publisher, TopicReader, minute_ago, wait_for

pytestmark = pytest.mark.stack

COUNT = (
    "SELECT count(*) FROM {} JOIN channel USING (channel_id) JOIN device USING (device_id) "
    "WHERE address = %s"
)


def trace(start_us: int, seed: int) -> list[tuple[int, dict[str, float]]]:
    """40 minutes of a household, a reading every 20 s, not every one with the register."""
    chance = random.Random(seed)
    readings, register_wh = [], 5_000.0
    for k in range(121):
        power_w = chance.choice((0.0, 85.5, 640.25, 2210.0)) + chance.randrange(100)
        register_wh = round(register_wh + power_w / 180, 3)
        said = {"power_w": power_w}
        if k % 3 == 0:
            said["import_total_wh"] = register_wh
        readings.append((start_us + k * 20 * SECOND_US, said))
    return readings


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_shuffled_doubled_and_late_trace_ends_in_the_windows_of_its_clean_twin(
    pipeline: Pipeline, publisher: Publisher, home: str, seed: int
):
    chance = random.Random(seed)
    readings = trace(minute_ago(120), seed)
    clean = Node(publisher, home, "clean")
    messy = Node(publisher, home, "messy")
    payloads = []
    for at_us, said in readings:
        clean.say(at_us, **said)
        payloads.append(messy.payload(at_us, total=said))
    clean.safe()

    late = set(chance.sample(range(len(payloads)), 40))
    prompt = [payload for k, payload in enumerate(payloads) if k not in late]
    prompt += chance.sample(prompt, 30)
    chance.shuffle(prompt)
    for payload in prompt:
        publisher.publish(messy.topic, payload)
    publisher.flush()
    stored = COUNT.format("readings")
    wait_for(
        lambda: pipeline.value(stored, messy.address) == len(payloads) - len(late), "the prompt"
    )
    pipeline.final(messy.address)  # told already, and wrong for want of the late ones
    assert contents(pipeline, messy) != contents(pipeline, clean)
    missing = [payloads[k] for k in late] + chance.sample(payloads, 20)
    chance.shuffle(missing)
    for payload in missing:
        publisher.publish(messy.topic, payload)
    messy.safe()
    pipeline.final(clean.address, messy.address)

    assert pipeline.value(stored, messy.address) == len(payloads)
    assert contents(pipeline, messy) == contents(pipeline, clean)
    windows, ledger = contents(pipeline, clean)
    assert len(windows) == 40
    energy_uwh = round(
        (readings[-1][1]["import_total_wh"] - readings[0][1]["import_total_wh"]) * 1e6
    )
    assert sum(row[1] for row in windows) == sum(row[1] for row in ledger) == energy_uwh
    assert pipeline.value(COUNT.format("reading_conflict"), messy.address) == 0


def contents(pipeline: Pipeline, node: Node) -> tuple[list, list]:
    return (
        [window.content for window in pipeline.minutes(node.address)],
        [window.content for window in pipeline.quarters(node.address)],
    )


def test_a_late_reading_raises_the_revision_of_its_windows_only_and_the_ledger_follows(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str
):
    #  600 W each 30 s; the reading of 5:30 comes late and says 1200 W: 5 Wh more in minute 5
    start_us = minute_ago(120)
    node = Node(publisher, home)
    instants = [start_us + k * 30 * SECOND_US for k in range(33)]
    missing_us = start_us + 5 * MINUTE_US + 30 * SECOND_US
    for at_us in instants:
        if at_us != missing_us:
            node.say(at_us, power_w=600.0)
    node.safe()
    pipeline.final(node.address)
    before, ledger = pipeline.minutes(node.address), pipeline.quarters(node.address)
    assert [window.energy_uwh for window in before] == [10_000_000] * 16
    assert {window.revision for window in before} == {1}
    assert [(q.energy_uwh, q.revision) for q in ledger] == [(150_000_000, 1), (10_000_000, 0)]

    node.say(missing_us, power_w=1200.0)
    node.safe()
    pipeline.final(node.address)
    after, corrected = pipeline.minutes(node.address), pipeline.quarters(node.address)
    assert after[5].energy_uwh == 15_000_000
    assert (after[5].readings, after[5].power_max_w, after[5].revision) == (2, 1200.0, 2)
    assert after[:5] + after[6:] == before[:5] + before[6:]
    assert [(q.energy_uwh, q.revision) for q in corrected] == [(155_000_000, 2), (10_000_000, 0)]

    def told(record) -> bool:
        said = record.document if record.value else {}
        at_us = start_us + 5 * MINUTE_US
        return said.get("address") == node.address and said["window_start_us"] == at_us

    revisions = [record.document for record in topics.of(USAGE_1M.name, told, 2)]
    assert max(revisions, key=lambda said: said["revision"])["energy_uwh"] == 15_000_000
    assert {said["revision"] for said in revisions} == {1, 2}


def test_the_civil_day_follows_a_late_reading(pipeline: Pipeline, publisher: Publisher, home: str):
    start_us = minute_ago(3 * 24 * 60)
    node = Node(publisher, home)
    for minute in range(0, 20, 4):
        node.say(start_us + minute * MINUTE_US, power_w=300.0)
    node.safe()
    pipeline.final(node.address)
    of_node = "JOIN channel USING (channel_id) JOIN device USING (device_id) WHERE address = %s"
    total = f"SELECT sum(energy_uwh) FROM {{}} {of_node}"
    tables = ("usage_1m", "usage_15m", "usage_1h", "usage_1d", "usage_1w", "usage_1mo")
    sums = [pipeline.value(total.format(table), node.address) for table in tables]
    assert sums == [80_000_000] * len(tables)  # 16 minutes
    node.say(start_us + 2 * MINUTE_US, power_w=900.0)  # a triangle of 4 min × 600 W on top
    node.safe()
    pipeline.final(node.address)
    sums = [pipeline.value(total.format(table), node.address) for table in tables]
    assert sums == [100_000_000] * len(tables)


def test_of_two_readings_with_one_key_the_greater_seq_wins_and_the_other_is_a_conflict(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    at_us = minute_ago(60)
    winners = {}
    for name, order in (("forth", (0, 1)), ("back", (1, 0))):
        node = Node(publisher, home, name)
        payloads = [
            node.payload(at_us, total={"power_w": 100.0, "voltage_v": 230.0}),
            node.payload(at_us, total={"power_w": 200.0, "voltage_v": 231.0}),
        ]
        for k in order:
            publisher.publish(node.topic, payloads[k])
        node.safe()
        pipeline.caught_up()
        winners[name] = pipeline.query(
            "SELECT seq, power_w, voltage_v FROM readings JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = %s", node.address,
        )  # fmt: skip
        ((seq, reading),) = pipeline.query(
            "SELECT seq, reading FROM reading_conflict JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = %s", node.address,
        )  # fmt: skip
        assert (seq, reading["power_w"], reading["voltage_v"]) == (1, 100.0, 230.0)
    assert winners["forth"] == winners["back"] == [(2, 200.0, 231.0)]


def test_two_messages_of_one_instant_that_say_different_fields_become_one_row(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    at_us = minute_ago(60)
    node = Node(publisher, home)
    node.say(at_us, power_w=100.0)
    node.say(at_us, import_total_wh=500.0)
    node.safe()
    pipeline.caught_up()
    assert pipeline.query(
        "SELECT power_w, import_total_wh FROM readings JOIN channel USING (channel_id) "
        "JOIN device USING (device_id) WHERE address = %s", node.address,
    ) == [(100.0, 500.0)]  # fmt: skip
    conflicts = pipeline.query(
        "SELECT 1 FROM reading_conflict JOIN channel USING (channel_id) "
        "JOIN device USING (device_id) WHERE address = %s", node.address,
    )  # fmt: skip
    assert conflicts == []


def test_a_reading_sent_many_times_is_stored_and_counted_once(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    start_us = minute_ago(60)
    node = Node(publisher, home)
    payloads = [
        node.payload(start_us + k * MINUTE_US, total={"power_w": 60.0 * k}) for k in range(6)
    ]
    for payload in payloads * 4:
        publisher.publish(node.topic, payload)
    node.safe()
    time.sleep(1)
    pipeline.final(node.address)
    counts = Counter(window.readings for window in pipeline.minutes(node.address))
    assert counts == {1: 5}
    assert [window.energy_uwh for window in pipeline.minutes(node.address)] == [
        500_000, 1_500_000, 2_500_000, 3_500_000, 4_500_000,
    ]  # fmt: skip
