"""Whose topics are whose."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.decoders.topic_table import address_of
from schemas.mqtt_rights import (
    FAMILIES,
    NoAccount,
    address_of_node,
    command_topics,
    name_in_all_homes,
    rights_of,
)

# Few names, and those that trees and levels have: collisions are what is looked for.
NAMES = (
    ["a", "b", "main", "all", "bridge", "status", "device", "home", "homesync", "meterstream",
     "nodes", "rpc", "shellies", "tele", "cmd", "zigbee2mqtt", "stat", "online", "telemetry"]
)  # fmt: skip


def possible(family: str, home: str, node: str) -> Iterator[str]:
    with suppress(NoAccount):
        yield address_of_node(family, home, node)


ADDRESSES = sorted({one for names in product(FAMILIES, NAMES, NAMES) for one in possible(*names)})


def overlap(one: str, other: str) -> bool:
    """Whether some topic matches both filters."""
    first, second = one.split("/"), other.split("/")
    for a, b in zip(first, second, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    shorter, longer = sorted((first, second), key=len)
    return len(first) == len(second) or longer[len(shorter)] == "#" or shorter[-1] == "#"


@settings(deadline=None)
@given(st.lists(st.sampled_from(ADDRESSES), min_size=2, max_size=12, unique=True))
def test_no_topic_belongs_to_two_accounts(chosen):
    for one, other in combinations(chosen, 2):
        shared = name_in_all_homes(one)
        if shared is not None and shared == name_in_all_homes(other):
            continue  # the second of them is refused: `mqtt_account_node`
        for mine in rights_of(one).publish:
            for theirs in (*rights_of(other).publish, *rights_of(other).subscribe):
                assert not overlap(mine, theirs), f"{one}: {mine}, {other}: {theirs}"
        for mine in rights_of(one).subscribe:
            for theirs in rights_of(other).subscribe:
                assert not overlap(mine, theirs), f"{one}: {mine}, {other}: {theirs}"


@pytest.mark.parametrize(
    ("family", "topic"),
    [
        ("homesync", "homesync/h1/nodes/n1/telemetry/main"),
        ("homesync", "homesync/h1/nodes/n1/online"),
        ("homesync", "homesync/h1/nodes/n1/response/command"),
        ("wattaway", "devices/n1/data"),
        ("wattaway", "devices/n1/status"),
        ("shelly", "n1/events/rpc"),
        ("shelly", "n1/status/switch:0"),
        ("shelly", "n1/online"),
        ("shelly", "meterstream/n1/rpc"),
        ("shelly1", "shellies/n1/relay/0"),
        ("shelly1", "shellies/n1/emeter/0/total"),
        ("home", "home/h1/device/n1/telemetry"),
        ("home", "device/status/h1/n1"),
    ],
)
def test_what_a_node_may_publish_is_read_as_its_own(family, topic):
    address = address_of_node(family, "h1", "n1")
    assert any(overlap(right, topic) for right in rights_of(address).publish)
    assert address_of(topic, b"{}") == address


def test_commands_can_be_published_to_every_node_and_nothing_in_its_name():
    to_publish = command_topics()
    for family, node in [("homesync", "n"), ("wattaway", "n"), ("shelly", "n"), ("shelly1", "n"),
                         ("home", "n"), ("tasmota", "n")]:  # fmt: skip
        rights = rights_of(address_of_node(family, "h", node))
        for heard in rights.subscribe:
            commands = any(overlap(right, heard) for right in to_publish)
            assert commands != heard.endswith("/ack"), heard
        if family not in ("homesync", "wattaway", "home"):  # a Shelly may be named n/events
            continue
        for said in rights.publish:
            assert not any(overlap(right, said) for right in to_publish), said
    assert any(overlap(right, "zigbee2mqtt/hall/lamp/set") for right in to_publish)
    assert not any(overlap(right, "zigbee2mqtt/hall/lamp") for right in to_publish)


@pytest.mark.parametrize(
    "name",
    ["", "+", "#", "a/b", "A", "a b", "a\0", "%u", "%c", "$SYS", "a" * 65, "é", "a+", "n_1", "a\n"],
)
def test_names_that_could_be_more_than_a_name_are_refused(name):
    for family in FAMILIES:
        with pytest.raises(NoAccount):
            address_of_node(family, "h1", name)
        with pytest.raises(NoAccount):
            address_of_node(family, name, "n1")
        with pytest.raises(NoAccount):
            rights_of(f"{family}:{'h1/' * (FAMILIES[family] - 1)}{name}")


@pytest.mark.parametrize(
    ("family", "node", "reason"),
    [
        ("http", "n1", "have no account"),
        ("nonsense", "n1", "have no account"),
        ("shelly", "homesync", "tree of other devices"),
        ("shelly", "zigbee2mqtt", "tree of other devices"),
        ("home", "status", "level of the topics"),
        ("z2m", "lamp", "through their bridge"),
    ],
)
def test_what_cannot_have_an_account_is_told_why(family, node, reason):
    with pytest.raises(NoAccount, match=reason):
        address_of_node(family, "h1", node)
