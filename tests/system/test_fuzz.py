"""10,000 bad messages through the real broker, uplink, Kafka, worker and database."""

import time

import pytest

from infra.fuzz.oracle import Oracle, RawRecord
from infra.fuzz.run import Fuzz
from tests.system.conftest import Pipeline, Publisher

pytestmark = pytest.mark.stack

PAYLOADS = 10_000
LONGEST_S = 90.0


def test_ten_thousand_bad_messages_are_stored_or_refused_and_disturb_nobody(pipeline: Pipeline):
    pipeline.caught_up()
    report = Fuzz(pipeline.stack, seed=4).run(PAYLOADS)
    tally = report.tally
    assert tally.failures == []
    assert report.troubles == []
    assert tally.sent >= PAYLOADS
    assert tally.records == tally.sent - tally.unheard + tally.copies
    assert min(tally.readings, tally.states_only, tally.silent, tally.conflicts) > 0
    assert len(tally.refused) >= 10, "all kinds of faults were among them"
    assert report.seconds < LONGEST_S


def test_the_oracle_sees_what_is_lost_invented_or_altered(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    """The same record is accounted for as it is, and as it is not."""
    topic, payload = f"homesync/{home}/nodes/n/telemetry/power", b'{"power": 5.25}'
    other = b'{"power": "5"}'
    for said in (payload, other):
        publisher.publish(topic, said)
    publisher.flush()
    pipeline.caught_up()
    part, offset, received_us = pipeline.query(
        "SELECT part, log_offset + 1, to_us(received_at) FROM readings JOIN channel USING "
        "(channel_id) JOIN device USING (device_id), LATERAL (SELECT part FROM refused "
        "WHERE refused.address = device.address) AS r WHERE device.address = %s",
        f"homesync:{home}/n",
    )[0]
    good = RawRecord((part, offset - 1), topic, payload, received_us)
    bad = RawRecord((part, offset), topic, other, received_us + 1)
    letter = bad._replace(reason="wrong_type")

    def failures(sent, records, letters) -> int:
        pipeline.value("SELECT 1")
        oracle = Oracle(pipeline._connection)
        oracle.account(sent, records, letters)
        return oracle.tally.failed

    both = [(topic, payload), (topic, other)]
    assert failures(both, [good, bad], [letter]) == 0
    assert failures([*both, (topic, b"lost")], [good, bad], [letter]) == 1
    assert failures(both[:1], [good, bad], [letter]) == 1, "a record that nobody sent"
    assert failures(both, [good, bad], []) == 1, "no dead letter"
    assert failures(both, [good, bad], [letter._replace(payload=b"")]) == 1
    altered = good._replace(payload=b'{"power": 5.5}')
    assert failures([(topic, altered.payload), both[1]], [altered, bad], [letter]) == 2
    elsewhere = good._replace(place=(part, offset + 10**6), payload=other)
    assert failures([both[1]] * 2, [elsewhere, bad], [letter]) == 2, "refused, and not in the table"
    later = good._replace(received_us=time.time_ns() // 1000)
    assert failures(both, [later, bad], [letter]) == 1, "its reading is not stored"
