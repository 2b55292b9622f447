"""The uplink's connection to the broker: made, watched, made anew, and what it is subscribed to."""

import random
import select
import time
from collections.abc import Callable

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from structlog.typing import FilteringBoundLogger

from ingest.batch_client import BatchClient, Message, connect_properties
from ingest.filters import without_needless
from ingest.metrics import Metrics
from ingest.mqtt_account import MqttAccount
from ingest.settings import UplinkSettings
from schemas.connections import MqttConnection

KEEPALIVE_S = 30
SESSION_EXPIRY_S = 86_400 * 7
CONNACK_TIMEOUT_S = 10.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.25, 8.0
STEADY_S = 10.0  # a connection that lasted this long resets the back-off
DROPPED_COUNTER = "$SYS/broker/publish/messages/dropped"


class BrokerLink:
    """`received` takes each batch of messages; `changed` is called before whatever comes over
    another connection, and after whatever came over this one.

    `leaving`: the end of the connection is no surprise.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        mqtt: MqttConnection,
        account: MqttAccount | None,
        metrics: Metrics,
        log: FilteringBoundLogger,
        *,
        received: Callable[[list[Message]], None],
        changed: Callable[[], None],
    ) -> None:
        self.client = BatchClient(settings.client_id, received)
        self.subscribed = False
        self.trouble = "not connected yet"
        self.leaving = False
        self._settings, self._mqtt = settings, mqtt
        self._metrics, self._log = metrics, log
        self._changed = changed
        self._connect_due = 0.0
        self._connecting_since = 0.0
        self._connected_since: float | None = None
        self._failures = 0
        self._sessions_seen = 0
        self._subscribe_mid: int | None = None
        self._dropped: int | None = None
        self._prepare(account)

    def _prepare(self, account: MqttAccount | None) -> None:
        client = self.client
        if self._mqtt.username is not None:
            client.username_pw_set(self._mqtt.username, self._mqtt.password)
        if account is not None:
            account.apply(client)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.connect_async(
            self._mqtt.host,
            self._mqtt.port,
            keepalive=KEEPALIVE_S,
            clean_start=False,
            properties=connect_properties(self._settings.receive_maximum, SESSION_EXPIRY_S),
        )

    def talk(self, timeout_s: float) -> None:
        """Wait for the broker, read and write."""
        client = self.client
        sock = client.socket()
        if sock is None:
            if timeout_s:
                time.sleep(timeout_s / 10)
            return
        reading = [] if client.paused else [sock]
        writing = [sock] if client.want_write() else []
        try:
            readable, writable, _ = select.select(reading, writing, [], timeout_s)
        except (ValueError, OSError):  # the socket went away under us
            client.drop_connection(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            return
        if readable:
            client.loop_read()
        if writable:
            client.loop_write()

    def tend(self, now: float) -> None:
        """Keep the connection alive, or make one when it is due."""
        client = self.client
        if client.socket() is not None:
            client.loop_misc()
        if client.socket() is None:
            if now >= self._connect_due:
                self._connect(now)
        elif self._connected_since is None and now - self._connecting_since > CONNACK_TIMEOUT_S:
            client.drop_connection(MQTTErrorCode.MQTT_ERR_CONN_LOST)

    def disconnect(self, until: float) -> None:
        """Leave politely, and wait for the end of it until this time at most."""
        self.client.disconnect()
        while self.client.socket() is not None and time.monotonic() < until:
            self.talk(0.05)

    def broker_says_dropped(self, payload: bytes) -> None:
        """`$SYS` counts from the broker's start; what it had before we came is no news."""
        try:
            count = int(payload)
        except ValueError:
            return
        before, self._dropped = self._dropped, count
        if before is not None and count != before:
            rise = count - before if count > before else count
            if rise:
                self._metrics.broker_dropped.inc(rise)
                self._log.error("broker_dropped_messages", messages=rise)

    # ---- connections ----

    def _connect(self, now: float) -> None:
        self._changed()
        self._connecting_since = now
        try:
            self.client.reconnect()
        except OSError as error:
            self._lost(f"cannot connect to {self._mqtt.host}:{self._mqtt.port}: {error}")

    def _lost(self, reason: str) -> None:
        now = time.monotonic()
        since, self._connected_since = self._connected_since, None
        self.subscribed = False
        self._failures = 0 if since is not None and now - since > STEADY_S else self._failures + 1
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
        wait_s = ceiling * random.uniform(0.5, 1)
        self._connect_due = now + wait_s
        self.trouble = reason
        if not self.leaving:
            self._log.warning("mqtt_lost", reason=reason, next_try_in_s=round(wait_s, 2))

    def _on_connect(
        self,
        client: PahoClient,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.trouble = f"the broker refuses {self._settings.client_id}: {reason}"
            self._log.error("mqtt_refused", reason=str(reason), client_id=self._settings.client_id)
            return
        self._changed()
        self._connected_since = time.monotonic()
        if self._sessions_seen:
            self._metrics.reconnects.inc()
        if flags.session_present:
            self._log.info("mqtt_connected", session="kept")
        elif self._sessions_seen:
            self._metrics.sessions_lost.inc()
            self._log.error("mqtt_session_lost", meaning="messages may be lost; nodes send again")
        else:
            self._log.warning("mqtt_connected", session="new: the first start, or it was lost")
        self._sessions_seen += 1
        self._subscribe()

    def _on_disconnect(
        self,
        client: PahoClient,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._changed()
        self._lost(self.trouble if self._connected_since is None else str(reason))

    # ---- subscriptions ----

    def _subscribe(self) -> None:
        """On every connection: with retainHandling 1 this is idle where the session has it."""
        options = SubscribeOptions(qos=1, noLocal=True, retainAsPublished=False, retainHandling=1)
        filters = without_needless(self._settings.filters)
        _, self._subscribe_mid = self.client.subscribe([(name, options) for name in filters])
        self.client.subscribe(DROPPED_COUNTER, options=SubscribeOptions(qos=0, retainHandling=0))

    def _on_subscribe(
        self,
        client: PahoClient,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if mid != self._subscribe_mid:
            if refused:
                self._log.warning("no_broker_counters", topic=DROPPED_COUNTER, reasons=refused)
        elif refused:
            self.trouble = f"the broker refuses subscriptions: {refused}"
            self._log.error("subscriptions_refused", reasons=refused)
        else:
            self.subscribed = True
