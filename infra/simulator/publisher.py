"""The simulated devices on a real broker, in real time.

A few connections carry many devices, and a connection has one last will, so none is set: the
devices say `offline` when the simulator is stopped, and nothing when it is killed.
Nodes with our firmware keep each message until it is acknowledged end to end; only then can
`first` differ from what `fleet.messages` says.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import psycopg
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from infra.simulator.families import ZONE, Device, Message
from infra.swarm.outbox import FalseAck, Outbox
from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection
from schemas.homesync import Ack, Position
from schemas.units import SECOND_US
from sinks.registry import claim_device

log = logging.getLogger(__name__)

CONNECTIONS = 4
MOST_UNACKNOWLEDGED = 2_000
LONGEST_SLEEP_S = 0.2
HOUSEKEEPING_S = 1.0
GOODBYE_S = 3.0
_KEEPALIVE_S = 30
_BODY = b',"ts":'


def claim_fleet(database_url: str, devices: Iterable[Device]) -> None:
    """Register the devices, each claimed by its home. Doing it again changes nothing."""
    with psycopg.connect(database_url) as conn, conn.transaction():
        for device in devices:
            claim_device(conn, device.address, device.name, device.home_id, ZONE)


@dataclass
class _Node:
    """A device with our firmware: its outbox, and what stands before the body of a message."""

    device: Device
    topic: str
    boot: str
    outbox: Outbox = field(default_factory=Outbox)


class Publisher:
    """Publishes what the devices say when it is due, until it is told to stop."""

    def __init__(
        self, connection: MqttConnection, account: MqttAccount, devices: Sequence[Device]
    ) -> None:
        self._connection = connection
        self._account = account
        self._devices = devices
        self._nodes: dict[int, _Node] = {}
        self._by_ack_topic = {one.ack_topic: one.number for one in devices if one.ack_topic}
        self._told: queue.SimpleQueue[tuple[str, bytes] | int] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._chance = Random(devices[0].seed if devices else 0)
        self._under_way = 0
        self._counting = threading.Lock()
        self._clients: list[Client] = []
        self._kept_house_at = 0.0

    def stop(self) -> None:
        """From a signal handler: leave `run` soon."""
        self._stopping.set()

    def run(self, messages: Iterable[Message]) -> int:
        """Publish until stopped; those due in the past go out at once. Returns how many did.

        Raises OSError where no broker answers at the start.
        """
        count = 0
        self._clients = [self._connect(i) for i in range(min(CONNECTIONS, len(self._devices)))]
        try:
            for message in messages:
                self._wait_until(message.due_us)
                if self._stopping.is_set():
                    break
                self._publish(message)
                count += 1
        finally:
            self._say_goodbye()
        return count

    # ---- out ----

    def _publish(self, message: Message) -> None:
        if not message.topic.endswith("/telemetry/power"):
            self._send(message)
            return
        position = msgspec.json.decode(message.payload, type=Position)
        node = self._nodes.get(message.device)
        if node is None:
            device = self._devices[message.device]
            node = self._nodes[message.device] = _Node(device, message.topic, position.boot)
        node.outbox.add(message.payload.partition(_BODY)[2])
        self._send_outbox(node)

    def _send_outbox(self, node: _Node) -> None:
        outbox = node.outbox
        for seq, body in outbox.take(time.monotonic()):
            head = f'{{"v":1,"boot":"{node.boot}","seq":{seq},"first":{outbox.first}'
            payload = head.encode() + _BODY + body
            self._send(Message(0, node.device.number, node.topic, payload))

    def _send(self, message: Message) -> None:
        client = self._clients[message.device % len(self._clients)]
        if client.is_connected():
            with self._counting:
                self._under_way += 1
            client.publish(message.topic, message.payload, message.qos, message.retain)

    # ---- waiting, and what comes in meanwhile ----

    def _wait_until(self, due_us: int) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            if now - self._kept_house_at > HOUSEKEEPING_S:
                self._kept_house_at = now
                self._send_overdue(now)
            left_s = due_us / SECOND_US - time.time()
            if left_s <= 0 and self._under_way < MOST_UNACKNOWLEDGED:
                if self._told.empty():
                    return
                left_s = 0
            try:
                told = self._told.get(timeout=min(max(left_s, 0.001), LONGEST_SLEEP_S))
            except queue.Empty:
                continue
            if isinstance(told, int):
                self._begin_anew(told)
            else:
                self._strike(*told)

    def _strike(self, topic: str, payload: bytes) -> None:
        node = self._nodes.get(self._by_ack_topic.get(topic, -1))
        try:
            ack = msgspec.json.decode(payload, type=Ack)
            if node is not None and ack.boot == node.boot:
                node.outbox.acknowledged(ack.seq, time.monotonic())
                self._send_outbox(node)
        except (msgspec.MsgspecError, FalseAck) as error:
            log.warning("%s: an acknowledgement that cannot be: %s", topic, error)

    def _send_overdue(self, now: float) -> None:
        for node in self._nodes.values():
            if node.outbox.is_overdue(now):
                node.outbox.send_again(now, self._chance)
                self._send_outbox(node)

    def _begin_anew(self, index: int) -> None:
        """A new connection: its devices say that they are there, and what is not safe yet."""
        for device in self._devices[index :: len(self._clients)]:
            self._send(device.state(0, True))
            node = self._nodes.get(device.number)
            if node is not None:
                node.outbox.rewind()
                self._send_outbox(node)

    # ---- connections ----

    def _connect(self, index: int) -> Client:
        connection = self._connection
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"simulator-{self._chance.randrange(1 << 32):08x}-{index}",
            protocol=MQTTv5,
        )
        self._account.apply(client)
        client.max_inflight_messages_set(MOST_UNACKNOWLEDGED)
        topics = [
            (device.ack_topic, 1)
            for device in self._devices
            if device.ack_topic and device.number % CONNECTIONS == index
        ]
        connected_before = False

        def on_connect(client: Client, *_rest: Any) -> None:
            nonlocal connected_before
            if topics:
                client.subscribe(topics)
            if connected_before:
                self._told.put(index)
            connected_before = True

        def on_message(_client: Client, _userdata: Any, message: MQTTMessage) -> None:
            self._told.put((message.topic, bytes(message.payload)))

        def on_publish(*_rest: Any) -> None:
            with self._counting:
                self._under_way -= 1

        client.on_connect = on_connect
        client.on_message = on_message
        client.on_publish = on_publish
        client.connect(connection.host, connection.port, _KEEPALIVE_S)
        client.loop_start()
        deadline = time.monotonic() + GOODBYE_S
        while not client.is_connected() and time.monotonic() < deadline:
            time.sleep(0.01)
        return client

    def _say_goodbye(self) -> None:
        for device in self._devices:
            self._send(device.state(0, False))
        deadline = time.monotonic() + GOODBYE_S
        while self._under_way > 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        for client in self._clients:
            client.disconnect()
            client.loop_stop()
