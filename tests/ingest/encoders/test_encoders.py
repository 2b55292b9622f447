"""What each family is sent: vectors from the makers' pages, and what must be refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.encoders.family_table import ENCODERS, encode
from ingest.encoders.outgoing import AnsweredBy, NotForThisFamily
from schemas.command import CommandRequest, Kind

ID = "0193f2a0-0000-7000-8000-000000000001"
ISSUED_US, EXPIRES_US = 1_763_706_000_900_000, 1_763_706_030_900_000


def request(address: str, kind: Kind, channel: str | None = None, **parameters: object):
    return CommandRequest(
        command_id=ID,
        command_seq=17,
        device_id=5,
        address=address,
        kind=kind,
        channel=channel,
        parameters=parameters,
        issued_us=ISSUED_US,
        expires_us=EXPIRES_US,
        issued_by="user:u1",
    )


def sent(address: str, kind: Kind, channel: str | None = None, **parameters: object):
    """Topic, payload (JSON as a value), how it will be answered."""
    outgoing = encode(request(address, kind, channel, **parameters))
    text = outgoing.payload.decode()
    return outgoing.topic, json.loads(text) if text[:1] == "{" else text, outgoing.answered_by


def refused(address: str, kind: Kind, channel: str | None = None, **parameters: object) -> str:
    with pytest.raises(NotForThisFamily) as caught:
        encode(request(address, kind, channel, **parameters))
    return str(caught.value)


def test_a_node_is_sent_the_id_and_whole_seconds_rounded_down():
    topic, said, answered_by = sent("homesync:h1/n1", Kind.ON, "relay:1")
    assert topic == "homesync/h1/nodes/n1/command/relay"
    assert said == {
        "command_id": ID, "command_seq": 17, "issued_at": 1_763_706_000,
        "expires_at": 1_763_706_030, "action": "on", "relay": "relay:1",
    }  # fmt: skip
    assert answered_by is AnsweredBy.ID
    assert encode(request("homesync:h1/n1", Kind.TOGGLE)).repeatable


def test_a_node_has_a_topic_for_every_other_kind():
    for kind in ("reboot", "config", "calibrate", "reset_energy", "ota"):
        topic, said, _ = sent("homesync:h1/n1", Kind(kind), interval_s=5)
        assert topic == f"homesync/h1/nodes/n1/command/{kind}"
        assert said["parameters"] == {"interval_s": 5}


def test_a_shelly_is_called_by_rpc_and_answers_on_our_topic():
    assert sent("shelly:home/plug", Kind.ON, "switch:1") == (
        "home/plug/rpc",
        {"id": 17, "src": "meterstream/home/plug", "method": "Switch.Set",
         "params": {"id": 1, "on": True}},
        AnsweredBy.SEQ,
    )  # fmt: skip
    _, said, _ = sent("shelly:p", Kind.OFF, revert_after_s=900)
    assert said["params"] == {"id": 0, "on": False, "toggle_after": 900}
    assert not encode(request("shelly:p", Kind.ON)).repeatable


@pytest.mark.parametrize(
    ("kind", "channel", "parameters", "method", "params"),
    [
        (Kind.TOGGLE, "switch:2", {}, "Switch.Toggle", {"id": 2}),
        (Kind.REBOOT, None, {}, "Shelly.Reboot", {}),
        (Kind.RESET_ENERGY, "switch:3", {}, "Switch.ResetCounters", {"id": 3}),
        (Kind.RESET_ENERGY, "total", {}, "EMData.ResetCounters", {"id": 0}),
        (Kind.RESET_ENERGY, "em1:2", {}, "EM1Data.ResetCounters", {"id": 2}),
        (Kind.CONFIG, "switch:0", {"initial_state": "off"}, "Switch.SetConfig",
         {"id": 0, "config": {"initial_state": "off"}}),
        (Kind.CONFIG, None, {"device": {"name": "x"}}, "Sys.SetConfig",
         {"config": {"device": {"name": "x"}}}),
        (Kind.OTA, None, {"stage": "stable"}, "Shelly.Update", {"stage": "stable"}),
    ],
)  # fmt: skip
def test_a_shellys_methods(kind, channel, parameters, method, params):
    _, said, _ = sent("shelly:p", kind, channel, **parameters)
    assert (said["method"], said["params"]) == (method, params)


def test_a_shelly_with_control_alone_gets_the_bare_word():
    assert sent("shelly:p", Kind.ON, "switch:0", via="control") == (
        "p/command/switch:0", "on", AnsweredBy.STATE,
    )  # fmt: skip
    assert "RPC switched off" in refused("shelly:p", Kind.REBOOT, via="control")
    assert "timer" in refused("shelly:p", Kind.ON, via="control", revert_after_s=5)


@pytest.mark.parametrize(
    ("address", "kind", "channel", "topic", "payload"),
    [
        ("shelly1:shelly1pm-A1", Kind.ON, "relay:0", "shellies/shelly1pm-A1/relay/0/command", "on"),
        ("shelly1:s", Kind.TOGGLE, "relay:1", "shellies/s/relay/1/command", "toggle"),
        ("tasmota:tasmota_1", Kind.ON, None, "cmnd/tasmota_1/POWER1", "ON"),
        ("tasmota:t", Kind.OFF, "relay:2", "cmnd/t/POWER2", "OFF"),
        ("z2m:plug", Kind.ON, None, "zigbee2mqtt/plug/set", {"state": "ON"}),
        ("z2m:kitchen/plug", Kind.OFF, "relay:2", "zigbee2mqtt/kitchen/plug/set",
         {"state_l2": "OFF"}),
    ],
)  # fmt: skip
def test_bare_words_are_answered_by_the_state(address, kind, channel, topic, payload):
    assert sent(address, kind, channel) == (topic, payload, AnsweredBy.STATE)


def test_wattaways_json_is_flat_and_its_sockets_count_from_1():
    topic, said, answered_by = sent("wattaway:7", Kind.OFF, "channel:2")
    assert (topic, answered_by) == ("devices/7/commands", AnsweredBy.ID)
    assert said == {
        "command": "set_relay_state", "channel": 2, "state": "off",
        "timestamp": "2025-11-21T06:20:00Z", "command_id": ID, "expires_at": 1_763_706_030,
    }  # fmt: skip
    _, said, _ = sent("wattaway:7", Kind.CONFIG, interval=10)
    assert (said["command"], said["interval"]) == ("update_config", 10)
    assert "cannot be named state" in refused("wattaway:7", Kind.CONFIG, state=1)


def test_the_thai_monitor_is_told_by_its_topic():
    topic, said, answered_by = sent("home:h1/pump", Kind.ON)
    assert (topic, answered_by) == ("cmd/pump/on", AnsweredBy.STATE)
    assert said["command_id"] == ID
    topic, said, answered_by = sent("home:-/pump", Kind.CALIBRATE, voltage=230)
    assert (topic, answered_by) == ("cmd/pump/calibrate", AnsweredBy.ID)
    assert said["parameters"] == {"voltage": 230}


def test_tasmotas_settings_go_as_one_backlog():
    topic, payload, answered_by = sent("tasmota:t", Kind.CONFIG, TelePeriod=60, LedState=True)
    assert (topic, payload) == ("cmnd/t/Backlog0", "TelePeriod 60;LedState 1")
    assert answered_by is AnsweredBy.NOTHING
    _, payload, _ = sent("tasmota:t", Kind.CALIBRATE, voltage_v=230.5, current_a=0.25)
    assert payload == "VoltageSet 230.5;CurrentSet 250"


@pytest.mark.parametrize(
    ("address", "kind", "channel", "parameters", "words"),
    [
        ("tasmota:t", Kind.CONFIG, None, {"Power1": "ON"}, "no setting"),
        ("tasmota:t", Kind.CONFIG, None, {"Backlog": "Power ON"}, "no setting"),
        ("tasmota:t", Kind.CONFIG, None, {"TelePeriod": "60;Power ON"}, "no value"),
        ("tasmota:t", Kind.CONFIG, None, {"Rule1": "ON x DO Power ON"}, "no setting"),
        ("tasmota:t", Kind.CALIBRATE, None, {"voltage_v": "230"}, "send the true value"),
        ("tasmota:t", Kind.ON, "relay:0", {}, "from 1"),
        ("tasmota:t", Kind.OTA, None, {}, "has no ota"),
        ("z2m:p", Kind.CONFIG, None, {"state": "ON"}, "switches"),
        ("z2m:p", Kind.CONFIG, None, {"state_l1": "ON"}, "switches"),
        ("z2m:p", Kind.REBOOT, None, {}, "has no reboot"),
        ("z2m:p/#", Kind.ON, None, {}, "can be published on"),
        ("shelly:+", Kind.ON, None, {}, "can be published on"),
        ("shelly:$SYS", Kind.ON, None, {}, "can be published on"),
        ("shelly:a//b", Kind.ON, None, {}, "can be published on"),
        ("shelly:p", Kind.ON, "em:0", {}, "does not switch"),
        ("shelly:p", Kind.ON, "kitchen", {}, "no relay is named"),
        ("shelly:p", Kind.ON, None, {"revert_after_s": "soon"}, "above 0"),
        ("shelly:p", Kind.RESET_ENERGY, None, {}, "needs a component"),
        ("shelly:p", Kind.CALIBRATE, None, {}, "has no calibrate"),
        ("shelly:p", Kind.OTA, None, {"url": "http://x"}, "maker's firmware"),
        ("shelly1:s", Kind.REBOOT, None, {}, "has no reboot"),
        ("wattaway:7", Kind.TOGGLE, None, {}, "has no toggle"),
        ("wattaway:7", Kind.ON, "channel:0", {}, "from 1"),
        ("wattaway:7", Kind.CONFIG, None, {}, "changes nothing"),
        ("wattaway:7", Kind.CONFIG, None, {"x": "y" * 40_000}, "a device takes"),
        ("home:h/main", Kind.ON, None, {}, "panel"),
        ("home:h/d", Kind.RESET_ENERGY, None, {}, "has no reset_energy"),
        ("homesync:h1", Kind.ON, None, {}, "names no node"),
        ("http:x", Kind.ON, None, {}, "cannot be commanded"),
        ("nobody", Kind.ON, None, {}, "cannot be commanded"),
    ],
)
def test_what_a_family_cannot_do_is_refused_with_a_reason(
    address, kind, channel, parameters, words
):
    assert words in refused(address, kind, channel, **parameters)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
REST = st.text(max_size=20) | st.sampled_from(["h/n", "p", "a/b", "main", "h/main"])
CHANNELS = st.none() | st.text(max_size=12) | st.sampled_from(["switch:0", "relay:1", "total"])
NAMES = st.sampled_from(["via", "revert_after_s", "stage", "voltage_v", "state"]) | st.text(
    max_size=8
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(ENCODERS)), REST, st.sampled_from(Kind), CHANNELS,
       st.dictionaries(NAMES, JSON, max_size=3))  # fmt: skip
def test_whatever_is_asked_is_encoded_or_refused(family, rest, kind, channel, parameters):
    one = request(f"{family}:{rest}", kind, channel)
    one.parameters = parameters
    try:
        outgoing = encode(one)
    except NotForThisFamily:
        return
    assert not set("+#\0") & set(outgoing.topic)
    assert not outgoing.topic.startswith("$")
    assert all(outgoing.topic.split("/"))
    assert outgoing.payload
