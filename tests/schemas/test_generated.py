"""The documents in `docs/` say what the structs say, and mean what they say."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from ingest.decoders.topic_table import address_of
from schemas import generate
from schemas.announcements import DeviceSaid, PackedReadings, RefusedHeaders
from schemas.bill import BillIssued
from schemas.command import CommandEvent, CommandRequest, CommandState, Kind
from schemas.cost import (
    Amount,
    BudgetAlert,
    BudgetPeriod,
    BudgetStatus,
    CostState,
    HomeCost,
    Level,
    Method,
    Projected,
    Turn,
)
from schemas.device import Event, State
from schemas.homesync import Ack
from schemas.presence import DeviceAlert, PresenceReason
from schemas.reading import Clock, Reading, Values
from schemas.topics import TOPICS
from schemas.usage import Quality, UsageWindow, Why

SCHEMAS = generate.DOCS / "schemas"


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


def test_the_committed_files_are_those_that_are_generated():
    assert generate.stale() == [], "run `make schemas`"


def test_a_changed_a_lost_and_a_left_over_file_are_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    changed, lost = tmp_path / "asyncapi.yaml", tmp_path / "schemas" / "event.schema.json"
    changed.write_text(changed.read_text().replace("12", "13"))
    lost.unlink()
    left_over = tmp_path / "schemas" / "sample.schema.json"
    left_over.write_text("{}")
    assert set(generate.stale()) == {changed, lost, left_over}
    assert generate.main(["--check"]) == 1


@pytest.mark.parametrize("name", generate.MESSAGES)
def test_each_schema_is_one_and_every_part_says_what_it_is(name: str):
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["description"]
        assert not re.search(r"\n {2,}", part["description"]), "the docstring's indent"


def test_numbers_that_stand_for_words_have_their_words():
    quality = json.loads((SCHEMAS / "usage_window.schema.json").read_text())["$defs"]["Quality"]
    assert "0 MEASURED, 1 INTEGRATED, 2 BACKFILLED" in quality["description"]


READING = {
    "channel": "l1",
    "measured_us": 1_763_700_000_250_000,
    "values": {"power_w": -12.5, "voltage_v": 231, "import_total_wh": 15234560.0},
    "clock": 0,
    "seq": 812,
}
STATE = {"measured_us": 1_763_700_000_250_000, "fields": {"relay": True, "rssi_dbm": -61}}
WINDOW = {
    "device_id": 7,
    "channel_id": 9,
    "address": "homesync:h1/n1",
    "channel": "total",
    "window_start_us": 1_763_700_000_000_000,
    "window_s": 60,
    "energy_uwh": 12_000_000,
    "export_uwh": 0,
    "quality": 0,
    "why": 0,
    "revision": 1,
}
AT = "2026-02-06T03:15:00Z"
COST = {"home_id": "h1", "state": "running", "at": AT, "revision": 7}
ALERT = {
    "alert_id": "budget/3/month/2026-02-01/1",
    "home_id": "h1",
    "budget_id": 3,
    "name": "February",
    "level": "warned",
    "turn": "raised",
    "at": AT,
    "period": "month",
    "start_at": "2026-01-31T17:00:00Z",
    "end_at": "2026-02-28T17:00:00Z",
    "limit": "1000",
    "unit": "THB",
    "used": "812.5",
}
PAYLOAD = {
    "v": 1,
    "boot": "5f1c09ab",
    "seq": 812,
    "first": 790,
    "ts": 1763700000.25,
    "channels": {"total": {"power_w": 1250.5, "import_total_wh": 15234560.0}, "l1": {}},
}
HEADERS = {
    "__connect.errors.topic": "energy.raw.v1",
    "__connect.errors.stage": "decode",
    "__connect.errors.class.name": "ingest.decoders",
    "__connect.errors.exception.message": "topic 'a/b': no device family publishes there",
    "mqtt_topic": "a/b",
    "received_at": "1763700000250000",
    "source": "mqtt",
}
COMMAND = {
    "command_id": "01930000-0000-7000-8000-000000000000",
    "command_seq": 17,
    "device_id": 7,
    "address": "shelly:s1",
    "kind": "on",
    "channel": None,
    "parameters": {},
    "issued_us": 1_763_700_000_250_000,
    "expires_us": 1_763_700_030_250_000,
    "issued_by": "user:ann",
}
STEP = {
    "command_id": "01930000-0000-7000-8000-000000000000",
    "device_id": 7,
    "address": "shelly:s1",
    "state": "sent",
    "at_us": 1_763_700_000_300_000,
}
EVENT = {"name": "command_response", "measured_us": 1_763_700_000_250_000, "attributes": {}}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("reading", READING),
    ("reading", READING | {"values": {}, "seq": None}),
    ("packed_readings", {"device_id": 7, "address": "shelly:s1", "readings": [READING, READING]}),
    ("packed_readings", {"device_id": 7, "address": "a", "readings": [], "home_id": "h1"}),
    ("device_state", {"device_id": 7, "address": "shelly:s1", "states": [STATE]}),
    ("event", EVENT),
    ("event", EVENT | {"channel": "switch:0", "attributes": {"id": 3, "why": None}}),
    ("usage_window", WINDOW),
    ("usage_window", WINDOW | {"power_min_w": -3.5, "readings": 12, "home_id": None}),
    ("home_cost", COST),
    ("home_cost", {"home_id": "h1", "state": "no_contract", "problem": "set one"}),
    ("budget_alert", ALERT),
    ("budget_alert", ALERT | {"projected": "1210.4"}),
    ("command_request", COMMAND),
    ("command_request", COMMAND | {"channel": "switch:0", "parameters": {"deep": {"a": [1]}}}),
    ("command_event", STEP),
    ("command_event", STEP | {"reason": "stuck", "kind": "ota", "confirmed_by": None}),
    ("refused_record_headers", HEADERS),
    ("homesync_payload", PAYLOAD),
    ("homesync_payload", PAYLOAD | {"ts": None, "relay": {"l1": True}, "rssi_dbm": -70}),
    ("homesync_payload", PAYLOAD | {"said_by_a_newer_node": 1}),
    ("homesync_ack", {"boot": "5f1c09ab", "seq": 812}),
]

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("reading", READING | {"measured_us": "2026-02-06T03:14:00Z"}, "a text where µs belong"),
    ("reading", READING | {"values": {"power_w": 2e7}}, "a power no household has"),
    ("reading", READING | {"values": {"import_total_wh": -1}}, "a register below zero"),
    ("reading", READING | {"values": {"interval_s": 0}}, "an interval of nothing"),
    ("reading", READING | {"clock": 9}, "a clock that is none"),
    ("packed_readings", {"device_id": 7, "readings": []}, "no address"),
    ("packed_readings", {"device_id": 7, "address": "a", "readings": [{}]}, "an empty reading"),
    (
        "device_state",
        {"device_id": 7, "address": "a", "states": [STATE | {"fields": {"relay": [1]}}]},
        "a list as value",
    ),
    ("event", {"measured_us": 1}, "no name"),
    ("usage_window", WINDOW | {"energy_uwh": 0.5}, "half a µWh"),
    ("usage_window", WINDOW | {"quality": 7}, "a quality that is none"),
    ("usage_window", {k: v for k, v in WINDOW.items() if k != "revision"}, "no revision"),
    ("home_cost", COST | {"state": "fine"}, "a state that is none"),
    ("home_cost", {"home_id": "h1"}, "no state"),
    ("budget_alert", ALERT | {"limit": 1000}, "money as a number"),
    ("budget_alert", ALERT | {"period": "year"}, "a period that is none"),
    ("command_request", COMMAND | {"kind": "explode"}, "a kind that is none"),
    ("command_request", COMMAND | {"command_seq": "17"}, "a number as text"),
    ("command_event", STEP | {"state": "perhaps"}, "a state that is none"),
    ("command_event", {k: v for k, v in STEP.items() if k != "at_us"}, "no instant"),
    ("refused_record_headers", HEADERS | {"received_at": 1763700000250000}, "a number"),
    ("refused_record_headers", {"mqtt_topic": "a/b"}, "no reason"),
    ("homesync_payload", {k: v for k, v in PAYLOAD.items() if k != "ts"}, "no ts"),
    ("homesync_payload", PAYLOAD | {"seq": -1}, "a seq below zero"),
    ("homesync_payload", PAYLOAD | {"boot": ""}, "an empty boot"),
    ("homesync_payload", PAYLOAD | {"channels": {"total": {"power_w": "12"}}}, "a text"),
    ("homesync_payload", PAYLOAD | {"relay": "on"}, "a word for a relay"),
    ("homesync_ack", {"boot": "5f1c09ab"}, "no seq"),
]


@pytest.mark.parametrize(("name", "message"), GOOD)
def test_a_good_message_validates_and_is_what_msgspec_takes(name: str, message: dict[str, Any]):
    validator(name).validate(message)
    msgspec.convert(message, generate.MESSAGES[name])


@pytest.mark.parametrize(("name", "message", "why"), BAD)
def test_a_wrong_message_does_not_validate(name: str, message: dict[str, Any], why: str):
    assert not validator(name).is_valid(message), why
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(message, generate.MESSAGES[name])


NOW = datetime(2026, 2, 6, 3, 15, tzinfo=UTC)
SPENT = (NOW, NOW, "0.25", "0", "1.20", "27.54")
ENCODED = {
    "reading": Reading("total", 5, Values(power_w=1.5, humidity_percent=40.0)),
    "packed_readings": PackedReadings(
        3,
        "homesync:h/n",
        [Reading("l1", 5, Values(), Clock.RECEIVED_AHEAD, 4), Reading("l2", 6, Values(1.0))],
        "h",
    ),
    "device_state": DeviceSaid(3, "shelly:s", [State(5, {"uptime_s": 1.5, "alarm": "x"}, "l1")]),
    "event": Event("button", 5, "input:0", {"long": True}),
    "usage_window": UsageWindow(1, 2, "a", "l1", 3, 60, 4, 5, Quality.GAP, Why.SILENCE, 6, 0.5),
    "home_cost": HomeCost(
        "h1",
        CostState.RUNNING,
        NOW,
        month="2026-02",
        quarter=Amount(*SPENT),
        projected=Projected(*SPENT, Method.HOUR, assumed_prices=96),
        budgets=[BudgetStatus(3, "February", BudgetPeriod.MONTH, "1000", "THB", NOW, NOW, "812.5")],
    ),
    "bill_issued": BillIssued(
        "h",
        7,
        "2026-02",
        2,
        NOW,
        NOW,
        "mea-1.2",
        "THB",
        "1523.75",
        "345.000000",
        "0" * 64,
        NOW,
        "-2.10",
    ),
    "device_alert": DeviceAlert(
        "1:2",
        "h",
        3,
        "homesync:h/n",
        Turn.RAISED,
        NOW,
        PresenceReason.SILENCE,
    ),
    "budget_alert": BudgetAlert(
        "budget/3/month/2026-02-01/1",
        "h1",
        3,
        "February",
        Level.WARNED,
        Turn.RAISED,
        NOW,
        BudgetPeriod.MONTH,
        NOW,
        NOW,
        "1000",
        "THB",
        "812.5",
    ),
    "command_request": CommandRequest(
        "01930000-0000-7000-8000-000000000000",
        17,
        3,
        "shelly:s",
        Kind.OFF,
        "switch:0",
        {"revert_after_s": 60},
        5,
        6,
        "user:ann",
    ),
    "command_event": CommandEvent(
        "01930000-0000-7000-8000-000000000000", 3, "shelly:s", CommandState.DONE, 5, Kind.OFF
    ),
    "refused_record_headers": RefusedHeaders("t", "decode", "c", "m", "a/b", "5", "mqtt", "3"),
    "homesync_payload": generate.Payload(1, "b", 4, 2, None, {"total": Values(power_w=1.0)}, True),
    "homesync_ack": Ack("b", 4),
}


@pytest.mark.parametrize("name", generate.MESSAGES)
def test_what_we_encode_validates(name: str):
    validator(name).validate(json.loads(msgspec.json.encode(ENCODED[name])))


def test_every_kafka_topic_has_a_channel_with_key_and_retention():
    channels = generate.asyncapi()["channels"]
    for topic in TOPICS:
        channel = channels[topic.name]
        assert channel["address"] == topic.name
        assert f"Key: {topic.key}." in channel["description"]
        assert channel["bindings"]["kafka"]["partitions"] == 12
    settings = {name: c.get("bindings", {}).get("kafka", {}) for name, c in channels.items()}
    assert settings["energy.raw.v1"]["topicConfiguration"]["retention.ms"] == 604_800_000
    assert settings["energy.device.v1"]["topicConfiguration"]["cleanup.policy"] == ["compact"]


def test_every_reference_in_the_asyncapi_document_leads_somewhere():
    document = generate.asyncapi()
    found = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert len(found) > 20
    for reference in found:
        if reference.startswith("./"):
            assert (generate.DOCS / reference).exists(), reference
            continue
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_the_asyncapi_document_names_no_machine():
    text = (generate.DOCS / "asyncapi.yaml").read_text()
    assert not re.search(r"127\.0\.0|localhost|\d{4}/tcp|:9092|:1883", text)


def test_the_mqtt_channels_are_those_that_the_decoders_know():
    channels = generate.asyncapi()["channels"]
    addresses = {name: c["address"].format(home="h1", node="n1") for name, c in channels.items()}
    assert addresses["homesync.ack"] == "homesync/h1/nodes/n1/ack"
    for name in ("homesync.telemetry", "homesync.online"):
        assert address_of(addresses[name], b"") == "homesync:h1/n1"


YAML = [
    ({"a": 1, "b": True, "c": None}, "a: 1\nb: true\nc: null\n"),
    ({"a": {"b": {}}, "c": []}, "a:\n  b: {}\nc: []\n"),
    ({"a": [{"b": 1, "c": 2}, 3]}, "a:\n  - b: 1\n    c: 2\n  - 3\n"),
    (
        {"no": "yes", "1": "1.0"},
        '"no": "yes"\n"1": "1.0"\n',
    ),
    ({"a": "b: c", "d": "x #y", "e": "- f"}, 'a: "b: c"\nd: "x #y"\ne: "- f"\n'),
    ({"a": "two\nlines", "b": "µWh", "c": ""}, 'a: "two\\nlines"\nb: "µWh"\nc: ""\n'),
    ({"a": "plain words (all)."}, "a: plain words (all).\n"),
]


@pytest.mark.parametrize(("value", "text"), YAML)
def test_yaml_is_written_so_that_texts_stay_texts(value: object, text: str):
    assert generate.yaml(value) == text
