"""What a device may publish and subscribe to on the broker: its own topics, and no others.

Pure. Which topics are its own follows from its address alone. No topic belongs to two accounts:
names have no wildcards and no slashes, one prefix cannot be another family's tree, and where a
topic does not name the home, the node's name counts in all homes (`name_in_all_homes`).
"""

import re
from typing import NamedTuple

NAME_RULE = "1 to 64 of a-z, 0-9 and -"
_NAME = re.compile(r"[a-z0-9-]{1,64}")

_TREES = frozenset(
    {
        "alerts", "cmd", "cmnd", "device", "devices", "home", "homeassistant", "homesync",
        "meterstream", "sensor", "shellies", "stat", "tasmota", "tele", "zigbee2mqtt",
    }
)  # fmt: skip
_LEVELS_OF_DEVICE_TREE = frozenset({"all", "status"})
Z2M_BRIDGE = "bridge"
"""The node of the family z2m: the one client that speaks for all Zigbee devices."""
MAIN = "main"
"""The node of the family home whose readings come on `home/<home>/sensor/…`; it hears no commands,
for `cmd/main/…` would be those of every home."""


class Rights(NamedTuple):
    """MQTT filters of what may be published, and of what may be subscribed to and received."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class NoAccount(ValueError):
    """No account can be made for such a device; the text says why."""


def address_of_node(family: str, home_id: str, node_id: str) -> str:
    """The address of a node to be provisioned. Raises NoAccount."""
    for what, name in (("home_id", home_id), ("node_id", node_id)):
        if not _NAME.fullmatch(name):
            raise NoAccount(f"{what} {name!r:.80}: give {NAME_RULE}")
    match family:
        case "homesync" | "home":
            address = f"{family}:{home_id}/{node_id}"
        case "shelly" | "shelly1" | "wattaway" | "tasmota" | "z2m":
            address = f"{family}:{node_id}"
        case _:
            raise NoAccount(
                f"devices of the family {family!r:.80} have no account on the broker; "
                f"those of {', '.join(FAMILIES)} have"
            )
    rights_of(address)
    return address


def rights_of(address: str) -> Rights:
    """What the account of this device may do. Raises NoAccount."""
    family, _, rest = address.partition(":")
    names = rest.split("/")
    known = FAMILIES.get(family)
    if known is None or len(names) != known or not all(map(_NAME.fullmatch, names)):
        raise NoAccount(
            f"{address!r:.120} can have no account on the broker: its names need {NAME_RULE}"
        )
    if family == "shelly" and names[0] in _TREES:
        raise NoAccount(f"the prefix {names[0]!r} is the tree of other devices; choose another")
    if family == "home" and names[1] in _LEVELS_OF_DEVICE_TREE:
        raise NoAccount(f"{names[1]!r} is a level of the topics device/…; choose another node_id")
    if family == "z2m" and names[0] != Z2M_BRIDGE:
        raise NoAccount(
            f"Zigbee devices speak through their bridge; its account has the node_id {Z2M_BRIDGE!r}"
        )
    return _rights(family, names)


def name_in_all_homes(address: str) -> str | None:
    """The name that no second account of this family may have, in no home; None: none is needed.

    The Thai monitor's `device/<node>/…` and `cmd/<node>/…` name no home.
    """
    family, _, rest = address.partition(":")
    node = rest.rpartition("/")[2]
    return node if family == "home" and node != MAIN else None


def command_topics() -> tuple[str, ...]:
    """Filters of everything that tells devices what to do, for the account that does so."""
    filters = [
        filter
        for family, levels in FAMILIES.items()
        for filter in _rights(family, ["+"] * levels).subscribe
        if family != "z2m" and not filter.endswith("/ack")
    ]
    prefixes = ("+/+", "+/+/+", "+/+/+/+")  # of Shelly's that have no account of ours
    filters += [f"{prefix}/{end}" for prefix in prefixes for end in _SHELLY_COMMANDS]
    filters += [f"zigbee2mqtt/{name}/set" for name in ("+", *prefixes)]
    return tuple(filters)


def every_device() -> Rights:
    """What all devices together may do, for the account that plays them."""
    each = [_rights(family, ["+"] * levels) for family, levels in FAMILIES.items()]
    each.append(_rights_of_home("+", MAIN))
    publish, subscribe = (
        tuple(dict.fromkeys(filter for rights in each for filter in rights[way])) for way in (0, 1)
    )
    return Rights(publish, subscribe)


FAMILIES = {"homesync": 2, "wattaway": 1, "home": 2, "shelly": 1, "shelly1": 1, "tasmota": 1,
            "z2m": 1}  # fmt: skip
"""Families that can have accounts, and of how many names their addresses consist."""

_HOME_SAYS = ("status", "telemetry", "alerts")
_SHELLY_COMMANDS = ("rpc", "command", "command/#")
_SHELLY1_SAYS = (
    "online", "announce", "info", "temperature", "temperature_f", "temperature_status",
    "overtemperature", "voltage", "relay/+", "relay/+/power", "relay/+/energy",
    "relay/+/overpower_value", "emeter/+/+", "input/+", "input_event/+", "longpush/+",
)  # fmt: skip


def _rights(family: str, names: list[str]) -> Rights:
    node = names[-1]
    match family:
        case "homesync":
            base = f"homesync/{names[0]}/nodes/{node}"
            node_says = ("telemetry/#", "status", "online", "response/#")
            return Rights(_below(base, node_says), _below(base, ("command/#", "ack")))
        case "wattaway":
            base = f"devices/{node}"
            return Rights(_below(base, ("data", "status")), _below(base, ("commands",)))
        case "shelly":
            says = ("online", "announce", "events/#", "status", "status/#")
            return Rights(
                (*_below(node, says), f"meterstream/{node}/rpc"), _below(node, _SHELLY_COMMANDS)
            )
        case "shelly1":
            base = f"shellies/{node}"
            return Rights(_below(base, _SHELLY1_SAYS), _below(base, ("command", "relay/+/command")))
        case "tasmota":
            return Rights((f"tele/{node}/#", f"stat/{node}/#"), (f"cmnd/{node}/#",))
        case "z2m":
            return Rights(("zigbee2mqtt/#",), ("zigbee2mqtt/#",))
    return _rights_of_home(names[0], node)


def _rights_of_home(home: str, node: str) -> Rights:
    """The Thai monitor: a home's main meter, or one of its devices."""
    own = _below(f"home/{home}/device/{node}", _HOME_SAYS)
    if node == MAIN:
        return Rights((*own, f"home/{home}/sensor/#", f"home/{home}/system/alerts"), ())
    return Rights(
        (*own, *_below(f"device/{node}", _HOME_SAYS), f"device/status/{home}/{node}"),
        (f"cmd/{node}/#",),
    )


def _below(base: str, ends: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{base}/{end}" for end in ends)
