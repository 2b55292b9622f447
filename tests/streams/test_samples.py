"""Samples are what the long way says of the same records, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.decoders.topic_table import decode
from schemas.decoded import Undecodable
from schemas.reading import VALUE_NAMES, Clock
from schemas.units import SECOND_US
from sinks.copy_block import BlockBuilder
from streams.energy import Limits
from streams.partition import Channel, Device, Partition
from streams.records import Message, Refused, decode_chunks, meet, strangers
from streams.windows import held_of, row_of
from tests.streams.test_fold import Record

TOPIC = "homesync/h/nodes/n1/telemetry/power"
NOW_US = 1_795_000_000 * SECOND_US
LIMITS = Limits(300 * SECOND_US, 100_000_000)
TWICE = b'{"power_w":1,"power_w":2}'


def partition() -> Partition:
    made = Partition(0, 1, 0, 0, 0, {})
    device = Device(1, "homesync:h/n1", ((0, "h"),), LIMITS)
    made.devices[device.address] = device
    for n, name in enumerate(("total", "l1", "l2", "a:b")):
        device.channels[name] = Channel(10 + n, name, device, None)
    return made


def record(offset: int, payload: bytes, received: bytes = b"%d" % NOW_US) -> Record:
    headers = [
        ("mqtt_topic", TOPIC.encode()),
        ("received_at", received),
        ("source", b"mqtt"),
        ("shard", b"s0"),
        ("mid", b"7"),
    ]
    return Record(offset, NOW_US // 1000, b"homesync:h/n1", payload, headers)


def long_way(one: Record) -> list[Any] | str:
    """What `decode` makes of a record: its readings in memory's shape, or why it is refused."""
    try:
        said = decode(TOPIC, one.value or b"", NOW_US)
    except Undecodable as error:
        return error.reason.value
    return [
        (reading.channel, held_of(reading.measured_us, reading.seq, row))
        for reading in said.readings
        if (row := tuple(getattr(reading.values, name) for name in VALUE_NAMES))
        and reading.clock is Clock.DEVICE
    ]


def short_way(records: list[Record]) -> dict[int, list[Any] | str]:
    """The same by `decode_chunks`, by offset; what went the long way there is left out."""
    where = partition()
    fetched = [(where, records)]
    meet(strangers(fetched))
    ((_, parsed, _),), samples = decode_chunks(fetched)
    found: dict[int, list[Any] | str] = {}
    for item in parsed:
        if isinstance(item, Refused):
            found[item.offset] = item.reason.value
        elif isinstance(item, range):
            for i in item:
                held = samples.held[i]
                told = (samples.channels[i].name, (*held[:7], row_of(held[7])))
                found.setdefault(samples.records[i].offset, []).append(told)  # type: ignore[union-attr]
        else:
            assert isinstance(item, Message)
    return found


def envelope(**changes: Any) -> bytes:
    said = {
        "v": 1, "boot": "5f1c", "seq": 8, "first": 3, "ts": NOW_US / SECOND_US,
        "channels": {"total": {"power_w": 5.5}},
    }  # fmt: skip
    return json.dumps(said | changes).encode()


NUMBERS = st.integers(-3, 300) | st.floats(-5, 1e6) | st.none() | st.just("x")
CHANNELS = st.dictionaries(
    st.sampled_from(["total", "l1", "l2", "a:b", "new"]),
    st.dictionaries(st.sampled_from([*VALUE_NAMES, "mood"]), NUMBERS, max_size=5),
    max_size=3,
)
PAYLOADS = st.one_of(
    st.builds(
        envelope,
        channels=CHANNELS,
        seq=st.integers(0, 9),
        boot=st.sampled_from(["5f1c", "a-b", "{", "\x07", ""]),
        ts=st.sampled_from([None, 0, 1e300, NOW_US / SECOND_US, NOW_US / SECOND_US + 200, 1.5e9]),
    ),
    st.builds(envelope, channels=CHANNELS),
    st.builds(lambda n: envelope(relay=True) if n else envelope(v=2), st.integers(0, 1)),
    st.just(envelope().replace(b'{"power_w": 5.5}', TWICE)),
    st.just(envelope().replace(b'"seq"', b'"seq": 7, "seq"')),
    st.sampled_from([b"", b"{}", b"5", b"[1]", b"{", b"\xff"]),
)


@given(st.lists(PAYLOADS, min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_samples_are_what_the_long_way_says(payloads: list[bytes]):
    records = [record(offset, payload) for offset, payload in enumerate(payloads)]
    for offset, said in short_way(records).items():
        assert said == long_way(records[offset])


def test_usual_envelopes_do_become_samples():
    records = [
        record(0, envelope()),
        record(1, envelope(channels={"l1": {"power_w": 1}, "a:b": {"import_total_wh": 0.25}})),
        record(2, envelope(channels={"total": dict.fromkeys(VALUE_NAMES[:9], 1)})),
    ]
    assert [len(said) for said in short_way(records).values()] == [1, 2, 1]


@pytest.mark.parametrize(
    "payload",
    [
        envelope().replace(b'{"power_w": 5.5}', TWICE),
        envelope(channels={"total": {"power_w": 5.5}, "l1": {}}),
        envelope(channels={}),
        envelope(channels={"total": {"power_w": None, "voltage_v": 230}}),
        envelope(channels={"total": {"power_w": 1, "interval_s": 60, "interval_import_wh": 1}}),
        envelope(channels={"total": {"power_w": 1}, "new": {"power_w": 1}}),
        envelope(ts=None),
        envelope(ts=NOW_US / SECOND_US + 300),
        envelope(first=9),
        envelope(mood="good"),
        envelope(rssi_dbm=-60),
    ],
)
def test_what_is_out_of_the_ordinary_goes_the_long_way_alone(payload: bytes):
    records = [record(0, envelope()), record(1, payload), record(2, envelope(seq=9))]
    where = partition()
    meet(strangers([(where, records)]))
    ((_, parsed, _),), samples = decode_chunks([(where, records)])
    assert [type(item) for item in parsed][0::2] == [range, range]
    assert isinstance(parsed[1], Message | Refused)
    assert parsed[1].offset == 1
    offsets = [samples.records[i].offset for item in parsed[::2] for i in item]  # type: ignore[union-attr]
    assert offsets == [0, 2]


@pytest.mark.parametrize("received", [b"", b"x", b"-5", b"9" * 30, "٣".encode()])
def test_a_time_of_receipt_that_no_connector_wrote_is_refused_or_read_the_long_way(received: bytes):
    records = [record(0, envelope()), record(1, envelope(), received), record(2, envelope())]
    where = partition()
    meet(strangers([(where, records)]))
    ((_, parsed, _),), _ = decode_chunks([(where, records)])
    assert len(parsed) == 3
    assert not isinstance(parsed[1], range)


@given(st.lists(st.dictionaries(st.sampled_from(VALUE_NAMES[:9]), st.floats(0, 1), min_size=1)))
@settings(deadline=None)
def test_a_block_of_columns_has_the_rows_that_a_block_of_rows_has(said: list[dict[str, float]]):
    records = [
        record(n, envelope(seq=n, first=0, channels={"total": values}))
        for n, values in enumerate(said)
    ]
    where = partition()
    if records:
        meet(strangers([(where, records)]))
    _, samples = decode_chunks([(where, records)] if records else [])
    columns = samples.columns
    columns.new[:] = bytes(n % 3 != 1 for n in range(len(columns.new)))
    size, block = columns.block()
    rows = columns.rows()
    assert size == len(rows) == sum(n % 3 != 1 for n in range(len(said)))
    builder = BlockBuilder()
    whole = len(builder.block([]))
    expected = sorted(builder.block([row])[19:-2] for row in rows)
    assert len(block) == whole + sum(map(len, expected))
    assert all(row in block for row in expected)
