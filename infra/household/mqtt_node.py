"""A homesync node on a real broker: what it sends stays its own until it is told it is safe."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from infra.household.node import Node
from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection
from schemas.homesync import Ack

MOST_UNACKNOWLEDGED = 5_000
MOST_SENT_AGAIN = 200
PATIENCE_S = 10.0
GIVE_UP_S = 90.0
CONNECT_TIMEOUT_S = 10.0
_KEEPALIVE_S = 30
_INFLIGHT = 1_000


class NotAcknowledged(ConnectionError):
    """Nobody says that the readings are safe."""


def send_all(
    connection: MqttConnection,
    account: MqttAccount,
    node: Node,
    boot: str,
    bodies: Sequence[str],
    due_s: Callable[[int], float] | None = None,
    on_safe: Callable[[int], None] = lambda _count: None,
) -> None:
    """Send payloads (from `"ts"` on), numbered from 1, until all are acknowledged end to end.

    `due_s(i)`: the monotonic second before which `bodies[i]` is not sent; None sends as fast as
    acknowledgements come. `on_safe` is told how many more are safe.
    Raises NotAcknowledged, and OSError where no broker answers.
    """
    safe = _Safe(boot)
    client = _connected(connection, account, node, boot, safe)
    try:
        _send(client, node, boot, bodies, safe, due_s, on_safe)
    finally:
        client.disconnect()
        client.loop_stop()


class _Safe:
    """The cumulative acknowledgement, waited for from another thread."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._news = threading.Condition()
        self.seq = 0

    def take(self, payload: bytes | bytearray) -> None:
        try:
            ack = msgspec.json.decode(payload, type=Ack)
        except msgspec.MsgspecError:
            return  # not for us: no acknowledgement of ours looks like that
        if ack.boot == self._boot:
            with self._news:
                self.seq = max(self.seq, ack.seq)
                self._news.notify()

    def wait_beyond(self, seq: int, timeout_s: float) -> int:
        with self._news:
            self._news.wait_for(lambda: self.seq > seq, max(0.0, timeout_s))
            return self.seq


def _connected(
    connection: MqttConnection, account: MqttAccount, node: Node, boot: str, safe: _Safe
) -> Client:
    subscribed = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"replay-{boot}", protocol=MQTTv5)
    account.apply(client)
    client.max_inflight_messages_set(_INFLIGHT)
    client.max_queued_messages_set(0)  # bounded by MOST_UNACKNOWLEDGED

    def on_connect(client: Client, *_rest: Any) -> None:
        client.subscribe(node.ack_topic, qos=1)

    def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
        safe.take(message.payload)

    client.on_connect = on_connect
    client.on_message = on_message
    client.on_subscribe = lambda *_rest: subscribed.set()
    client.connect(connection.host, connection.port, _KEEPALIVE_S)
    client.loop_start()
    if not subscribed.wait(CONNECT_TIMEOUT_S):
        client.loop_stop()
        raise NotAcknowledged(f"{connection.host}:{connection.port} takes no subscription")
    return client


def _send(
    client: Client,
    node: Node,
    boot: str,
    bodies: Sequence[str],
    safe: _Safe,
    due_s: Callable[[int], float] | None,
    on_safe: Callable[[int], None],
) -> None:
    first = following = 1
    window = MOST_UNACKNOWLEDGED
    moved_at = resent_at = time.monotonic()
    while first <= len(bodies):
        wait_s = PATIENCE_S / 4
        while following <= len(bodies) and following < first + window:
            if due_s is not None:
                wait_s = due_s(following - 1) - time.monotonic()
                if wait_s > 0:
                    break
            head = f'{{"v":1,"boot":"{boot}","seq":{following},"first":{first},'
            client.publish(node.topic, (head + bodies[following - 1]).encode(), qos=1)
            following += 1
        told = safe.wait_beyond(first - 1, min(max(wait_s, 0.0), PATIENCE_S / 4))
        now = time.monotonic()
        if told >= first or following == first:
            on_safe(told + 1 - first)
            first = told + 1
            following = max(following, first)
            window = MOST_UNACKNOWLEDGED
            moved_at = resent_at = now
        elif now - moved_at > GIVE_UP_S:
            raise NotAcknowledged(
                f"no acknowledgement of {node.address} for {GIVE_UP_S:.0f} s; "
                "does the uplink run? see `meterstream status`"
            )
        elif now - resent_at > PATIENCE_S:
            following, window, resent_at = first, MOST_SENT_AGAIN, now
