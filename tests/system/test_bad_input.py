"""Whatever comes over MQTT: one refused record with reason and bytes; the next message flows."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from schemas.topics import RAW_DLQ
from schemas.units import SECOND_US
from tests.system.conftest import Node, Pipeline, Publisher, Record, TopicReader, wait_for

pytestmark = pytest.mark.stack


class Bad(NamedTuple):
    name: str
    reason: str
    payload: Callable[[Node, float], bytes]  # of a node, at this Unix time


def envelope(node: Node, ts: object, total: str) -> bytes:
    """A payload of a node whose channel is any text."""
    node.seq += 1
    return (
        f'{{"v":1,"boot":"b0","seq":{node.seq},"first":1,"ts":{json.dumps(ts)},'
        f'"channels":{{"total":{total}}}}}'
    ).encode()


DAY_S = 86_400
SURROGATE = b"\xed\xa0\x80"
BAD = [
    Bad("undecodable bytes", "malformed", lambda node, now: b"\x00\xff\xfe\x80 no text"),
    Bad("half a message", "malformed", lambda node, now: envelope(node, now, '{"power_w":1}')[:-9]),
    Bad("nothing", "malformed", lambda node, now: b""),
    Bad("a text for a number", "wrong_type",
        lambda node, now: envelope(node, now, '{"power_w":"12"}')),
    Bad("a list for an object", "wrong_type", lambda node, now: envelope(node, now, "[1,2]")),
    Bad("NaN", "not_finite", lambda node, now: envelope(node, now, '{"power_w":NaN}')),
    Bad("Infinity", "not_finite", lambda node, now: envelope(node, now, '{"power_w":Infinity}')),
    Bad("minus Infinity", "not_finite",
        lambda node, now: envelope(node, now, '{"power_w":-Infinity}')),
    Bad("a number beyond any double", "out_of_range",
        lambda node, now: envelope(node, now, '{"power_w":1e999}')),
    Bad("lone surrogates", "malformed",
        lambda node, now: envelope(node, now, '{"power_w":1,"\\ud800":2}')),
    Bad("a surrogate's bytes", "malformed",
        lambda node, now: envelope(node, now, '{"power_w":1,"@":2}').replace(b"@", SURROGATE)),
    Bad("a key twice", "malformed",
        lambda node, now: envelope(node, now, '{"power_w":1,"power_w":2}')),
    Bad("a megabyte", "too_large",
        lambda node, now: envelope(node, now, '{"power_w":1,"pad":"' + "x" * 1_000_000 + '"}')),
    Bad("depth 1,000", "too_deep",
        lambda node, now: envelope(node, now, '{"power_w":1,"x":' + "[" * 1000 + "]" * 1000 + "}")),
    Bad("depth 1,000 that never ends", "too_deep", lambda node, now: b'{"a":' * 1000),
    Bad("the year 2106", "clock_ahead",
        lambda node, now: envelope(node, 4_294_967_295.0, '{"power_w":1}')),
    Bad("the year 1970 as text", "too_old",
        lambda node, now: b'{"power": 5.5, "ts": "1970-01-01T00:00:07Z"}'),
    Bad("a time before 1970", "too_old",
        lambda node, now: envelope(node, -5e8, '{"power_w":1}')),
    Bad("a clock 200 days old", "too_old",
        lambda node, now: envelope(node, now - 200 * DAY_S, '{"power_w":1}')),
    Bad("negative energy", "out_of_range",
        lambda node, now: envelope(node, now, '{"import_total_wh":-0.5}')),
    Bad("negative energy of an interval", "out_of_range",
        lambda node, now: envelope(node, now, '{"interval_s":60,"interval_import_wh":-1}')),
    Bad("a voltage that cannot be", "out_of_range",
        lambda node, now: envelope(node, now, '{"voltage_v":230000}')),
    Bad("a power that cannot be", "out_of_range",
        lambda node, now: envelope(node, now, '{"power_w":1.5e7}')),
    Bad("a later version", "wrong_version",
        lambda node, now: envelope(node, now, '{"power_w":1}').replace(b'"v":1', b'"v":2')),
]  # fmt: skip


class Sent(NamedTuple):
    node: Node
    payload: bytes
    letters: list[Record]


@pytest.fixture(scope="module")
def sent(pipeline: Pipeline) -> dict[str, Sent]:
    """By its name each bad message, its node, which said something good after it, its letters."""
    pids = [pipeline.pid(name) for name in ("worker", "uplink")]
    chunks = strange_chunks(pipeline)
    reasons = Counter(bad.reason for bad in BAD)
    before = {reason: refused_total(pipeline, reason) for reason in reasons}
    home, now = f"h{random.randrange(10**12)}", time.time()
    found = {}
    publisher = Publisher(pipeline.stack)
    for number, bad in enumerate(BAD):
        node = Node(publisher, home, f"n{number}")
        found[bad.name] = Sent(node, bad.payload(node, now), [])
        publisher.publish(node.topic, found[bad.name].payload)
        node.say(int(now * SECOND_US), power_w=7.5)
    publisher.flush()
    publisher.close()

    for name, one in found.items():
        address = one.node.address
        wait_for(lambda a=address: powers(pipeline, a), f"the good message after {name}")
    for reason, count in reasons.items():
        wanted = before[reason] + count
        wait_for(lambda r=reason, w=wanted: refused_total(pipeline, r) == w, f"{reason} is counted")
    assert [pipeline.pid(name) for name in ("worker", "uplink")] == pids
    assert strange_chunks(pipeline) == chunks

    by_key = {one.node.address: one.letters for one in found.values()}
    topics = TopicReader(pipeline.stack)
    for letter in topics.of(RAW_DLQ.name, lambda record: record.key in by_key, len(BAD)):
        by_key[letter.key].append(letter)
    return found


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name.replace(" ", "-"))
def test_it_is_one_refused_record_and_the_next_message_flows(
    pipeline: Pipeline, sent: dict[str, Sent], bad: Bad
):
    node, payload, letters = sent[bad.name]
    assert powers(pipeline, node.address) == [7.5]
    assert pipeline.refused(node.address) == [(bad.reason, payload)]
    (error,) = pipeline.query("SELECT error FROM refused WHERE address = %s", node.address)[0]
    assert len(error) > 20
    (letter,) = letters
    assert letter.value == payload
    assert letter.headers["__connect.errors.exception.class.name"].decode() == bad.reason


@pytest.mark.parametrize(
    ("topic", "address"),
    [
        ("home/{home}/sensor/moonlight", "home:{home}/main"),
        ("homesync/{home}/nodes//telemetry/power", "homesync/{home}/nodes//telemetry/power"),
        ("homesync/{home}/nodes/n/telemetry/moonlight", "homesync:{home}/n"),
    ],
)
def test_a_topic_of_a_subscribed_tree_that_no_decoder_knows_is_refused(
    pipeline: Pipeline, publisher: Publisher, home: str, topic: str, address: str
):
    topic, address = topic.format(home=home), address.format(home=home)
    publisher.publish(topic, b'{"value": 12.5}')
    node = Node(publisher, home)
    node.say(None, power_w=7.5)
    wait_for(lambda: pipeline.refused(address), "the refused record")
    assert pipeline.refused(address) == [("unknown_topic", b'{"value": 12.5}')]
    wait_for(lambda: powers(pipeline, node.address), "the next good message")


def test_five_thousand_new_addresses_in_a_minute_register_a_thousand(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    known = Node(publisher, home)
    known.say(None, power_w=1.0)
    wait_for(lambda: powers(pipeline, known.address), "a known device")
    pid = pipeline.pid("worker")
    for number in range(5_000):
        topic = f"homesync/{home}/nodes/new{number:04}/telemetry/power"
        publisher.publish(topic, f'{{"power": {number}}}')
    known.say(None, power_w=2.0)
    publisher.flush()
    address = f"homesync:{home}/new%"
    registered = "SELECT count(*) FROM device WHERE address LIKE %s"
    refused = "SELECT count(*) FROM refused WHERE address LIKE %s"

    def all_told() -> bool:
        return pipeline.value(registered, address) + pipeline.value(refused, address) == 5_000

    wait_for(all_told, "5,000 addresses registered or refused")
    reasons = pipeline.query("SELECT DISTINCT reason FROM refused WHERE address LIKE %s", address)
    assert reasons == [("too_many_new_devices",)]
    # Other devices of these minutes count too; 5,000 may have come over the turn of a minute.
    by_minute = dict(
        pipeline.query(
            "SELECT date_trunc('minute', received_at), count(*) FROM refused "
            "WHERE address LIKE %s GROUP BY 1", address,
        )
    )  # fmt: skip
    for minute in by_minute:
        assert pipeline.value(
            "SELECT count(*) FROM device WHERE claimed_at IS NULL "
            "AND date_trunc('minute', first_seen_at) = %s", minute,
        ) == 1_000  # fmt: skip
    # Who is registered keeps what it said; its number is what it said.
    stored = pipeline.query(
        "SELECT right(address, 4)::integer, power_w FROM device LEFT JOIN channel USING (device_id)"
        " LEFT JOIN readings USING (channel_id) WHERE address LIKE %s", address,
    )  # fmt: skip
    assert len(stored) == pipeline.value(registered, address)
    assert all(number == power_w for number, power_w in stored)
    wait_for(lambda: powers(pipeline, known.address) == [1.0, 2.0], "the known device's next one")
    assert pipeline.pid("worker") == pid

    # Room again in this minute, for other tests and for one that was refused.
    pipeline.query(
        "UPDATE device SET claimed_at = now() WHERE address LIKE %s RETURNING 1", address
    )
    ((topic, again),) = pipeline.query(
        "SELECT mqtt_topic, address FROM refused WHERE address LIKE %s LIMIT 1", address
    )
    publisher.publish(topic, b'{"power": 9.5}')
    wait_for(lambda: powers(pipeline, again) == [9.5], "a device refused before is taken")


def powers(pipeline: Pipeline, address: str) -> list[float]:
    return [
        power
        for (power,) in pipeline.query(
            "SELECT power_w FROM readings JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = %s ORDER BY log_offset", address,
        )
    ]  # fmt: skip


def refused_total(pipeline: Pipeline, reason: str) -> float:
    return pipeline.metric("worker", f'meterstream_stream_refused_total{{reason="{reason}"}}')


def strange_chunks(pipeline: Pipeline) -> list[tuple[object, ...]]:
    """Chunks of times at which nothing good was sent: but for today's, they never change."""
    now = datetime.now(UTC)
    return pipeline.query(
        "SELECT hypertable_name, range_start, range_end FROM timescaledb_information.chunks "
        "WHERE hypertable_name = 'readings' AND (range_end < %s OR range_start > %s) ORDER BY 1, 2",
        now - timedelta(days=2), now + timedelta(days=1),
    )  # fmt: skip
