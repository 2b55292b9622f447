"""Devices of every family against every topic, on the real broker: only its own.

Whose topics are whose is written out here by hand; what is not written out must be refused.
"""

import time
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import psycopg
import pytest

from infra.local import Stack, StackSettings, start
from infra.local.broker import accounts_connection
from infra.local.programs import SERVERS
from ingest.batch_client import qos0_publish
from sinks import provisioning
from sinks.broker_control import BrokerControl
from sinks.migrate import migrate
from sinks.registry import resolve_device
from tests.infra.broker_clients import NOT_AUTHORIZED, Connection, connected, is_refused, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

NO_SUBSCRIBER, GRANTED = 16, 1


class Node(NamedTuple):
    family: str
    home: str
    node: str
    says: tuple[str, ...]
    hears: tuple[str, ...]


def homesync(home: str, node: str) -> Node:
    base = f"homesync/{home}/nodes/{node}"
    return Node(
        "homesync", home, node,
        (f"{base}/telemetry/main", f"{base}/status", f"{base}/online", f"{base}/response/command"),
        (f"{base}/command/relay", f"{base}/ack"),
    )  # fmt: skip


NODES = (
    homesync("h1", "n1"),
    homesync("h1", "n2"),  # the same home
    homesync("h2", "n1"),  # the same node in another home
    homesync("h1", "n"),  # the beginning of another's name
    Node("wattaway", "h1", "w1", ("devices/w1/data", "devices/w1/status"),
         ("devices/w1/commands",)),
    Node("wattaway", "h2", "w11", ("devices/w11/data",), ("devices/w11/commands",)),
    Node("shelly", "h1", "shellypro3em-ec6260890b50",
         ("shellypro3em-ec6260890b50/events/rpc", "shellypro3em-ec6260890b50/status/em:0",
          "shellypro3em-ec6260890b50/online", "meterstream/shellypro3em-ec6260890b50/rpc"),
         ("shellypro3em-ec6260890b50/rpc", "shellypro3em-ec6260890b50/command/switch:0")),
    Node("shelly", "h2", "shellyplus1pm-a", ("shellyplus1pm-a/events/rpc",),
         ("shellyplus1pm-a/rpc",)),
    Node("shelly1", "h1", "shelly1-a", ("shellies/shelly1-a/relay/0", "shellies/shelly1-a/online"),
         ("shellies/shelly1-a/relay/0/command",)),
    Node("home", "h1", "t1", ("home/h1/device/t1/telemetry", "device/t1/status"),
         ("cmd/t1/on",)),
    Node("home", "h2", "t2", ("home/h2/device/t2/telemetry", "device/status/h2/t2"),
         ("cmd/t2/off",)),
    Node("home", "h1", "main", ("home/h1/sensor/power",), ()),
    Node("tasmota", "h1", "tasmota-1", ("tele/tasmota-1/SENSOR", "stat/tasmota-1/RESULT"),
         ("cmnd/tasmota-1/POWER",)),
)  # fmt: skip

NOBODYS_TOPICS = (
    "$SYS/broker/uptime", "$SYS/x", "$CONTROL/dynamic-security/v1", "$CONTROL/x",
    "$share/g/homesync/h1/nodes/n1/telemetry/main", "homesync/%u/nodes/n1/telemetry/main",
    "homesync/h1/nodes/%c/telemetry/main", "%", "x", "/", "homesync", "homesync/h1/nodes/n1",
    "homesync/h1/nodes/n1/telemetr", "/homesync/h1/nodes/n1/telemetry/main",
    "homesync/h1/nodes//telemetry/main", "home/h1/device/status/all", "device/status/all",
    "shellies/announce", "shellies/command", "alerts/x", "sensor/data/x",
    "zigbee2mqtt/lamp/set", "meterstream/x/rpc", "homeassistant/sensor/x/config",
)  # fmt: skip

NOBODYS_FILTERS = (
    "#", "+", "+/#", "+/+", "+/+/+", "+/+/+/+/+", "+/+/+/+/+/+", "/#", "$SYS/#", "$SYS/broker/+",
    "$CONTROL/#", "$CONTROL/dynamic-security/v1/response", "$share/g/#", "$share/g/+/+/+/+/+/+",
    "$share/g/homesync/#", "$share/g/$SYS/#", "homesync/#", "homesync/+/nodes/+/command/#",
    "homesync/h1/nodes/+/command/relay", "homesync/h1/nodes/+/ack", "homesync/h1/#",
    "homesync/h1/nodes/n1/#", "homesync/h1/nodes/n1/+", "homesync/%u/#", "%u/#", "%c/#", "%",
    "devices/+/commands", "devices/#", "cmd/#", "cmd/+/on", "cmnd/#", "cmnd/+/POWER",
    "shellies/#", "shellies/+/relay/0/command", "+/rpc", "+/command/#", "zigbee2mqtt/#",
    "meterstream/#", "home/#", "device/#",
)  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    servers = [program for program in SERVERS if program.name != "kafka"]
    with start(StackSettings.free(tmp_path_factory.mktemp("stack")), servers) as running:
        migrate(running.database_url)
        yield running


@pytest.fixture(scope="module")
def control(stack: Stack) -> BrokerControl:
    return BrokerControl(accounts_connection(stack.settings))


@pytest.fixture
def conn(stack: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(stack.database_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def accounts(stack: Stack, control: BrokerControl) -> dict[Node, dict[str, str]]:
    """How each device connects."""
    with psycopg.connect(stack.database_url) as conn:
        return {node: provisioned(conn, control, node) for node in NODES}


@pytest.fixture(scope="module")
def devices(stack: Stack, accounts: dict[Node, dict[str, str]]) -> Iterator[dict[Node, Connection]]:
    connections = {node: Connection(stack, **account) for node, account in accounts.items()}
    yield connections
    for connection in connections.values():
        connection.close()


def provisioned(conn: psycopg.Connection, control: BrokerControl, node: Node) -> dict[str, str]:
    made = provisioning.provision(
        conn,
        control,
        node_id=node.node,
        name=f"{node.family}-{node.home}-{node.node}",
        home_id=node.home,
        family=node.family,
    )
    return {"user": made.user_name, "password": made.token, "client_id": made.user_name}


def test_every_device_publishes_its_own_topics_and_no_others(stack, devices):
    every = {topic for node in NODES for topic in (*node.says, *node.hears)}
    topics = sorted(every | set(NOBODYS_TOPICS))
    allowed = 0
    with connected(stack, tls=False) as watcher:
        watcher.subscribe("#")
        for node, topic in product(NODES, topics):
            code = devices[node].publish(topic, devices_mark(node))
            if topic in node.says:
                allowed += 1
                assert code == 0, f"{node.family} {node.node} on {topic}: {code}"
            else:
                assert code == NOT_AUTHORIZED, f"{node.family} {node.node} on {topic}: {code}"
        wait_for(lambda: len(watcher.received) >= allowed, "what was let through")
        time.sleep(0.2)
        owners = {topic: node for node in NODES for topic in node.says}
        assert sorted(watcher.received) == sorted(
            (topic, devices_mark(node)) for topic, node in owners.items()
        )
    tried = len(NODES) * len(topics)
    print(f"publish: {tried} tried, {allowed} let through, {tried - allowed} refused")


def devices_mark(node: Node) -> bytes:
    return f"{node.family}/{node.home}/{node.node}".encode()


def test_every_device_subscribes_to_its_own_topics_and_hears_no_others(stack, devices):
    every = sorted({topic for node in NODES for topic in (*node.says, *node.hears)})
    shared = [f"$share/g/{topic}" for topic in every]
    allowed = tried = 0
    for node in NODES:
        for filter in (*every, *shared, *NOBODYS_FILTERS):
            tried += 1
            (code,) = devices[node].subscribe(filter)
            if filter in node.hears:
                allowed += 1
                assert code == GRANTED, f"{node.family} {node.node} to {filter}: {code}"
            elif filter.removeprefix("$share/g/") not in node.hears:
                assert code == NOT_AUTHORIZED, f"{node.family} {node.node} to {filter}: {code}"
    with connected(stack, tls=False) as anyone:
        for topic in (*every, "x", "zigbee2mqtt/lamp/set", "homesync/h1/nodes/n3/command/relay"):
            anyone.publish(topic, topic.encode())
    wait_for(
        lambda: all(len(devices[node].received) >= len(node.hears) for node in NODES),
        "every device has what is for it",
    )
    time.sleep(0.2)
    for node in NODES:
        heard = set(devices[node].received)
        assert heard == {(topic, topic.encode()) for topic in node.hears}, node
    print(f"subscribe: {tried} tried, {allowed} of them own topics by name")


def test_a_retained_message_is_no_way_around(stack, devices):
    with connected(stack, tls=False) as anyone:
        for node in NODES[:4]:
            for topic in (*node.says, *node.hears):
                anyone.publish(topic, b"retained", retain=True)
        one = devices[NODES[0]]
        one.received.clear()
        codes = [one.subscribe(topic)[0] for topic in ("#", *NODES[1].says, *NODES[2].hears)]
        assert set(codes) == {NOT_AUTHORIZED}
        assert one.subscribe(NODES[0].hears[0]) == [GRANTED]
        wait_for(lambda: one.received, "its own retained message")
        time.sleep(0.2)
        assert one.received == [(NODES[0].hears[0], b"retained")]
        for node in NODES[:4]:
            for topic in (*node.says, *node.hears):
                anyone.publish(topic, b"", retain=True)


def test_a_topic_with_wildcards_ends_the_connection(stack, accounts):
    for topic in ("homesync/+/nodes/n1/telemetry/main", "homesync/h1/nodes/n1/telemetry/#", "#"):
        with (
            connected(stack, **accounts[NODES[0]]) as device,
            connected(stack, tls=False) as watcher,
        ):
            watcher.subscribe("#")
            sock = device.client.socket()
            assert sock is not None
            sock.sendall(qos0_publish(topic, b"wild"))
            device.wait_closed()
            assert watcher.received == []


def test_a_will_on_anothers_topic_is_never_published(stack, accounts):
    with connected(stack, tls=False) as watcher:
        watcher.subscribe("#")
        if not is_refused(stack, **accounts[NODES[0]], will=NODES[1].says[1]):
            dying = Connection(stack, **accounts[NODES[0]], will=NODES[1].says[1])
            dying.cut()
        dying = Connection(stack, **accounts[NODES[0]], will=NODES[0].says[1])
        assert dying.accepted
        dying.cut()
        wait_for(lambda: watcher.received, "its own will")
        time.sleep(0.5)
        assert watcher.received == [(NODES[0].says[1], b"will")]


def test_nobody_takes_over_anothers_session(stack, accounts, control, conn):
    """On the TLS port a client's id is its user's name, whatever it says; on the plain port another
    one is refused.
    """
    victim_node = homesync("h9", "victim")
    victim = provisioned(conn, control, victim_node)
    refused = renamed = 0
    with connected(stack, **victim) as connection:
        for account in accounts.values():
            for stolen in (
                account | {"user": victim["user"]},
                account | {"user": victim["user"], "client_id": victim["client_id"]},
                account | {"password": victim["password"]},
            ):
                for tls in (True, False):
                    refused += 1
                    assert is_refused(stack, tls=tls, **stolen), stolen["user"]
            posing = account | {"client_id": victim["client_id"]}
            assert is_refused(stack, tls=False, **posing)
            refused += 1
            with connected(stack, **posing) as renamed_one:
                renamed += 1
                assert renamed_one.accepted
                assert renamed_one.subscribe(victim_node.hears[0]) == [NOT_AUTHORIZED]
        assert connection.publish(victim_node.says[0]) in (0, NO_SUBSCRIBER)
        assert connection.closed_at is None
    print(f"take-over: {refused} refused, {renamed} under their own name")


def test_a_revoked_device_is_off_within_5_s_and_stays_out(stack, control, conn):
    node = homesync("h9", "revoked")
    account = provisioned(conn, control, node)
    address = "homesync:h9/revoked"
    with connected(stack, **account, session_s=3600) as device:
        device.subscribe(*node.hears)
        began = time.monotonic()
        provisioning.revoke(conn, control, resolve_device(conn, address))
        took_s = device.wait_closed() - began
        assert took_s < 5
    with connected(stack, tls=False) as anyone:
        anyone.publish(node.hears[0], b"queued for it")
        anyone.publish(node.hears[1], b"retained for it", retain=True)
        for session_s in (3600, 0):
            with connected(stack, **account, session_s=session_s) as again:
                assert again.code == NOT_AUTHORIZED
                assert again.received == []
        anyone.publish(node.hears[1], b"", retain=True)
    print(f"revoked: off after {took_s:.3f} s")

    renewed = provisioned(conn, control, node)
    assert renewed["user"] == account["user"]
    assert is_refused(stack, **account)
    assert not is_refused(stack, **renewed)


def test_a_new_token_ends_the_old_one_at_once(stack, control, conn):
    node = homesync("h9", "rotated")
    account = provisioned(conn, control, node)
    with connected(stack, **account) as device:
        began = time.monotonic()
        made = provisioning.rotate_token(conn, control, resolve_device(conn, "homesync:h9/rotated"))
        assert device.wait_closed() - began < 5
    assert made.token != account["password"]
    assert is_refused(stack, **account)
    with connected(stack, **account | {"password": made.token}) as again:
        assert again.accepted
        assert again.publish(node.says[0]) in (0, NO_SUBSCRIBER)
        assert again.subscribe(*node.hears) == [GRANTED] * len(node.hears)
