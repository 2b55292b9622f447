import json

import pytest
from wire import NOW_S, NOW_US, RECEIVED_US, SHELLY, decoded, readings, refused, values

from ingest.decoders.topic_table import decode
from schemas.decoded import Reason
from schemas.reading import Clock
from schemas.units import DAY_US

BASE = "shellies/shellyem3-C45BBE"


@pytest.mark.parametrize(
    ("topic", "payload", "channel", "expected"),
    [
        ("relay/0/power", b"399.20", "relay:0", {"power_w": 399.2}),
        # 6472513 W min / 60 = 107875.21666… Wh
        ("relay/0/energy", b"6472513", "relay:0", {"import_total_wh": 107875.216667}),
        ("emeter/0/power", b"-12.50", "emeter:0", {"power_w": -12.5}),
        ("emeter/1/voltage", b"229.87", "emeter:1", {"voltage_v": 229.87}),
        ("emeter/2/current", b"0.43", "emeter:2", {"current_a": 0.43}),
        ("emeter/2/pf", b"-0.53", "emeter:2", {"power_factor": -0.53}),
        ("emeter/0/total", b"401472.9", "emeter:0", {"import_total_wh": 401472.9}),
        ("emeter/0/total", b"64541.0", "emeter:0", {"import_total_wh": 64541.0}),
        ("emeter/0/total_returned", b"3.1", "emeter:0", {"export_total_wh": 3.1}),
        ("temperature", b"24.14", "temperature:0", {"temperature_c": 24.14}),
    ],
)
def test_a_bare_number_is_one_value(topic, payload, channel, expected):
    (reading,) = decoded(f"{BASE}/{topic}", payload).readings
    assert (reading.channel, values(reading)) == (channel, expected)
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        (b"on", {"relay": True}),
        (b"off", {"relay": False}),
        (b"overpower", {"relay": False, "alarm": "overpower"}),
    ],
)
def test_a_relay_says_its_state(word, fields):
    (state,) = decoded(f"{BASE}/relay/1", word).states
    assert (state.channel, state.fields) == ("relay:1", fields)


@pytest.mark.parametrize("topic", ["emeter/0/energy", "emeter/0/returned_energy", "input/0"])
def test_what_says_nothing_alone_is_checked_and_left(topic):
    message = decoded(f"{BASE}/{topic}", b"1")
    assert (message.readings, message.states, message.events) == ([], [], [])


def test_an_input_event_is_one_only_if_something_happened():
    (event,) = decoded(f"{BASE}/input_event/0", {"event": "L", "event_cnt": 3}).events
    assert (event.name, event.channel) == ("input_event", "input:0")
    assert event.attributes == {"event": "L", "event_cnt": 3}
    assert decoded(f"{BASE}/input_event/0", {"event": "", "event_cnt": 0}).events == []


def test_announcement_and_last_will_say_the_device():
    said = {
        "id": "shellyem3-C45BBE", "model": "SHEM-3", "mac": "98CDAC1E3B4F", "ip": "10.0.0.9",
        "new_fw": False, "fw_ver": "20230913-114244/v1.14.0-gcb84623",
    }  # fmt: skip
    (state,) = decoded(f"{BASE}/announce", said).states
    assert state.fields == {
        "model": "SHEM-3", "mac": "98CDAC1E3B4F", "ip": "10.0.0.9",
        "firmware": "20230913-114244/v1.14.0-gcb84623",
    }  # fmt: skip
    message = decode(f"{BASE}/online", b"false", RECEIVED_US, retained=True)
    assert (message.states[0].fields, message.states[0].retained) == ({"online": False}, True)
    refused(f"{BASE}/announce", said | {"id": "shellyem3-AAAAAA"}, Reason.WRONG_IDENTITY)


@pytest.mark.skipif(not SHELLY.is_dir(), reason=f"dumps of Shelly devices are not in {SHELLY}")
def test_the_status_of_a_plug():
    status = json.loads((SHELLY / "dumps" / "gen1_plug_s_fw1.14.0.json").read_text())["status"]
    bounds = {"received_us": 1_790_000_000_000_000, "oldest_us_back": 4_000 * DAY_US}
    message = decoded("shellies/shellyplug-s-DDEEFF/info", status, **bounds)
    assert readings("shellies/shellyplug-s-DDEEFF/info", status, **bounds) == {
        "relay:0": {"power_w": 0.0, "import_total_wh": 43.866667},  # 2632 W min
        "temperature:0": {"temperature_c": 24.14},
    }
    assert {each.measured_us for each in message.readings} == {1_707_332_241_000_000}
    assert {state.channel: state.fields for state in message.states} == {
        "relay:0": {"relay": False},
        None: {
            "mac": "AABBCCDDEEFF", "uptime_s": 2589909.0, "rssi_dbm": -76, "ip": "192.168.1.91",
            "firmware": "20230913-113421/v1.14.0-gcb84623",
        },
    }  # fmt: skip


def test_the_status_of_a_three_phase_meter_leaves_invalid_phases_out():
    emeter = {
        "power": -5.5, "reactive": 3.0, "pf": -0.9, "current": 0.1, "voltage": 231.0,
        "is_valid": True, "total": 64541.0, "total_returned": 3.1,
    }  # fmt: skip
    info = {"unixtime": NOW_S, "emeters": [emeter, emeter | {"is_valid": False}]}
    assert readings(f"{BASE}/info", info) == {
        "emeter:0": {
            "power_w": -5.5, "voltage_v": 231.0, "current_a": 0.1, "power_factor": -0.9,
            "reactive_var": 3.0, "import_total_wh": 64541.0, "export_total_wh": 3.1,
        }
    }  # fmt: skip
    assert decoded(f"{BASE}/info", info).readings[0].measured_us == NOW_US
    unsynced = decoded(f"{BASE}/info", info | {"unixtime": 0}).readings[0]
    assert unsynced.clock is Clock.RECEIVED_SINCE_BOOT


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("relay/0/power", b"nan", Reason.NOT_FINITE),
        ("relay/0/power", b"-inf", Reason.NOT_FINITE),
        ("relay/0/power", b"on", Reason.MALFORMED),
        ("relay/0/power", b"", Reason.MALFORMED),
        ("relay/0/power", b"true", Reason.WRONG_TYPE),
        ("relay/0/power", b"1e8", Reason.OUT_OF_RANGE),
        ("relay/0/energy", b"-60", Reason.OUT_OF_RANGE),
        ("relay/0/mood", b"1", Reason.UNKNOWN_TOPIC),
        ("relay/x/power", b"1", Reason.UNKNOWN_TOPIC),
        ("relay/0", b"ajar", Reason.WRONG_TYPE),
        ("relay/0", b"\xff", Reason.MALFORMED),
        ("emeter/0/total", b"-1", Reason.OUT_OF_RANGE),
        ("emeter/0/mood", b"1", Reason.UNKNOWN_TOPIC),
        ("temperature", b"999", Reason.OUT_OF_RANGE),
        ("input_event/0", {"event": 5}, Reason.WRONG_TYPE),
        ("announce", {}, Reason.MISSING_VALUE),
        ("online", b"maybe", Reason.WRONG_TYPE),
        ("info", {"meters": {}}, Reason.WRONG_TYPE),
        ("info", {"meters": [{"total": -1}]}, Reason.OUT_OF_RANGE),
    ],
)
def test_wrong_messages_are_refused(topic, payload, reason):
    refused(f"{BASE}/{topic}", payload, reason)
