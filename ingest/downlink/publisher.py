"""Publishes commands and tells what the broker said of each: one paho client a connection.

paho sends again, on the next connection, what the broker has not confirmed. A relay would run that
a second time, so a client that has lost its connection is thrown away with all that it holds.
"""

import queue
import random
import time
from enum import Enum
from typing import NamedTuple

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from structlog.typing import FilteringBoundLogger

from ingest.downlink.book import Entry
from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection

CLIENT_ID = "meterstream-downlink"
KEEPALIVE_S = 15
CONNECT_TIMEOUT_S = 3.0
CONNACK_TIMEOUT_S = 5.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 4.0
STEADY_S = 10.0  # a connection that lasted this long resets the back-off
MOST_IN_FLIGHT = 500

_NO_MATCHING_SUBSCRIBERS = 0x10
_SESSION_TAKEN_OVER = 0x8E
_REFUSED_FROM = 0x80
_QUOTA = frozenset({0x93, 0x97})  # too much at once: not this message's fault


class Said(Enum):
    TAKEN = "taken"
    UNHEARD = "unheard"
    REFUSED = "refused"
    DOUBTFUL = "doubtful"  # nothing: the connection was lost


class Word(NamedTuple):
    """What the broker said of a command, and in what words."""

    said: Said
    entry: Entry
    reason: str = ""


class Publisher:
    """Driven by one thread: `tend`, `publish`, `words`. paho's own thread only fills queues."""

    def __init__(
        self, connection: MqttConnection, account: MqttAccount, log: FilteringBoundLogger
    ) -> None:
        self._connection = connection
        self._account = account
        self._log = log
        self._client: Client | None = None
        self._news: queue.SimpleQueue[tuple[Client, str, int, int]] = queue.SimpleQueue()
        self._waiting: dict[int, Entry] = {}
        self._dropped: list[Word] = []
        self._due_s = self._since_s = 0.0
        self._failures = 0
        self.connected = False
        self.taken_over = False
        self.trouble = "not connected yet"
        self.connections = 0

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        return MOST_IN_FLIGHT - len(self._waiting) if self.connected else 0

    def tend(self) -> None:
        """Take paho's news, and connect if it is time to."""
        self._take_news()
        now_s = time.monotonic()
        if self._client is None:
            if now_s >= self._due_s:
                self._connect(now_s)
        elif not self.connected and now_s - self._since_s > CONNACK_TIMEOUT_S:
            self._lose("the broker does not answer CONNECT")

    def publish(self, entry: Entry, expiry_s: int) -> bool:
        """False if there is no connection: then nothing was sent."""
        if self._client is None or not self.connected:
            return False
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = expiry_s
        outgoing = entry.outgoing
        info = self._client.publish(
            outgoing.topic, outgoing.payload, qos=1, retain=False, properties=properties
        )
        # Not sent is only what paho says it has not tried to send.
        if info.rc in (MQTTErrorCode.MQTT_ERR_NO_CONN, MQTTErrorCode.MQTT_ERR_QUEUE_SIZE):
            return False
        self._waiting[info.mid] = entry
        return True

    def words(self) -> list[Word]:
        """What the broker said since the last time."""
        self._take_news()
        words, self._dropped = self._dropped, []
        return words

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
        self.connected = False

    # ---- inside

    def _take_news(self) -> None:
        while True:
            try:
                client, what, mid, code = self._news.get_nowait()
            except queue.Empty:
                return
            if client is not self._client:
                continue
            if what == "connected":
                self._connected(code)
            elif what == "lost":
                self.taken_over = self.taken_over or code == _SESSION_TAKEN_OVER
                self._lose(f"the connection was lost (0x{code:02x})")
            else:
                self._confirmed(mid, code)

    def _connected(self, code: int) -> None:
        if code >= _REFUSED_FROM:
            self._log.error("mqtt_refused", code=f"0x{code:02x}", client_id=CLIENT_ID)
            self._lose(f"the broker refuses {CLIENT_ID} (0x{code:02x}); check its account")
            return
        self.connected = True
        self.connections += 1
        self._since_s = time.monotonic()
        self._log.info("mqtt_connected")

    def _confirmed(self, mid: int, code: int) -> None:
        entry = self._waiting.pop(mid, None)
        if entry is None:
            return
        if code in (_NO_MATCHING_SUBSCRIBERS, *_QUOTA):
            self._dropped.append(Word(Said.UNHEARD, entry))
        elif code >= _REFUSED_FROM:
            reason = f"the broker refuses {entry.outgoing.topic:.200} (0x{code:02x})"
            self._dropped.append(Word(Said.REFUSED, entry, reason))
        else:
            self._dropped.append(Word(Said.TAKEN, entry))

    def _connect(self, now_s: float) -> None:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=CLIENT_ID,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(2 * MOST_IN_FLIGHT)
        self._account.apply(client)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._since_s = now_s
        try:
            client.connect(
                self._connection.host, self._connection.port, KEEPALIVE_S, clean_start=True
            )
        except OSError as error:
            where = f"{self._connection.host}:{self._connection.port}"
            self._lose(f"cannot connect to {where}: {error}")
            return
        self._client = client
        client.loop_start()

    def _lose(self, reason: str) -> None:
        client, self._client = self._client, None
        lasted_s = time.monotonic() - self._since_s if self.connected else 0.0
        self.connected = False
        self.trouble = reason
        self._failures = 0 if lasted_s > STEADY_S else self._failures + 1
        ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
        wait_s = ceiling_s * random.uniform(0.5, 1)
        self._due_s = time.monotonic() + wait_s
        self._log.warning("mqtt_lost", reason=reason, next_try_in_s=round(wait_s, 2))
        if client is not None:
            client.disconnect()
            client.loop_stop()
            self._take_last_words(client)
        self._dropped += [Word(Said.DOUBTFUL, entry) for entry in self._waiting.values()]
        self._waiting.clear()

    def _take_last_words(self, client: Client) -> None:
        """Confirmations that came before the end are no doubt."""
        while True:
            try:
                of, what, mid, code = self._news.get_nowait()
            except queue.Empty:
                return
            if of is client and what == "published":
                self._confirmed(mid, code)

    # ---- called by paho's thread

    def _on_connect(
        self,
        client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._news.put((client, "connected", 0, reason.value))

    def _on_disconnect(
        self,
        client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._news.put((client, "lost", 0, reason.value))

    def _on_publish(
        self,
        client: Client,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._news.put((client, "published", mid, reason.value))
