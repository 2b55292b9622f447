"""Shapes from zigbee2mqtt.io: a TS011F plug, a two-gang switch, a three-phase meter."""

import pytest
from wire import RECEIVED_US, decoded, instant_us, readings, refused

from schemas.decoded import Reason
from schemas.reading import Clock

PLUG = "zigbee2mqtt/kitchen/plug"
SAID = {
    "state": "ON", "power": 12, "current": 0.06, "voltage": 229, "energy": 3.41, "linkquality": 120
}  # fmt: skip


def test_a_plug():
    message = decoded(PLUG, SAID)
    assert message.address == "z2m:kitchen/plug"
    assert readings(PLUG, SAID) == {
        "total": {"power_w": 12, "current_a": 0.06, "voltage_v": 229, "import_total_wh": 3410.0}
    }
    assert {state.channel: state.fields for state in message.states} == {
        "relay:0": {"relay": True}, None: {"link_quality": 120}
    }  # fmt: skip
    (reading,) = message.readings
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


@pytest.mark.parametrize("seen", [1_763_705_990_123, "2025-11-21T13:19:50.123+07:00"])
def test_last_seen_is_the_clock(seen):
    (reading,) = decoded(PLUG, SAID | {"last_seen": seen}).readings
    assert reading.measured_us == instant_us("2025-11-21T06:19:50.123Z")
    assert reading.clock is Clock.DEVICE


@pytest.mark.parametrize("seen", ["N/A", None, True])
def test_a_device_that_was_never_seen_has_no_clock(seen):
    (reading,) = decoded(PLUG, SAID | {"last_seen": seen}).readings
    assert reading.clock is Clock.RECEIVED_NO_CLOCK


def test_endpoints_and_phases_are_channels():
    said = {"state_l1": "ON", "state_l2": "OFF", "power_l1": 5, "power_l2": 7, "energy_l2": 1.5,
            "power_phase_b": 40, "voltage_phase_c": 231, "power": 12}  # fmt: skip
    assert readings(PLUG, said) == {
        "total": {"power_w": 12},
        "channel:1": {"power_w": 5},
        "channel:2": {"power_w": 7, "import_total_wh": 1500.0},
        "l2": {"power_w": 40},
        "l3": {"voltage_v": 231},
    }
    states = {state.channel: state.fields for state in decoded(PLUG, said).states}
    assert states == {"relay:1": {"relay": True}, "relay:2": {"relay": False}}


def test_the_millivolts_of_a_battery_are_no_voltage_of_the_mains():
    said = {"battery": 97, "voltage": 3005, "temperature": 22.5, "humidity": 61}
    assert readings("zigbee2mqtt/bedroom", said) == {
        "total": {"temperature_c": 22.5, "humidity_percent": 61}
    }


@pytest.mark.parametrize(
    ("payload", "online"),
    [({"state": "online"}, True), ({"state": "offline"}, False), (b"online", True)],
)
def test_availability_in_its_new_and_its_old_form(payload, online):
    message = decoded(f"{PLUG}/availability", payload, retained=True)
    assert message.address == "z2m:kitchen/plug"
    assert [state.fields for state in message.states] == [{"online": online}]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (f"{PLUG}/set", {"state": "TOGGLE"}),
        (f"{PLUG}/get", {"state": ""}),
        ("zigbee2mqtt/bridge/devices", b"[" * 100_000),
        (PLUG, b""),
    ],
)
def test_commands_and_the_bridge_say_nothing_of_a_device(topic, payload):
    message = decoded(topic, payload)
    assert (message.readings, message.states, message.events) == ([], [], [])


def test_a_cover_is_no_relay():
    assert decoded(PLUG, {"state": "OPEN", "position": 40}).states == []


def test_refusals():
    refused(PLUG, b"plug is on", Reason.MALFORMED)
    refused(PLUG, {"power": "12"}, Reason.WRONG_TYPE)
    refused(PLUG, {"energy": -0.5}, Reason.OUT_OF_RANGE)
    refused(PLUG, {"linkquality": 256}, Reason.OUT_OF_RANGE)
    refused(f"{PLUG}/availability", {"state": "dozing"}, Reason.WRONG_TYPE)
    refused(f"{PLUG}/availability", {}, Reason.WRONG_TYPE)
