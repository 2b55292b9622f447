import pytest
from wire import NOW_S, RECEIVED_US, decoded, readings, refused

from ingest.decoders.topic_table import decode
from schemas.decoded import Reason
from schemas.reading import Clock

DATA = "devices/42/data"
STATUS = "devices/42/status"
SAID = {
    "voltage": 229.8, "current": 5.67, "power": 1250.5, "energy": 15234.56,
    "frequency": 50.02, "power_factor": 0.95, "timestamp": "2025-11-21 13:20:00",
}  # fmt: skip


def test_data_is_the_channel_total_with_its_register_in_wh():
    message = decoded(DATA, SAID)
    assert message.address == "wattaway:42"
    assert readings(DATA, SAID) == {
        "total": {
            "power_w": 1250.5, "voltage_v": 229.8, "current_a": 5.67, "frequency_hz": 50.02,
            "power_factor": 0.95, "import_total_wh": 15234560.0,
        }
    }  # fmt: skip


def test_local_time_without_an_offset_is_no_clock():
    reading = decoded(DATA, SAID).readings[0]
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


def test_sockets_of_a_strip_are_channels():
    said = {
        "voltage": 230,
        "channels": [
            {"channel": 1, "current": 0.5, "power": 100},
            {"channel": 2, "current": 1, "power": 210},
        ],
        "ts": NOW_S,
    }
    assert readings(DATA, said) == {
        "total": {"voltage_v": 230.0},
        "channel:1": {"power_w": 100.0, "current_a": 0.5},
        "channel:2": {"power_w": 210.0, "current_a": 1.0},
    }


@pytest.mark.parametrize("word", [b"online", b"ONLINE\n", b'"online"', b"true"])
def test_a_bare_word_says_whether_the_device_is_online(word):
    message = decode(STATUS, word, RECEIVED_US, retained=True)
    assert [(state.fields, state.retained) for state in message.states] == [
        ({"online": True}, True)
    ]


def test_a_status_may_be_an_object():
    said = {"online": True, "relay": "on", "wifi_rssi": -60, "uptime": 12, "ip": "10.0.0.7"}
    (state,) = decoded(STATUS, said).states
    assert state.fields == {
        "online": True, "relay": True, "rssi_dbm": -60, "uptime_s": 12.0, "ip": "10.0.0.7",
    }  # fmt: skip
    assert decoded(STATUS, {"state": "off"}).states[0].fields == {"relay": False}


def test_an_acknowledgement_is_an_event():
    message = decoded(STATUS, {"command_id": "c-7", "status": "success", "relay": False})
    assert [(event.name, event.attributes) for event in message.events] == [
        ("command_response",
         {"command_id": "c-7", "status": "success", "relay": False, "outcome": "done"})
    ]  # fmt: skip
    assert message.states[0].fields == {"relay": False}


@pytest.mark.parametrize(
    ("topic", "said", "reason"),
    [
        (DATA, {}, Reason.MISSING_VALUE),
        (DATA, 5, Reason.WRONG_TYPE),
        (DATA, {"power": "1250"}, Reason.WRONG_TYPE),
        (DATA, {"power": 1, "energy": -0.5}, Reason.OUT_OF_RANGE),
        (DATA, {"power": 1, "channels": {}}, Reason.WRONG_TYPE),
        (DATA, {"channels": [{"power": 1}]}, Reason.MISSING_VALUE),
        (DATA, {"channels": [{"channel": "a b", "power": 1}]}, Reason.OUT_OF_RANGE),
        (DATA, {"channels": [{"channel": 1, "power": 1}] * 2}, Reason.MALFORMED),
        (DATA, b'{"power": 1, "power": 2}', Reason.MALFORMED),
        (STATUS, b"sleeping", Reason.MALFORMED),
        (STATUS, {}, Reason.MISSING_VALUE),
        (STATUS, {"relay": "maybe"}, Reason.WRONG_TYPE),
        (STATUS, {"rssi": 10**30}, Reason.OUT_OF_RANGE),
    ],
)
def test_wrong_messages_are_refused(topic, said, reason):
    refused(topic, said, reason)
