import pytest
from wire import NOW_S, NOW_US, RECEIVED_US, decoded, instant_us, readings, refused

from ingest.decoders.topic_table import address_of, decode
from schemas.decoded import Reason
from schemas.reading import Clock

# The example of the monitor's design, section 3.3.
FULL = {
    "schema_version": "1.0",
    "device_id": "meter_main_001",
    "home_id": "home_abc123",
    "timestamp": "2026-02-06T14:30:00Z",
    "data": {
        "power": {"active": 1250.5, "reactive": 150.2, "apparent": 1260.8},
        "voltage": {"l1": 220.5, "l2": 221.0, "l3": 219.8, "avg": 220.4},
        "current": {"l1": 5.67, "l2": 5.70, "l3": 5.65},
        "power_factor": 0.95,
        "frequency": 50.02,
        "energy": {"total_kwh": 15234.56, "today_kwh": 12.34, "this_month_kwh": 345.67},
        "thd": {"voltage": 2.5, "current": 3.2},
    },
    "status": {"relay": "closed", "wifi_rssi": -65, "uptime_seconds": 86400},
}
TELEMETRY = "home/home_abc123/device/meter_main_001/telemetry"
FULL_AT_US = instant_us("2026-02-06T14:30:00+00:00")
SHORT = {"w": 1250.5, "v": 220.5, "a": 5.67, "pf": 0.95, "ts": NOW_S}
SHORT_VALUES = {"power_w": 1250.5, "voltage_v": 220.5, "current_a": 5.67, "power_factor": 0.95}


def test_the_full_payload_says_the_total_and_the_phases():
    assert readings(TELEMETRY, FULL, received_us=FULL_AT_US + 150_000) == {
        "total": {
            "power_w": 1250.5, "voltage_v": 220.4, "frequency_hz": 50.02, "power_factor": 0.95,
            "apparent_va": 1260.8, "reactive_var": 150.2, "import_total_wh": 15234560.0,
            "thd_voltage_percent": 2.5, "thd_current_percent": 3.2,
        },
        "l1": {"voltage_v": 220.5, "current_a": 5.67},
        "l2": {"voltage_v": 221.0, "current_a": 5.7},
        "l3": {"voltage_v": 219.8, "current_a": 5.65},
    }  # fmt: skip


def test_the_full_payload_says_time_and_state():
    message = decoded(TELEMETRY, FULL, received_us=FULL_AT_US + 150_000)
    assert message.address == "home:home_abc123/meter_main_001"
    assert {(each.measured_us, each.clock) for each in message.readings} == {
        (FULL_AT_US, Clock.DEVICE)
    }
    (state,) = message.states
    assert state.fields == {"relay": True, "rssi_dbm": -65, "uptime_s": 86400.0}
    opened = FULL | {"status": {"relay": "open"}}
    assert decoded(TELEMETRY, opened, received_us=FULL_AT_US).states[0].fields == {"relay": False}


@pytest.mark.parametrize(
    ("topic", "said", "channel", "expected"),
    [
        ("power/total", 1250.5, "total", {"power_w": 1250.5}),
        ("power/total", SHORT, "total", SHORT_VALUES),
        ("power/total", {"value": -12.5, "ts": NOW_S}, "total", {"power_w": -12.5}),
        ("power/circuit/kitchen", 12, "kitchen", {"power_w": 12.0}),
        ("power/circuit/c-7", SHORT, "c-7", SHORT_VALUES),
        ("power/device/fridge", {"w": 80}, "device:fridge", {"power_w": 80.0}),
        ("voltage/l1", 220.5, "l1", {"voltage_v": 220.5}),
        ("voltage/total", 220.4, "total", {"voltage_v": 220.4}),
        ("current/l3", {"value": 5.65}, "l3", {"current_a": 5.65}),
        ("frequency", b"50.02", "total", {"frequency_hz": 50.02}),
        ("power_factor/l2", -0.95, "l2", {"power_factor": -0.95}),
        ("temperature/bedroom", 31.5, "bedroom", {"temperature_c": 31.5}),
    ],
)
def test_a_sensor_topic_names_the_channel_of_the_homes_main_meter(topic, said, channel, expected):
    topic = f"home/h1/sensor/{topic}"
    assert decoded(topic, said).address == "home:h1/main"
    assert readings(topic, said) == {channel: expected}


def test_the_short_payload_has_a_clock():
    reading = decoded("home/h1/device/d1/telemetry", SHORT).readings[0]
    assert (reading.channel, reading.measured_us) == ("total", NOW_US)


@pytest.mark.parametrize("period", ["daily", "monthly", "yearly"])
def test_a_counter_that_begins_anew_each_period_is_no_register(period):
    topic = f"home/h1/sensor/energy/kwh/{period}"
    for said in (12.34, {"value": 12.34, "ts": NOW_S}, {"kwh": 12.34}):
        message = decoded(topic, said)
        assert (message.address, message.readings) == ("home:h1/main", [])
    refused(topic, -1, Reason.OUT_OF_RANGE)
    refused(topic, "12", Reason.WRONG_TYPE)
    refused(topic, {}, Reason.MISSING_VALUE)


def test_a_device_status_is_a_word_or_an_object():
    topic = "home/h1/device/d1/status"
    message = decode(topic, b"offline", RECEIVED_US, retained=True)
    assert message.address == "home:h1/d1"
    assert (message.states[0].fields, message.states[0].retained) == ({"online": False}, True)
    said = {"status": "online", "relay": "closed", "firmware_version": "1.2", "ts": NOW_S}
    assert decoded(topic, said).states[0].fields == {
        "relay": True, "firmware": "1.2", "online": True,
    }  # fmt: skip


def test_an_alert_is_an_event():
    said = {"type": "overload", "message": "ไฟเกิน", "limit": {"w": 3000}, "ts": NOW_S}
    (event,) = decoded("home/h1/device/d1/alerts", said).events
    assert (event.name, event.measured_us) == ("overload", NOW_US)
    assert event.attributes == {"message": "ไฟเกิน", "limit.w": 3000}
    (event,) = decoded("home/h1/system/alerts", b"meter door open").events
    assert (event.name, event.attributes) == ("alert", {"message": "meter door open"})


@pytest.mark.parametrize(
    ("topic", "said", "address"),
    [
        ("sensor/data/x", FULL, "home:home_abc123/meter_main_001"),
        ("sensor/data", FULL, "home:home_abc123/meter_main_001"),
        ("sensor/data/d1", SHORT, "home:-/d1"),
        ("sensor/data/h9/d1", SHORT, "home:-/d1"),
        ("device/status/all", {"device_id": "d1", "online": True}, "home:-/d1"),
        ("device/status/d1", {"home_id": "h1", "online": True}, "home:h1/d1"),
        ("device/status/d1", b"offline", "home:-/d1"),
        ("device/status/h1/d1", b"offline", "home:h1/d1"),
        ("home/h1/device/status/all", {"device_id": "d1", "online": True}, "home:h1/d1"),
        ("device/meter_main_001/telemetry", FULL, "home:home_abc123/meter_main_001"),
        ("device/d1/status", b"online", "home:-/d1"),
        ("device/d1/alerts", {"home_id": "h1", "type": "leak"}, "home:h1/d1"),
        ("alerts/d1", b"leak", "home:-/d1"),
        ("alerts", {"home_id": "h1", "device_id": "d1", "type": "leak"}, "home:h1/d1"),
    ],
)
def test_where_the_topic_names_no_home_the_payload_does(topic, said, address):
    message = decoded(topic, said, received_us=FULL_AT_US) if said is FULL else decoded(topic, said)
    assert message.address == address


@pytest.mark.parametrize(
    ("topic", "said", "reason"),
    [
        ("home/h1/sensor/mood", 5, Reason.UNKNOWN_TOPIC),
        ("home/h1/sensor/power/total/extra", 5, Reason.UNKNOWN_TOPIC),
        ("home/h1/sensor/energy/kwh/hourly", 5, Reason.UNKNOWN_TOPIC),
        ("home/h1/sensor/energy", 5, Reason.UNKNOWN_TOPIC),
        ("home/h1/sensor/power/circuit/a b", 5, Reason.OUT_OF_RANGE),
        ("home/h1/sensor/power/total", True, Reason.WRONG_TYPE),
        ("home/h1/sensor/power/total", {}, Reason.MISSING_VALUE),
        ("home/h1/sensor/power/total", SHORT | {"home_id": "h2"}, Reason.WRONG_IDENTITY),
        ("home/h1/device/d1/telemetry", 5, Reason.WRONG_TYPE),
        ("home/h1/device/d1/telemetry", SHORT | {"device_id": "d2"}, Reason.WRONG_IDENTITY),
        ("home/h1/device/d1/telemetry", SHORT | {"home_id": 1}, Reason.WRONG_IDENTITY),
        (TELEMETRY, FULL | {"schema_version": "2.0"}, Reason.WRONG_VERSION),
        (TELEMETRY, FULL | {"data": {}, "status": {}}, Reason.MISSING_VALUE),
        (TELEMETRY, FULL | {"data": {"power": 5}}, Reason.WRONG_TYPE),
        (TELEMETRY, FULL | {"status": {"relay": "ajar"}}, Reason.WRONG_TYPE),
        (TELEMETRY, FULL | {"data": {"energy": {"total_kwh": -1}}}, Reason.OUT_OF_RANGE),
        ("sensor/data", SHORT, Reason.MISSING_VALUE),
        ("sensor/data", b"{", Reason.MALFORMED),
        ("sensor/data/x", SHORT | {"device_id": "a/b"}, Reason.MISSING_VALUE),
        ("sensor/data/x", SHORT | {"device_id": "a\nb"}, Reason.MISSING_VALUE),
        ("device/status/all", {"online": True}, Reason.MISSING_VALUE),
        ("home/h1/device/d1/alerts", {"type": "a b"}, Reason.OUT_OF_RANGE),
        ("home/h1/device/d1/alerts", b"", Reason.MISSING_VALUE),
        ("home/h1/device/d1/alerts", b"\xff", Reason.MALFORMED),
        ("home/h1/device/d1/alerts", b"a\x00b", Reason.OUT_OF_RANGE),
    ],
)
def test_wrong_messages_are_refused(topic, said, reason):
    received_us = FULL_AT_US if topic == TELEMETRY else RECEIVED_US
    refused(topic, said, reason, received_us=received_us)


def test_an_unnamed_message_is_keyed_by_its_topic():
    assert address_of("sensor/data", b'{"w": 1}') == "sensor/data"
