"""The poller's own connection to the broker: who speaks, what meters answer, and questions to them.

paho's thread runs it; what it hears is handed over by `heard` and `replies`. It keeps no session:
what is said while it is away is in the uplink's.
"""

import queue
import random
import time

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from structlog.typing import FilteringBoundLogger

from ingest.decoders.topic_table import address_of
from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection

CLIENT_ID = "meterstream-poller"
KEEPALIVE_S = 10
LONGEST_PAUSE_S = 8
REPLIES = tuple(f"meterstream/{'+/' * levels}rpc" for levels in range(1, 5))

_SAID_BY = {
    "shelly": ("{}/events/rpc", "{}/status/+"),
    "shelly1": (
        "shellies/{}/relay/+/power",
        "shellies/{}/relay/+/energy",
        "shellies/{}/emeter/+/+",
        "shellies/{}/info",
    ),
}
"""Where each family says what it measures; its last will is no sign of life."""

_MOST_LEVELS = 4
QUESTIONS = tuple(f"{'+/' * levels}rpc" for levels in range(1, _MOST_LEVELS + 1))
"""Filters of what is published: the rights of the poller's account."""
LISTENED = (
    *REPLIES,
    *(f"{'+/' * n}{end}" for n in range(1, _MOST_LEVELS + 1) for end in ("events/rpc", "status/+")),
    *(each.format("+") for each in _SAID_BY["shelly1"]),
)
"""Filters that hold all that is subscribed to: the same."""


def filters_of(address: str) -> list[str]:
    family, _, name = address.partition(":")
    return [each.format(name) for each in _SAID_BY[family]]


class Ear:
    def __init__(
        self, connection: MqttConnection, account: MqttAccount, log: FilteringBoundLogger
    ) -> None:
        self._connection = connection
        self._log = log
        self._heard: dict[str, float] = {}
        self._away_since_s: float | None = time.monotonic()
        self._filters: frozenset[str] = frozenset()
        self.replies: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{CLIENT_ID}-{random.randrange(1 << 32):08x}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        account.apply(self._client)
        self._client.reconnect_delay_set(1, LONGEST_PAUSE_S)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message

    def start(self) -> None:
        self._client.connect_async(self._connection.host, self._connection.port, KEEPALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def is_connected(self) -> bool:
        return self._away_since_s is None

    def away_s(self, now_s: float) -> float:
        """For how long there has been no connection."""
        since_s = self._away_since_s
        return 0.0 if since_s is None else now_s - since_s

    def heard_s(self, address: str) -> float:
        """When a device was last heard, on the monotonic clock."""
        return self._heard.get(address, float("-inf"))

    def listen_to(self, addresses: set[str]) -> None:
        """Listen to these devices, and to no others."""
        wanted = frozenset(each for address in addresses for each in filters_of(address))
        new, gone = wanted - self._filters, self._filters - wanted
        self._filters = wanted
        if self.is_connected:
            self._subscribe(new)
            if gone:
                self._client.unsubscribe(sorted(gone))
        for address in self._heard.keys() - addresses:
            self._heard.pop(address, None)

    def send(self, topic: str, payload: bytes, expiry_s: int) -> bool:
        """Publish a question; False if there is no connection."""
        if not self.is_connected:
            return False
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = expiry_s
        info = self._client.publish(topic, payload, qos=1, retain=False, properties=properties)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _subscribe(self, filters: frozenset[str]) -> None:
        options = SubscribeOptions(qos=0, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        if filters:
            self._client.subscribe([(each, options) for each in sorted(filters)])

    # ---- called by paho's thread

    def _on_connect(
        self,
        client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        if reason.is_failure:
            self._log.error("mqtt_refused", reason=str(reason))
            return
        self._away_since_s = None
        self._log.info("mqtt_connected")
        client.subscribe([(each, SubscribeOptions(qos=1)) for each in REPLIES])
        self._subscribe(self._filters)

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: object,
    ) -> None:
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
            self._log.warning("mqtt_lost", reason=str(reason))

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.topic.startswith("meterstream/"):
            self.replies.put((message.topic, bytes(message.payload)))
        elif not message.retain:
            self._heard[address_of(message.topic, bytes(message.payload))] = time.monotonic()
