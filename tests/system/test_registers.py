"""Odd registers through the whole pipeline: what is counted, what is told, where it came from."""

import json
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import RAW
from schemas.units import MINUTE_US, SECOND_US
from tests.streams.test_registers import T0, made_up
from tests.system.conftest import Node, Pipeline, Publisher, minute_ago

pytestmark = pytest.mark.stack

WH = 10**6
EXPORT_RESET_S = 1000
EXPORT_WH_PER_S = 0.02


@dataclass
class Meter:
    """A made-up meter that has spoken for half an hour, and what it used in truth."""

    node: Node
    start_us: int
    import_uwh: int = 0
    export_uwh: int = 0
    payloads: dict[int, bytes] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.node.address

    def say(self, at_s: float, power_w: float, import_wh: float) -> None:
        since_s = at_s if at_s < EXPORT_RESET_S else at_s - EXPORT_RESET_S
        export_wh = (5000 if at_s < EXPORT_RESET_S else 0) + since_s * EXPORT_WH_PER_S
        at_us = self.start_us + round(at_s * SECOND_US)
        self.payloads[at_us] = self.node.say(
            at_us,
            power_w=power_w,
            import_total_wh=import_wh,
            export_total_wh=round(export_wh, 3),
        )


@pytest.fixture(scope="module")
def meter(pipeline: Pipeline) -> Meter:
    chance = Random(20261121)
    publisher = Publisher(pipeline.stack)
    one = Meter(Node(publisher, f"h{chance.randrange(10**12)}"), minute_ago(90))
    readings, one.import_uwh = made_up(chance)
    one.export_uwh = round(1800 * EXPORT_WH_PER_S * WH)
    at_s = import_wh = 0.0
    for at_us, power_mw, import_uwh, *_ in readings:
        at_s, import_wh = (at_us - T0) / SECOND_US, import_uwh / WH
        one.say(at_s, power_mw / 1000, import_wh)
    for _ in range(3):  # it stands still; the export register too, as good as
        at_s += 40
        one.say(at_s, 0.0, import_wh)
        one.export_uwh = round(at_s * EXPORT_WH_PER_S * WH)
    one.node.safe()
    publisher.close()
    pipeline.final(one.address)
    return one


def test_the_ledger_of_a_meter_with_six_oddities_is_true_to_1_wh(pipeline: Pipeline, meter: Meter):
    ((energy, export),) = pipeline.query(
        "SELECT sum(energy_uwh)::bigint, sum(export_uwh)::bigint FROM usage_15m "
        "JOIN channel USING (channel_id) JOIN device USING (device_id) WHERE address = %s",
        meter.address,
    )
    assert abs(energy - meter.import_uwh) < WH
    assert abs(export - meter.export_uwh) < WH


def test_each_oddity_is_a_row_that_says_what_and_how_much(pipeline: Pipeline, meter: Meter):
    shown = pipeline.meterstream("repairs", meter.address)
    imports = [one for one in shown if one["register"] == "import"]
    kinds = sorted(one["why"] for one in imports)
    assert kinds == [*["register_reset"] * 3, "register_rollover", *["register_spike"] * 2]
    (rollover,) = (one for one in imports if one["why"] == "register_rollover")
    assert rollover["before_wh"] > 9_999_960
    assert rollover["after_wh"] < 40
    assert "passed the end of its span" in rollover["text"]
    (export,) = (one for one in shown if one["register"] == "export")
    assert export["why"] == "register_reset"
    #  energy of a channel = last register - first + Σ added
    registers = [json.loads(meter.payloads[at]) for at in sorted(meter.payloads)]
    first, last = (one["channels"]["total"] for one in (registers[0], registers[-1]))
    for name, repairs, true_uwh in (
        ("import_total_wh", imports, meter.import_uwh),
        ("export_total_wh", [export], meter.export_uwh),
    ):
        counted_wh = last[name] - first[name] + sum(one["added_wh"] for one in repairs)
        assert counted_wh == pytest.approx(true_uwh / WH, abs=1)
    early = pipeline.meterstream(
        "repairs", meter.address,
        "--from", _iso(meter.start_us), "--to", _iso(meter.start_us + 10 * MINUTE_US),
    )  # fmt: skip
    assert {one["why"] for one in early} <= {"register_spike", "register_rollover"}


def test_register_and_power_are_reconciled_by_day(pipeline: Pipeline, meter: Meter):
    shown = pipeline.meterstream(
        "reconcile", meter.address, "--from", _iso(meter.start_us),
        "--to", _iso(meter.start_us + 35 * MINUTE_US),
    )  # fmt: skip
    imports = [one for one in shown if one["register"] == "import"]
    assert {one["outcome"] for one in imports} <= {"compared", "no_readings"}
    register_wh = sum(one["register_wh"] for one in imports)
    left_out_wh = sum(one["left_out_wh"] for one in imports)
    drift_wh = sum(one["drift_wh"] for one in imports)
    assert 0.9 * meter.import_uwh / WH < register_wh < meter.import_uwh / WH
    assert register_wh + left_out_wh < meter.import_uwh / WH + 1
    assert abs(drift_wh) < 0.02 * register_wh, "its load changes between its readings"
    assert sum(one["repaired"] for one in imports) == 5, "resets and spikes; a rollover is counted"


def test_a_bucket_is_traced_to_the_bytes_that_made_it(pipeline: Pipeline, meter: Meter):
    at = _iso(meter.start_us + 20 * MINUTE_US)
    shown = pipeline.meterstream("trace", meter.address, "--at", at)
    assert shown["adds_up"] is True
    assert shown["minutes_follow"] is True
    assert shown["bucket"]["complete"] is True
    assert len(shown["minutes"]) == 15
    minutes_wh = sum(one["energy_wh"] for one in shown["minutes"])
    assert minutes_wh == pytest.approx(shown["bucket"]["energy_wh"], abs=1e-6)
    assert {one["register"] for one in shown["segments"]} == {"import", "export"}
    assert {one["why"] for one in shown["repairs"]} >= {"register_reset"}
    within = {at for at in meter.payloads if 15 * MINUTE_US <= at - meter.start_us < 30 * MINUTE_US}
    assert len(shown["readings"]) >= len(within)
    traced = [b64decode(one["record"]["payload_base64"]) for one in shown["readings"]]
    assert set(traced) >= {meter.payloads[at] for at in within}
    assert all(payload in meter.payloads.values() for payload in traced)
    assert all(one["agrees"] for one in shown["readings"])
    assert {one["record"]["key"] for one in shown["readings"]} == {meter.address}

    #  Kafka has let go of the first of them
    first, second = shown["readings"][:2]
    place = TopicPartition(RAW.name, second["partition"], second["offset"])
    admin = AdminClient({"bootstrap.servers": pipeline.stack.kafka_bootstrap})
    for answer in admin.delete_records([place]).values():
        answer.result()
    again = pipeline.meterstream("trace", meter.address, "--at", at)
    assert again["readings"][0]["record"] is None
    assert again["readings"][0]["agrees"] is None
    assert f"no longer holds offset {first['offset']}" in again["readings"][0]["missing"]
    assert again["readings"][1] == second


def test_people_are_told_in_words(pipeline: Pipeline, meter: Meter):
    at = _iso(meter.start_us + 10 * MINUTE_US)
    for arguments, texts in (
        (("repairs",), ["register_rollover", "began anew at 0", "passed over, nothing counted"]),
        (("reconcile", "--from", at, "--to", at[:17] + "59+00:00"), ["power says", "total"]),
        (
            ("trace", "--at", at),
            ["15 minutes sum to", "the bucket", "are what the readings say", '"power_w":'],
        ),
    ):
        process = pipeline.start_meterstream(arguments[0], meter.address, *arguments[1:])
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "NOT" not in output
        for text in texts:
            assert text in " ".join(output.split()), text


def test_a_bucket_within_a_silence_is_traced_to_its_two_ends(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    start_us = minute_ago(300)
    node = Node(publisher, home)
    said = [
        node.say(start_us + minute * MINUTE_US, import_total_wh=float(wh))
        for minute, wh in ((1, 100), (201, 300), (202, 301), (203, 302))
    ]
    node.safe()
    pipeline.final(node.address)
    shown = pipeline.meterstream("trace", node.address, "--at", _iso(start_us + 100 * MINUTE_US))
    assert (shown["adds_up"], shown["minutes"]) == (True, [])
    assert shown["bucket"]["energy_wh"] == pytest.approx(15, abs=1e-6)
    assert shown["bucket"]["quality"] == "interpolated"
    (gap,) = shown["gaps"]
    assert (gap["energy_wh"], gap["bucket_energy_wh"]) == (200, shown["bucket"]["energy_wh"])
    assert [one["record"]["payload"].encode() for one in shown["readings"]] == said[:2]


def test_what_cannot_be_traced_is_said(pipeline: Pipeline, meter: Meter):
    for arguments, text in (
        ((meter.address, "--at", "2020-01-01"), "no quarter hour at"),
        ((meter.address, "--at", "2020-01-01", "--channel", "l9"), "no channel 'l9'"),
        (("nobody-at-all", "--at", "2020-01-01"), "no device has the name"),
    ):
        process = pipeline.start_meterstream("trace", *arguments, "--json")
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output) == (1, "")
        assert text in errors


def _iso(at_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).isoformat()
