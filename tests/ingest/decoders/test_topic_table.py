import pytest
from wire import RECEIVED_US, refused

from ingest.decoders import topic_table
from ingest.decoders.topic_table import SUBSCRIPTIONS, address_of, decode, takes_retained
from schemas.decoded import Reason
from schemas.families import family_of

ADDRESSES = {
    "homesync/h1/nodes/n1/telemetry/power": "homesync:h1/n1",
    "homesync/h1/nodes/n1/telemetry/any": "homesync:h1/n1",
    "homesync/h1/nodes/n1/status": "homesync:h1/n1",
    "homesync/h1/nodes/n1/online": "homesync:h1/n1",
    "homesync/h1/nodes/n1/response/command": "homesync:h1/n1",
    "devices/42/data": "wattaway:42",
    "devices/42/status": "wattaway:42",
    "home/h1/sensor/power/total": "home:h1/main",
    "home/h1/sensor/power/circuit/c1": "home:h1/main",
    "home/h1/device/d1/status": "home:h1/d1",
    "home/h1/device/d1/telemetry": "home:h1/d1",
    "home/h1/device/d1/alerts": "home:h1/d1",
    "home/h1/system/alerts": "home:h1/main",
    "home/บ้าน/device/d1/alerts": "home:บ้าน/d1",
    "device/d1/telemetry": "home:-/d1",
    "device/status/d1": "home:-/d1",
    "device/status/h1/d1": "home:h1/d1",
    "sensor/data/d1": "home:-/d1",
    "alerts/d1": "home:-/d1",
    "shellypro3em-ec6260890b50/events/rpc": "shelly:shellypro3em-ec6260890b50",
    "shellies/plus1pm/events/rpc": "shelly:shellies/plus1pm",
    "home/attic/plug/events/rpc": "shelly:home/attic/plug",
    "a/b/c/d/events/rpc": "shelly:a/b/c/d",
    "shellypro3em-ec6260890b50/status/em:0": "shelly:shellypro3em-ec6260890b50",
    "a/b/c/d/status/switch:0": "shelly:a/b/c/d",
    "shellypro3em-ec6260890b50/online": "shelly:shellypro3em-ec6260890b50",
    "a/b/c/d/online": "shelly:a/b/c/d",
    "meterstream/shellypro3em-ec6260890b50/rpc": "shelly:shellypro3em-ec6260890b50",
    "meterstream/a/b/c/d/rpc": "shelly:a/b/c/d",
    "shellies/shellyem3-C45BBE/emeter/0/total": "shelly1:shellyem3-C45BBE",
    "shellies/shellyem3-C45BBE/relay/0": "shelly1:shellyem3-C45BBE",
    "shellies/shellyem3-C45BBE/relay/0/power": "shelly1:shellyem3-C45BBE",
    "shellies/shellyem3-C45BBE/online": "shelly1:shellyem3-C45BBE",
    "shellies/shellyem3-C45BBE/info": "shelly1:shellyem3-C45BBE",
    "tele/tasmota_1A2B3C/SENSOR": "tasmota:tasmota_1A2B3C",
    "tele/tasmota_1A2B3C/LWT": "tasmota:tasmota_1A2B3C",
    "stat/tasmota_1A2B3C/RESULT": "tasmota:tasmota_1A2B3C",
    "zigbee2mqtt/plug": "z2m:plug",
    "zigbee2mqtt/attic/plug": "z2m:attic/plug",
    "zigbee2mqtt/a/b/c/plug": "z2m:a/b/c/plug",
    "zigbee2mqtt/plug/availability": "z2m:plug",
    "zigbee2mqtt/a/b/c/plug/availability": "z2m:a/b/c/plug",
    "zigbee2mqtt/attic/plug/set": "z2m:attic/plug",
}
UNKNOWN = [
    "",
    "/",
    "homesync",
    "homesync/h1/nodes/n1/ack",
    "homesync/h1/nodes/n1/command/relay",
    "homesync/h1/online",
    "homesync//nodes/n1/telemetry/power",
    "devices//data",
    "devices/a\x00b/data",
    "devices/a\nb/data",
    "devices/" + "d" * 300 + "/data",
    "homesync/h1/nodes/n1/telemetry/" + "m" * 600,
    "a/b/c/d/e/events/rpc",
    "meterstream/online",
    "cmd/d1/reboot",
    "zigbee2mqtt",
    "$SYS/broker/uptime",
]


def matches(filter_, topic):
    """MQTT 5, 4.7.1, written once more for the test."""
    levels, words = filter_.split("/"), topic.split("/")
    if levels[-1] == "#":
        if len(words) < len(levels) - 1:
            return False
        levels, words = levels[:-1], words[: len(levels) - 1]
    return len(levels) == len(words) and all(
        level in ("+", word) for level, word in zip(levels, words, strict=True)
    )


@pytest.mark.parametrize(("topic", "address"), ADDRESSES.items())
def test_the_topic_tells_the_address(topic, address):
    assert address_of(topic, b"") == address
    assert address_of(topic, b"\xff\x00{") == address
    assert family_of(address)


@pytest.mark.parametrize("topic", ADDRESSES)
def test_every_topic_is_subscribed_to_once(topic):
    assert [each for each in SUBSCRIPTIONS if matches(each, topic)].__len__() == 1


def test_nothing_is_subscribed_to_as_a_whole():
    assert "#" not in SUBSCRIPTIONS
    assert not any(each.startswith(("#", "+/#", "$")) for each in SUBSCRIPTIONS)
    assert not any(matches(each, "homesync/h1/nodes/n1/ack") for each in SUBSCRIPTIONS)
    assert not any(matches(each, "homesync/h1/nodes/n1/command/relay") for each in SUBSCRIPTIONS)
    assert not any(matches(each, "shellypro3-a0dd6ca1c588/rpc") for each in SUBSCRIPTIONS)


@pytest.mark.parametrize("topic", UNKNOWN)
def test_an_unknown_topic_is_its_own_key_and_refused(topic):
    assert address_of(topic, b"{}") == topic
    text = refused(topic, {}, Reason.UNKNOWN_TOPIC)
    assert text.isprintable()


def test_only_what_holds_still_is_taken_when_retained():
    taken = {topic for topic in ADDRESSES if takes_retained(topic)}
    assert taken == {
        "homesync/h1/nodes/n1/status",
        "homesync/h1/nodes/n1/online",
        "devices/42/status",
        "home/h1/device/d1/status",
        "device/status/d1",
        "device/status/h1/d1",
        "shellypro3em-ec6260890b50/online",
        "a/b/c/d/online",
        "shellies/shellyem3-C45BBE/online",
        "tele/tasmota_1A2B3C/LWT",
        "zigbee2mqtt/plug/availability",
        "zigbee2mqtt/a/b/c/plug/availability",
    }
    assert not takes_retained("nobody/knows")


def test_the_memory_of_routes_is_bounded(monkeypatch):
    monkeypatch.setattr(topic_table, "_ROUTES_KEPT", 10)
    monkeypatch.setattr(topic_table, "_routes", {})
    for number in range(100):
        assert address_of(f"devices/{number}/data", b"") == f"wattaway:{number}"
        address_of(f"nobody/{number}", b"")
    assert len(topic_table._routes) <= 10


def test_the_key_is_the_address_that_is_decoded():
    payload = b'{"home_id": "h1", "device_id": "d1", "w": 5}'
    for topic in ("sensor/data/x", "device/d1/telemetry", "home/h1/device/d1/telemetry"):
        assert address_of(topic, payload) == decode(topic, payload, RECEIVED_US).address
