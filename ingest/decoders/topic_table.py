"""Which family a topic belongs to, whose it is, and what its message says.

The table is ordered: the first filter that matches a topic decides. All of it is subscribed to,
but the topics under `poll/`: these are never published, what was asked over HTTP bears them.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import msgspec

from ingest.decoders import (
    homesync,
    shelly_gen1,
    shelly_gen2,
    tasmota,
    thai_monitor,
    wattaway,
    zigbee2mqtt,
)
from ingest.decoders.json_bounds import FAULTS, MAX_BYTES, read_json
from ingest.decoders.message import OLDEST_US_BACK, Decoder, Message
from schemas.decoded import Decoded, Reason, Undecodable

MAX_ADDRESS = 200
MAX_TOPIC = 512
NO_HOME = "-"
"""The home in the address of a device that names none: `home:-/<device>`."""

_ROUTES_KEPT = 50_000
_MAX_PREFIX_LEVELS = 4
_NO_SHELLY_PREFIX = frozenset(
    {
        *("alerts", "cmd", "device", "devices", "homeassistant", "homesync", "meterstream"),
        *("sensor", "cmnd", "stat", "tele", "zigbee2mqtt", "poll"),
    }
)


class Rule(NamedTuple):
    """`address` is filled with the topic's levels, and with the `home` and `device` of the payload
    where the topic does not name them. `device_level` is the level that names the device.
    """

    filter: str
    decode: Decoder
    address: str
    retained: bool = False
    device_level: int | None = None


class Route(NamedTuple):
    """A rule that met a topic. `address` is empty where it needs the payload."""

    decode: Decoder
    address: str
    words: tuple[str, ...]
    rule: Rule


class Named(msgspec.Struct):
    """The only fields of a payload that an address is made of."""

    home_id: str | None = None
    device_id: str | None = None


def _shelly_rules(suffix: str, decode: Decoder, *, retained: bool = False) -> list[Rule]:
    """A rule for each number of levels that a Gen2 prefix may have."""
    return [
        Rule(
            f"{'+/' * levels}{suffix}",
            decode,
            "shelly:" + "/".join(f"{{{level}}}" for level in range(levels)),
            retained,
        )
        for levels in range(1, _MAX_PREFIX_LEVELS + 1)
    ]


def _polled_rules() -> list[Rule]:
    return [
        Rule(
            f"poll/shelly/{'+/' * levels}status",
            shelly_gen2.decode_polled,
            "shelly:" + "/".join(f"{{{level + 2}}}" for level in range(levels)),
        )
        for levels in range(1, _MAX_PREFIX_LEVELS + 1)
    ]


def _zigbee_rules() -> list[Rule]:
    """A rule for each number of levels that a name may have. Commands to a device and the bridge's
    own messages lie in the same tree: they are told apart first.
    """
    rules = [Rule("zigbee2mqtt/bridge/#", zigbee2mqtt.decode_nothing, "z2m:bridge")]
    for levels in range(1, _MAX_PREFIX_LEVELS + 1):
        filter = "/".join(["zigbee2mqtt", *["+"] * levels])
        address = "z2m:" + "/".join(f"{{{level}}}" for level in range(1, levels + 1))
        rules += [
            Rule(f"{filter}/availability", zigbee2mqtt.decode_availability, address, True),
            Rule(f"{filter}/set", zigbee2mqtt.decode_nothing, address),
            Rule(f"{filter}/get", zigbee2mqtt.decode_nothing, address),
        ]
    rules += [
        Rule(one.filter.removesuffix("/get"), zigbee2mqtt.decode_state, one.address)
        for one in rules
        if one.filter.endswith("/get")
    ]
    return rules


_PAYLOADS_HOME = "home:{home}/{device}"

RULES: tuple[Rule, ...] = (
    *_polled_rules(),
    Rule("poll/shellies/+/status", shelly_gen1.decode_polled, "shelly1:{2}"),
    *_shelly_rules("events/rpc", shelly_gen2.decode_notification),
    Rule("homesync/+/nodes/+/telemetry/+", homesync.decode_telemetry, "homesync:{1}/{3}"),
    Rule("homesync/+/nodes/+/status", homesync.decode_status, "homesync:{1}/{3}", True),
    Rule("homesync/+/nodes/+/online", homesync.decode_online, "homesync:{1}/{3}", True),
    Rule("homesync/+/nodes/+/response/command", homesync.decode_response, "homesync:{1}/{3}"),
    Rule("homesync/+/nodes/+/response/config", homesync.decode_config, "homesync:{1}/{3}"),
    Rule("devices/+/data", wattaway.decode_data, "wattaway:{1}"),
    Rule("devices/+/status", wattaway.decode_status, "wattaway:{1}", True),
    Rule("home/+/sensor/#", thai_monitor.decode_sensor, "home:{1}/main"),
    Rule("home/+/device/status/all", thai_monitor.decode_device_status, "home:{1}/{device}", True),
    Rule("home/+/device/+/status", thai_monitor.decode_device_status, "home:{1}/{3}", True),
    Rule("home/+/device/+/telemetry", thai_monitor.decode_device_telemetry, "home:{1}/{3}"),
    Rule("home/+/device/+/alerts", thai_monitor.decode_alert, "home:{1}/{3}"),
    Rule("home/+/system/alerts", thai_monitor.decode_alert, "home:{1}/main"),
    Rule("device/status/all", thai_monitor.decode_device_status, _PAYLOADS_HOME, True),
    Rule("device/status/+", thai_monitor.decode_device_status, _PAYLOADS_HOME, True, 2),
    Rule("device/status/+/+", thai_monitor.decode_device_status, "home:{2}/{3}", True),
    Rule("device/+/status", thai_monitor.decode_device_status, _PAYLOADS_HOME, True, 1),
    Rule("device/+/telemetry", thai_monitor.decode_device_telemetry, _PAYLOADS_HOME, False, 1),
    Rule("device/+/alerts", thai_monitor.decode_alert, _PAYLOADS_HOME, False, 1),
    Rule("sensor/data/#", thai_monitor.decode_device_telemetry, _PAYLOADS_HOME),
    Rule("alerts/#", thai_monitor.decode_alert, _PAYLOADS_HOME),
    Rule("shellies/+/relay/+", shelly_gen1.decode_relay, "shelly1:{1}"),
    Rule("shellies/+/relay/+/+", shelly_gen1.decode_relay_value, "shelly1:{1}"),
    Rule("shellies/+/emeter/+/+", shelly_gen1.decode_emeter_value, "shelly1:{1}"),
    Rule("shellies/+/input/+", shelly_gen1.decode_input, "shelly1:{1}"),
    Rule("shellies/+/input_event/+", shelly_gen1.decode_input_event, "shelly1:{1}"),
    Rule("shellies/+/temperature", shelly_gen1.decode_temperature, "shelly1:{1}"),
    Rule("shellies/+/info", shelly_gen1.decode_info, "shelly1:{1}"),
    Rule("shellies/+/announce", shelly_gen1.decode_announce, "shelly1:{1}"),
    Rule("shellies/+/online", shelly_gen1.decode_online, "shelly1:{1}", True),
    Rule("tele/+/LWT", tasmota.decode_will, "tasmota:{1}", True),
    Rule("tele/+/+", tasmota.decode_telemetry, "tasmota:{1}"),
    Rule("stat/+/+", tasmota.decode_answer, "tasmota:{1}"),
    *_zigbee_rules(),
    Rule("meterstream/+/rpc", shelly_gen2.decode_reply, "shelly:{1}"),
    Rule("meterstream/+/+/rpc", shelly_gen2.decode_reply, "shelly:{1}/{2}"),
    Rule("meterstream/+/+/+/rpc", shelly_gen2.decode_reply, "shelly:{1}/{2}/{3}"),
    Rule("meterstream/+/+/+/+/rpc", shelly_gen2.decode_reply, "shelly:{1}/{2}/{3}/{4}"),
    *_shelly_rules("status/+", shelly_gen2.decode_component),
    *_shelly_rules("online", shelly_gen2.decode_online, retained=True),
)


def address_of(topic: str, payload: bytes) -> str:
    """The address of the device whose message this is; the topic itself where nobody can tell.

    Never raises. It is the Kafka key, and `decode` gives the same address.
    """
    route = _routes.get(topic) or _find_route(topic)
    if route is None:
        return topic
    return route.address or _address_in(route, payload) or topic


def decode(
    topic: str,
    payload: bytes,
    received_us: int,
    *,
    retained: bool = False,
    oldest_us_back: int = OLDEST_US_BACK,
) -> Decoded:
    """What one message says. `oldest_us_back`: how far back its clock may lie.

    Raises Undecodable and nothing else.
    """
    route = _routes.get(topic) or _find_route(topic)
    if route is None:
        raise Undecodable(
            Reason.UNKNOWN_TOPIC,
            f"topic {topic!r:.200}: no device family publishes there; see the topic table",
        )
    family_decode, address, words, _ = route
    try:
        if not address:
            address = _address_in(route, payload) or _refuse_nameless(payload)
        return family_decode(
            Message(address, words, payload, received_us, retained, oldest_us_back)
        )
    except Undecodable as error:
        raise Undecodable(error.reason, f"topic {topic!r:.200}: {error}") from error


def brings_envelopes(topic: str) -> bool:
    """Whether what comes on this topic is, usually, an envelope of `schemas.homesync`."""
    route = _routes.get(topic) or _find_route(topic)
    return route is not None and route.decode is homesync.decode_telemetry


def is_polled(topic: str) -> bool:
    """Whether a topic, or a filter, is of those that are never published."""
    return topic.startswith("poll/")


def takes_retained(topic: str) -> bool:
    """Whether a retained message of this topic is a status that still holds."""
    route = _routes.get(topic) or _find_route(topic)
    return route is not None and route.rule.retained


def _find_route(topic: str) -> Route | None:
    words = tuple(topic.split("/"))
    if len(topic) > MAX_TOPIC or not all(words):
        return None
    rule = next((rule for rule in RULES if _matches(rule.filter.split("/"), words)), None)
    if rule is None or (rule.address.startswith("shelly:{0}") and words[0] in _NO_SHELLY_PREFIX):
        return None
    address = "" if "{device}" in rule.address else rule.address.format(*words)
    if not _good_address(address):
        return None
    if len(_routes) >= _ROUTES_KEPT:
        _routes.clear()
    route = _routes[topic] = Route(rule.decode, address, words, rule)
    return route


def _address_in(route: Route, payload: bytes) -> str:
    """The address of a message whose topic does not tell it; empty where nobody can.

    Trees without a level for the device name it in the payload, else by their last level.
    """
    try:
        named = _NAMED.decode(payload) if len(payload) <= MAX_BYTES else _UNNAMED
    except FAULTS:
        named = _UNNAMED
    rule, words = route.rule, route.words
    if rule.device_level is not None:
        device = words[rule.device_level]
    else:
        device = named.device_id or _level_below(rule.filter, words)
    home = named.home_id or NO_HOME
    if not device or "/" in device or "/" in home:
        return ""
    address = rule.address.format(*words, home=home, device=device)
    return address if _good_address(address) else ""


def _level_below(filter: str, words: tuple[str, ...]) -> str:
    """The topic's last level, where the filter's `#` stands for it."""
    return words[-1] if filter.endswith("#") and len(words) >= len(filter.split("/")) else ""


def _refuse_nameless(payload: bytes) -> NoReturn:
    read_json(payload)
    raise Undecodable(
        Reason.MISSING_VALUE,
        "neither topic nor payload names a device that can be one; "
        "send home_id and device_id, printable and without a slash",
    )


def _good_address(address: str) -> bool:
    return len(address) <= MAX_ADDRESS and address.isprintable()


def _matches(filter: list[str], words: Sequence[str]) -> bool:
    """Whether an MQTT filter takes in a topic, or all topics of another filter."""
    for position, level in enumerate(filter):
        if level == "#":
            return True
        if position >= len(words) or words[position] == "#" or level not in ("+", words[position]):
            return False
    return len(filter) == len(words)


def _subscriptions() -> tuple[str, ...]:
    """The filters of all rules, but those that another takes in: a broker may send twice what
    matches two filters.
    """
    filters = list(dict.fromkeys(rule.filter for rule in RULES if not is_polled(rule.filter)))
    return tuple(
        each
        for each in filters
        if not any(
            other != each and _matches(other.split("/"), each.split("/")) for other in filters
        )
    )


SUBSCRIPTIONS = _subscriptions()
_UNNAMED = Named()
_NAMED = msgspec.json.Decoder(Named)
_routes: dict[str, Route] = {}
