"""From a bucket to its readings and their bytes: the parts that need no server."""

import json

import pytest

from infra.tracing.bucket import agreements, gap_share, made_by, segments_of
from infra.tracing.raw_records import Held, RawRecord, runs
from schemas.reading import Clock, Source
from schemas.units import MINUTE_US, QUARTER_US, SECOND_US
from sinks.register_repairs import RepairRecord
from sinks.trace_rows import QuarterRows, StoredReading
from streams.energy import Point
from streams.registers import Limits
from tests.value_rows import value_row

WH = 10**6
START_US = 1_772_330_400 * SECOND_US  # a whole quarter of an hour
LIMITS = Limits(300 * SECOND_US, 100_000_000)


def at(minute: float) -> int:
    return START_US + round(minute * MINUTE_US)


def point(minute: float, power_w: float | None = None, wh: float | None = None) -> Point:
    return Point(
        at(minute),
        None if power_w is None else round(power_w * 1000),
        None if wh is None else round(wh * WH),
    )


def rows(*repairs: RepairRecord) -> QuarterRows:
    told = [(repair, 1) for repair in repairs]
    return QuarterRows(7, START_US, 3, START_US + QUARTER_US, None, [], [], told, [], [])


def made(points: list[Point], *repairs: RepairRecord) -> list[float]:
    """The minutes of the readings that made the bucket."""
    segments = segments_of(points, START_US, START_US + QUARTER_US, LIMITS)
    found = made_by(points, rows(*repairs), segments, LIMITS)
    return [(instant - START_US) / MINUTE_US for instant in sorted(found)]


def test_a_bucket_of_a_register_reaches_to_the_readings_around_its_ends():
    points = [point(minute, None, 10 * k) for k, minute in enumerate([-20, -3, 4, 11, 18, 25])]
    assert made(points) == [-3, 4, 11, 18]


def test_power_within_a_segment_that_crosses_an_end_shapes_it_and_belongs_to_the_bucket():
    points = [point(-8, 100, 0), point(-5, 300), point(1, 100, 20), point(14, 90, 30)]
    assert made([*points, point(16, 80, 40), point(19, 70)]) == [-8, -5, 1, 14, 16]


def test_a_bucket_of_power_alone_reaches_as_far_as_the_gap_limit():
    points = [point(-9, 5), point(-2, 10), point(3, 20), point(14, 30), point(21, 40)]
    assert made(points) == [-2, 3, 14], "21 min is 6 min after the end"


def test_a_silence_of_days_is_made_by_its_two_ends():
    points = [point(-4000, None, 5), point(4000, None, 500)]
    assert made(points) == [-4000, 4000]
    (only,) = segments_of(points, START_US, START_US + QUARTER_US, LIMITS)
    assert (only.before_uwh, only.after_uwh, only.segment.energy_uwh) == (
        5 * WH,
        500 * WH,
        495 * WH,
    )


def test_a_spike_is_among_the_readings_that_made_the_bucket():
    points = [point(k, None, wh) for k, wh in [(-1, 10), (1, 20), (14.5, 9e6), (16, 30), (17, 31)]]
    spike = RepairRecord(7, at(1), at(14.5), False, at(16), 9, 0, 20 * WH, 9 * 10**12)
    assert made(points, spike) == [-1, 1, 14.5, 16]


def test_the_shares_of_a_gap_in_its_quarters_add_up_to_it():
    begins_us, ends_us, energy, export = at(-100) + 7, at(203) + 1, 10_000_019, 333
    quarters = [at(15 * k) for k in range(-8, 15)]
    shares = [
        gap_share(begins_us, ends_us, energy, export, quarter, quarter + QUARTER_US)
        for quarter in quarters
        if quarter < ends_us and quarter + QUARTER_US > begins_us
    ]
    assert sum(share for share, _ in shares) == energy
    assert sum(share for _, share in shares) == export


def record(payload: bytes, offset: int = 5) -> RawRecord:
    headers = {
        "mqtt_topic": b"homesync/h/nodes/n/telemetry/power",
        "received_at": str(at(1)).encode(),
        "source": b"mqtt",
        "shard": b"s0",
    }
    return RawRecord(offset, b"homesync:h/n", payload, headers, at(1))


def reading(**values: float) -> StoredReading:
    said = value_row(**values)
    return StoredReading(at(1), at(1), 5, 1, Clock.DEVICE, Source.MQTT, said)


def envelope(minute: float = 1, **values: float) -> bytes:
    said = {"v": 1, "boot": "b", "seq": 1, "first": 1, "ts": at(minute) / SECOND_US}
    return json.dumps(said | {"channels": {"total": values}}).encode()


def test_bytes_agree_with_a_reading_that_holds_all_they_say():
    stored = reading(power_w=100.5, voltage_v=230.0, import_total_wh=7.0)
    assert agreements("total", stored, record(envelope(power_w=100.5, voltage_v=230.0))) == [
        True, True,
    ]  # fmt: skip
    assert agreements("total", stored, record(envelope(power_w=100.5, voltage_v=231.0))) == [
        True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [envelope(2, power_w=100.5), b"\x00", envelope(power_w=100.5).replace(b"total", b"l1")],
)
def test_bytes_of_something_else_do_not_agree(payload: bytes):
    assert agreements("total", reading(power_w=100.5), record(payload)) == [False]


def test_a_reading_of_long_ago_still_agrees_with_its_bytes():
    old = record(envelope(-60 * 24 * 200, power_w=1.0))
    stored = reading(power_w=1.0)._replace(measured_us=at(-60 * 24 * 200))
    assert agreements("total", stored, old) == [True]


def test_offsets_that_lie_close_are_read_in_one_go():
    assert runs([]) == []
    assert runs([1, 2, 5_002, 10_003, 10_004]) == [[1, 2, 5_002], [10_003, 10_004]]


def test_why_there_is_no_record_is_said():
    held = Held(3, oldest=100, end=200, records={})
    assert "no longer holds offset 99 of partition 3: its oldest is 100" in held.missing(99)
    assert "ends at 200: the log was made anew" in held.missing(200)
    assert "no record at offset 150 of partition 3" in held.missing(150)
