"""MQTT 5 clients that say what the broker answered them, over TLS or plain."""

import queue
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from infra.local import Stack
from infra.local.broker import authority_of

ANSWER_S = 60.0  # the machine may be busy; nothing here depends on speed
NOT_AUTHORIZED = 0x87


class Connection:
    """One client. `code` is the reason of its CONNACK; `None` while there was none."""

    def __init__(
        self,
        stack: Stack,
        *,
        user: str | None = None,
        password: str | None = None,
        client_id: str = "",
        tls: bool = True,
        session_s: int = 0,
        will: str | None = None,
        files: tuple[str, str] | None = None,
    ) -> None:
        self.code: int | None = None
        self.session_present = False
        self.received: list[tuple[str, bytes]] = []
        self.closed_at: float | None = None
        self._answers: queue.Queue[tuple[int, list[int]]] = queue.Queue()
        self.client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        if user is not None:
            client.username_pw_set(user, password)
        if tls:
            certificate, key = files or (None, None)
            client.tls_set(str(authority_of(stack.settings).root), certificate, key)
        if will is not None:
            client.will_set(will, b"will", qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = lambda _c, _d, mid, reason, _p: self._answers.put((mid, [reason.value]))
        client.on_subscribe = lambda _c, _d, mid, reasons, _p: self._answers.put(
            (mid, [one.value for one in reasons])
        )
        client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_s
        port = stack.settings.mqtt_tls_port if tls else stack.settings.mqtt_port
        client.connect("127.0.0.1", port, clean_start=session_s == 0, properties=properties)
        client.loop_start()
        wait_for(lambda: self.code is not None or self.closed_at is not None, "an answer")

    @property
    def accepted(self) -> bool:
        return self.code == 0

    def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> int:
        """The reason code of the PUBACK."""
        return self._answer(self.client.publish(topic, payload, qos=1, retain=retain).mid)[0]

    def subscribe(self, *filters: str) -> list[int]:
        """The reason codes of the SUBACK, one a filter."""
        _, mid = self.client.subscribe([(one, 1) for one in filters])
        assert mid is not None
        return self._answer(mid)

    def _answer(self, mid: int) -> list[int]:
        while True:
            number, codes = self._answers.get(timeout=ANSWER_S)
            if number == mid:
                return codes

    def wait_closed(self) -> float:
        """Wait until the broker has ended the connection; when it did (monotonic seconds)."""
        wait_for(lambda: self.closed_at is not None, "the connection is ended")
        assert self.closed_at is not None
        return self.closed_at

    def cut(self) -> None:
        """Die without a word."""
        self.client.loop_stop()
        sock = self.client.socket()
        assert sock is not None
        sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, _c: Client, _d: object, flags: Any, reason: Any, _p: object) -> None:
        self.code, self.session_present = reason.value, flags.session_present

    def _on_disconnect(self, *_what: object) -> None:
        self.closed_at = self.closed_at or time.monotonic()

    def _on_message(self, _c: Client, _d: object, message: MQTTMessage) -> None:
        self.received.append((message.topic, message.payload))


@contextmanager
def connected(stack: Stack, **how: Any) -> Iterator[Connection]:
    connection = Connection(stack, **how)
    try:
        yield connection
    finally:
        connection.close()


def is_refused(stack: Stack, **how: Any) -> bool:
    """Whether the broker does not let this client in, by TLS or by CONNACK."""
    try:
        with connected(stack, **how) as connection:
            return not connection.accepted
    except OSError:
        return True


def wait_for(condition: Any, what: str, timeout_s: float = ANSWER_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
