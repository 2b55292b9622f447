"""Payloads from tasmota/docs, evcc's tests and Tasmota's own logs."""

import pytest
from wire import RECEIVED_US, decoded, instant_us, readings, refused

from schemas.decoded import Reason
from schemas.reading import Clock

SENSOR = "tele/tasmota_1A2B3C/SENSOR"
ENERGY = {
    "TotalStartTime": "2018-11-14T18:39:40", "Total": 6.294, "Yesterday": 5.340, "Today": 0.954,
    "Period": 217, "Power": 2635, "ApparentPower": 2650, "ReactivePower": 282, "Factor": 0.99,
    "Voltage": 227, "Current": 11.661,
}  # fmt: skip


def test_a_plug_with_one_meter():
    message = decoded(SENSOR, {"Time": "2018-02-15T17:37:10", "ENERGY": ENERGY})
    assert message.address == "tasmota:tasmota_1A2B3C"
    assert readings(SENSOR, {"Time": "2018-02-15T17:37:10", "ENERGY": ENERGY}) == {
        "total": {
            "power_w": 2635, "apparent_va": 2650, "reactive_var": 282, "power_factor": 0.99,
            "voltage_v": 227, "current_a": 11.661, "import_total_wh": 6294.0,
        }
    }  # fmt: skip


def test_a_local_time_without_an_offset_is_no_clock():
    # seven years ago, and yet not too old: nobody knows where the clock hangs
    (reading,) = decoded(SENSOR, {"Time": "2018-02-15T17:37:10", "ENERGY": ENERGY}).readings
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


def test_a_time_with_its_offset_is_one():
    at = "2025-11-21T13:19:30+07:00"
    (reading,) = decoded(SENSOR, {"Time": at, "ENERGY": ENERGY}).readings
    assert (reading.measured_us, reading.clock) == (instant_us(at), Clock.DEVICE)


def test_two_meters_are_channels_and_their_sum_is_the_total():
    energy = {"Power": [8.15, 1.5], "Voltage": 237, "Current": [0.1, 0.02], "Frequency": 50,
              "Total": [1.5, 0.25]}  # fmt: skip
    assert readings(SENSOR, {"Time": "2018-02-15T17:37:10", "ENERGY": energy}) == {
        "total": {
            "power_w": 9.65, "voltage_v": 237, "current_a": 0.12, "frequency_hz": 50,
            "import_total_wh": 1750.0,
        },
        "channel:1": {"power_w": 8.15, "current_a": 0.1, "import_total_wh": 1500.0},
        "channel:2": {"power_w": 1.5, "current_a": 0.02, "import_total_wh": 250.0},
    }  # fmt: skip


def test_two_meters_with_one_register():
    energy = {"Power": [8.15, 0], "Total": 6.294, "ExportActive": 0.5}
    said = readings(SENSOR, {"ENERGY": energy})
    assert said["total"] == {
        "power_w": 8.15, "import_total_wh": 6294.0, "export_total_wh": 500.0
    }  # fmt: skip
    assert said["channel:2"] == {"power_w": 0}


def test_where_one_of_several_meters_says_nothing_there_is_no_sum():
    said = readings(SENSOR, {"ENERGY": {"Power": [8.15, None], "Voltage": 230}})
    assert said == {"total": {"voltage_v": 230}, "channel:1": {"power_w": 8.15}}


def test_temperatures_are_celsius():
    climate = {"Time": "2025-11-21T13:19:30", "AM2301": {"Temperature": 71.6, "Humidity": 40.0}}
    assert readings(SENSOR, {**climate, "TempUnit": "F"}) == {
        "AM2301": {"temperature_c": 22.0, "humidity_percent": 40.0}
    }
    assert readings(SENSOR, {**climate, "TempUnit": "C"})["AM2301"]["temperature_c"] == 71.6


def test_the_state_names_its_relays_and_the_signal_in_dbm():
    said = {
        "Time": "2025-11-21T13:19:30", "Uptime": "0T13:39:22", "UptimeSec": 49162,
        "POWER1": "ON", "POWER2": "OFF", "Wifi": {"RSSI": 86, "Signal": -57},
    }  # fmt: skip
    states = decoded("tele/t/STATE", said).states
    assert {state.channel: state.fields for state in states} == {
        "relay:1": {"relay": True},
        "relay:2": {"relay": False},
        None: {"uptime_s": 49162.0, "rssi_dbm": -57},
    }


@pytest.mark.parametrize(
    ("topic", "payload", "channel", "closed"),
    [
        ("stat/t/RESULT", {"POWER": "ON"}, "relay:1", True),
        ("stat/t/RESULT", {"POWER3": "OFF"}, "relay:3", False),
        ("stat/t/POWER", b"ON", "relay:1", True),
        ("stat/t/POWER2", b"OFF", "relay:2", False),
        ("stat/t/STATUS11", {"StatusSTS": {"POWER": "OFF"}}, "relay:1", False),
    ],
)
def test_a_relay_is_known_by_its_number_from_one(topic, payload, channel, closed):
    (state,) = decoded(topic, payload).states
    assert (state.channel, state.fields) == (channel, {"relay": closed})


def test_status_8_is_a_sensor_that_was_asked():
    said = readings(
        "stat/t/STATUS8", {"StatusSNS": {"Time": "2025-11-21T13:19:30", "ENERGY": ENERGY}}
    )
    assert said["total"]["import_total_wh"] == 6294.0


@pytest.mark.parametrize(("payload", "online"), [(b"Online", True), (b"Offline", False)])
def test_the_will_of_a_device(payload, online):
    (state,) = decoded("tele/t/LWT", payload, retained=True).states
    assert (state.fields, state.retained) == ({"online": online}, True)


def test_what_a_device_tells_of_itself_at_its_start():
    said = {"Info1": {"Module": "Sonoff Pow R2", "Version": "14.2.0(tasmota)"}}
    (state,) = decoded("tele/t/INFO1", said).states
    assert state.fields == {"model": "Sonoff Pow R2", "firmware": "14.2.0(tasmota)"}


def test_settings_are_reported_when_the_status_is_asked_for():
    status = {
        "Module": 1, "DeviceName": "Plug", "FriendlyName": ["Plug"], "Topic": "t", "Power": 1,
        "PowerOnState": 3, "SwitchMode": [0, 0], "PowerRetain": 0,
    }  # fmt: skip
    (report,) = decoded("stat/t/STATUS", {"Status": status}).events
    assert report.name == "config_report"
    assert report.attributes == {
        "Module": 1, "DeviceName": "Plug", "Topic": "t", "PowerOnState": 3, "PowerRetain": 0,
    }  # fmt: skip
    log = {"StatusLOG": {"TelePeriod": 300, "SSId": ["home", ""], "LogPort": 514}}
    (report,) = decoded("stat/t/STATUS3", log).events
    assert report.attributes == {"TelePeriod": 300, "LogPort": 514}
    mqtt = {"StatusMQT": {"MqttHost": "10.0.0.2", "MqttPort": 1883, "MqttCount": 4}}
    (report,) = decoded("stat/t/STATUS6", mqtt).events
    assert report.attributes == {"MqttHost": "10.0.0.2", "MqttPort": 1883}


def test_the_status_tells_what_the_device_is():
    (state,) = decoded("stat/t/STATUS2", {"StatusFWR": {"Version": "14.2.0(tasmota)"}}).states
    assert state.fields == {"firmware": "14.2.0(tasmota)"}
    network = {
        "StatusNET": {"Hostname": "t-1", "IPAddress": "10.0.0.9", "Mac": "2C:3A:E8:01:02:03"}
    }
    (state,) = decoded("stat/t/STATUS5", network).states
    assert state.fields == {"ip": "10.0.0.9", "mac": "2C:3A:E8:01:02:03"}


@pytest.mark.parametrize("topic", ["stat/t/LOGGING", "stat/t/STATUS4", "tele/t/UPTIME"])
def test_what_says_nothing_of_energy_is_taken_and_says_nothing(topic):
    message = decoded(topic, b"00:00:01 HTP: \xff")
    assert (message.readings, message.states, message.events) == ([], [], [])


def test_refusals():
    refused(SENSOR, {"ENERGY": {"Power": [1] * 9}}, Reason.OUT_OF_RANGE)
    refused(SENSOR, {"ENERGY": {"Power": "12"}}, Reason.WRONG_TYPE)
    refused(SENSOR, {"ENERGY": {"Power": ["12"]}}, Reason.WRONG_TYPE)
    refused(SENSOR, {"ENERGY": [1]}, Reason.WRONG_TYPE)
    refused(SENSOR, {"ENERGY": {"Total": -1}}, Reason.OUT_OF_RANGE)
    refused(SENSOR, {"ENERGY": ENERGY, "Time": "noon"}, Reason.WRONG_TYPE)
    refused("stat/t/POWER", b"TOGGLE", Reason.WRONG_TYPE)
    refused("stat/t/RESULT", {"POWER": "BLINK"}, Reason.WRONG_TYPE)
    refused("tele/t/LWT", b"perhaps", Reason.WRONG_TYPE)
    refused("stat/t/STATUS", {"Status": [1]}, Reason.WRONG_TYPE)
    refused("stat/t/STATUS5", b"10.0.0.9", Reason.MALFORMED)
