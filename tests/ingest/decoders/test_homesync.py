import pytest
from wire import NOW_S, NOW_US, RECEIVED_US, decoded, payload_of, readings, refused

from ingest.decoders.topic_table import decode
from schemas.decoded import Reason
from schemas.reading import Clock

TOPIC = "homesync/h1/nodes/n1/telemetry/power"
ENVELOPE = {
    "v": 1,
    "boot": "5f1c09ab",
    "seq": 812,
    "first": 790,
    "ts": NOW_S,
    "channels": {"total": {"power_w": 1250.5, "import_total_wh": 15234560.0}},
}


def with_(**changes):
    return ENVELOPE | changes


def test_each_channel_of_an_envelope_is_a_reading():
    message = decoded(
        TOPIC,
        with_(channels={"total": {"power_w": -3.5, "voltage_v": 229}, "l1": {"current_a": 2}}),
    )
    assert message.address == "homesync:h1/n1"
    total, l1 = message.readings
    assert (total.channel, total.measured_us, total.clock, total.seq) == (
        "total", NOW_US, Clock.DEVICE, 812,
    )  # fmt: skip
    assert (total.values.power_w, total.values.voltage_v) == (-3.5, 229.0)
    assert (l1.channel, l1.values.current_a, l1.values.power_w) == ("l1", 2.0, None)
    assert message.states == message.events == []


def test_an_envelope_without_a_clock_takes_the_time_of_receipt():
    reading = decoded(TOPIC, with_(ts=None)).readings[0]
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


def test_an_envelope_says_the_state_of_its_device_and_relays():
    message = decoded(
        TOPIC, with_(relay={"relay:0": True}, rssi_dbm=-61, firmware="1.4.0 (a:b)"), retained=False
    )
    assert [(each.channel, each.fields) for each in message.states] == [
        (None, {"rssi_dbm": -61, "firmware": "1.4.0 (a:b)"}),
        ("relay:0", {"relay": True}),
    ]
    assert decoded(TOPIC, with_(relay=False)).states[0].fields == {"relay": False}


def test_a_channel_that_says_nothing_makes_no_reading():
    said = {"total": {"power_w": 1}, "l1": {}, "l2": {"power_w": None}}
    assert list(readings(TOPIC, with_(channels=said))) == ["total"]


def test_fields_nobody_knows_are_ignored():
    said = with_(channels={"total": {"power_w": 5, "mood": "good"}}, wifi={"ssid": "a:b"})
    assert readings(TOPIC, said) == {"total": {"power_w": 5.0}}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (with_(v=2), Reason.WRONG_VERSION),
        (with_(v=2, channels=[{"name": "total"}]), Reason.WRONG_VERSION),
        (with_(v=0), Reason.WRONG_VERSION),
        (with_(v="1"), Reason.WRONG_TYPE),
        (with_(seq=-1), Reason.OUT_OF_RANGE),
        (with_(seq=2**53 + 1), Reason.OUT_OF_RANGE),
        (with_(seq=8.5), Reason.WRONG_TYPE),
        (with_(first=813), Reason.OUT_OF_RANGE),
        (with_(first=-1), Reason.OUT_OF_RANGE),
        (with_(boot=""), Reason.OUT_OF_RANGE),
        (with_(boot="a\x00b"), Reason.OUT_OF_RANGE),
        (with_(boot="b" * 65), Reason.OUT_OF_RANGE),
        (with_(ts="2026-01-01T00:00:00Z"), Reason.WRONG_TYPE),
        (with_(ts=True), Reason.WRONG_TYPE),
        (with_(channels={}), Reason.MISSING_VALUE),
        (with_(channels={"total": {}}), Reason.MISSING_VALUE),
        (with_(channels={"total": None}), Reason.WRONG_TYPE),
        (with_(channels=[]), Reason.WRONG_TYPE),
        (with_(channels={"": {"power_w": 1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"a b": {"power_w": 1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"l1\n": {"power_w": 1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"c" * 65: {"power_w": 1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"power_w": "1"}}), Reason.WRONG_TYPE),
        (with_(channels={"total": {"power_w": True}}), Reason.WRONG_TYPE),
        (with_(channels={"total": {"power_w": 1e8}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"power_w": 10**400}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"import_total_wh": -1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"interval_import_wh": -0.1}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"interval_s": 0}}), Reason.OUT_OF_RANGE),
        (with_(channels={"total": {"voltage_v": -1}}), Reason.OUT_OF_RANGE),
        (with_(relay="on"), Reason.WRONG_TYPE),
        (with_(relay={"a b": True}), Reason.OUT_OF_RANGE),
        (with_(rssi_dbm=2**80), Reason.OUT_OF_RANGE),
        (with_(firmware="\x1b[2J"), Reason.OUT_OF_RANGE),
        (with_(model="\x1b[2J"), Reason.OUT_OF_RANGE),
        ({key: each for key, each in ENVELOPE.items() if key != "seq"}, Reason.MISSING_VALUE),
        ({"v": 1}, Reason.MISSING_VALUE),
    ],
)
def test_a_wrong_envelope_is_refused(said, reason):
    assert TOPIC in refused(TOPIC, said, reason)


def test_the_path_of_the_wrong_value_is_told():
    text = refused(TOPIC, with_(channels={"total": {"power_w": "1"}}), Reason.WRONG_TYPE)
    assert "`$.channels[...].power_w`" in text
    assert "Expected `float | null`, got `str`" in text


@pytest.mark.parametrize(
    ("theirs", "twice"),
    [
        (b'"power_w": 1250.5', b'"power_w": 1250.5, "power_w": 1'),
        (b'"power_w": 1250.5', b'"power_w" :1250.5,"power_w":1'),
        (b'"seq": 812', b'"seq": 812, "seq": 813'),
        (b'"boot": "5f1c09ab"', b'"boot": "5f1c09ab", "b": 1, "b": 2'),
        (b'"channels": {', b'"channels": {"total": {"power_w": 1}, '),
        (b'"boot"', b'"x": {"a": [{"b": 1, "b": 2}]}, "boot"'),
        (b'"seq"', b'"se\\u0071": 1, "seq"'),
    ],
)
def test_a_key_said_twice_is_refused_wherever_it_is(theirs, twice):
    payload = payload_of(ENVELOPE).replace(theirs, twice, 1)
    assert "twice" in refused(TOPIC, payload, Reason.MALFORMED)


def test_spaces_and_nulls_are_no_duplicates():
    payload = (
        payload_of(ENVELOPE).replace(b": ", b" :\n ").replace(b'"boot"', b'"relay":null,"boot"')
    )
    assert readings(TOPIC, payload)["total"]["power_w"] == 1250.5


@pytest.mark.parametrize(
    ("metric", "said", "expected"),
    [
        ("power", 125.5, {"power_w": 125.5}),
        ("voltage", {"value": 229}, {"voltage_v": 229.0}),
        ("energy", b"15234.56", {"import_total_wh": 15234560.0}),
        ("energy", {"energy": 0.038}, {"import_total_wh": 38.0}),
        ("pf", 0.95, {"power_factor": 0.95}),
        ("power", {"type": "telemetry", "node_id": "n1", "metric": "current", "value": 5.67},
         {"current_a": 5.67}),
        ("all", {"power": 24.4, "voltage": 225.7, "current": 0.108, "pf": 1, "frequency": 50.0},
         {"power_w": 24.4, "voltage_v": 225.7, "current_a": 0.108, "power_factor": 1.0,
          "frequency_hz": 50.0}),
    ],
)  # fmt: skip
def test_bare_payloads_say_the_channel_total(metric, said, expected):
    assert readings(f"homesync/h1/nodes/n1/telemetry/{metric}", said) == {"total": expected}


def test_a_bare_payload_may_have_a_clock_but_no_seq():
    reading = decoded(TOPIC, {"power": 1, "ts": NOW_S}).readings[0]
    assert (reading.measured_us, reading.clock, reading.seq) == (NOW_US, Clock.DEVICE, None)


@pytest.mark.parametrize(
    ("metric", "said", "reason"),
    [
        ("mood", 5, Reason.UNKNOWN_TOPIC),
        ("power", {"metric": "mood", "value": 5}, Reason.UNKNOWN_TOPIC),
        ("power", {"node_id": "n2", "value": 5}, Reason.WRONG_IDENTITY),
        ("power", {"value": "5"}, Reason.WRONG_TYPE),
        ("power", "5", Reason.WRONG_TYPE),
        ("power", [5], Reason.WRONG_TYPE),
        ("power", True, Reason.WRONG_TYPE),
        ("power", None, Reason.WRONG_TYPE),
        ("power", {}, Reason.MISSING_VALUE),
        ("power", {"value": None}, Reason.MISSING_VALUE),
        ("power", {"value": 1, "ts": [1]}, Reason.WRONG_TYPE),
        ("energy", -0.001, Reason.OUT_OF_RANGE),
        ("energy", 10**400, Reason.OUT_OF_RANGE),
    ],
)
def test_a_wrong_bare_payload_is_refused(metric, said, reason):
    refused(f"homesync/h1/nodes/n1/telemetry/{metric}", said, reason)


def test_status_and_online_say_the_state():
    status = {"status": "online", "firmware_version": "2.0.1", "rssi": -70, "node_id": "n1"}
    (state,) = decoded("homesync/h1/nodes/n1/status", status).states
    assert state.fields == {"firmware": "2.0.1", "online": True, "rssi_dbm": -70}
    message = decode("homesync/h1/nodes/n1/online", b"false", RECEIVED_US, retained=True)
    assert (message.states[0].fields, message.states[0].retained) == ({"online": False}, True)
    refused("homesync/h1/nodes/n1/status", {"mood": 1}, Reason.MISSING_VALUE)
    refused("homesync/h1/nodes/n1/online", b"maybe", Reason.WRONG_TYPE)


def test_an_answer_to_a_command_is_an_event_with_all_that_it_says():
    said = {"id": "0193", "success": True, "newState": "on", "detail": {"ms": 12}, "list": [1]}
    (event,) = decoded("homesync/h1/nodes/n1/response/command", said).events
    assert event.name == "command_response"
    assert event.attributes == {
        "id": "0193", "success": True, "newState": "on", "detail.ms": 12,
        "command_id": "0193", "outcome": "done",
    }  # fmt: skip


def test_what_moved_a_relay_is_told_with_it():
    said = {"v": 1, "boot": "b", "seq": 1, "first": 1, "ts": NOW_S, "channels": {}}
    said |= {"relay": {"relay:0": True}, "switched_by": "wall", "firmware": "1.0"}
    said["model"] = "node-pzem/esp32-1"
    states = decoded("homesync/h1/nodes/n1/telemetry/power", said).states
    assert [(one.channel, one.fields) for one in states] == [
        (None, {"firmware": "1.0", "model": "node-pzem/esp32-1"}),
        ("relay:0", {"relay": True, "switched_by": "wall"}),
    ]


def test_a_node_reports_how_it_is_set_up():
    said = {"interval_s": 10, "meters": {"1": "l1"}, "power_on": "last", "config_version": 7}
    (event,) = decoded("homesync/h1/nodes/n1/response/config", said).events
    assert event.name == "config_report"
    assert event.attributes == {
        "interval_s": 10,
        "meters.1": "l1",
        "power_on": "last",
        "config_version": 7,
    }
