"""A Pro 3EM on a real broker and a real socket: notifications, RPC over MQTT, HTTP with digest.

Its clock is the caller's, so hours can pass in seconds. It measures while it is cut off, and
remembers its minutes.
"""

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from infra.simulator.load import Load
from infra.simulator.pro3em import RpcError, call, em_status, emdata_status
from schemas.units import MINUTE_US, SECOND_US

CONFIRM_S = 30.0
NONCE_USES = 30_000
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


class Pro3em:
    """`now_us` is the device's clock. `password` None: without authentication, as from the box.

    `requests` counts the HTTP requests that were answered; `challenges`, those that were refused
    with 401.
    """

    def __init__(
        self, device_id: str, load: Load, now_us: Callable[[], int], password: str | None = None
    ) -> None:
        self.id = device_id
        self.load = load
        self.now_us = now_us
        self.password = password
        self.requests = 0
        self.challenges = 0
        self.nonce_uses = NONCE_USES
        self.asked: list[dict[str, Any]] = []  # the RPC frames that came over MQTT
        self._mqtt: Client | None = None
        self._sent: list[Any] = []
        self._server: ThreadingHTTPServer | None = None
        self._nonces: dict[str, int] = {}  # nonce -> the greatest nc seen

    # ---- MQTT

    def connect(self, port: int) -> None:
        """Connect to the broker on loopback, and wait until it listens to requests."""
        client = Client(CallbackAPIVersion.VERSION2, self.id, protocol=MQTTProtocolVersion.MQTTv311)
        ready = threading.Event()
        client.will_set(f"{self.id}/online", b"false", qos=1, retain=True)
        client.max_inflight_messages_set(1000)

        def on_connect(
            _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _more: object
        ) -> None:
            if not reason.is_failure:
                client.publish(f"{self.id}/online", b"true", qos=1, retain=True)
                client.subscribe(f"{self.id}/rpc", qos=1)

        client.on_connect = on_connect
        client.on_subscribe = lambda *_: ready.set()
        client.on_message = self._on_request
        client.connect("127.0.0.1", port, keepalive=60)
        client.loop_start()
        if not ready.wait(CONFIRM_S):
            raise TimeoutError(f"{self.id}: the broker does not take its subscription")
        self._mqtt = client

    def cut(self) -> None:
        """Lose the connection without a word: the broker publishes the last will."""
        client, self._mqtt = self._mqtt, None
        if client is not None:
            client.reconnect_delay_set(3600, 3600)
            connection = client.socket()
            if connection is not None:
                connection.close()
            client.loop_stop()

    def say(self, begin_us: int, end_us: int, power_every_us: int = 30 * SECOND_US) -> int:
        """Publish what it notifies of in `[begin_us, end_us]`, and wait until the broker has it.

        Returns how many messages that were.
        """
        count = 0
        for topic, payload in self.notifications(begin_us, end_us, power_every_us):
            assert self._mqtt is not None, "not connected"
            self._sent.append(self._mqtt.publish(topic, payload, qos=1))
            count += 1
        self.flush()
        return count

    def flush(self) -> None:
        for info in self._sent:
            info.wait_for_publish(CONFIRM_S)
            if not info.is_published():
                raise TimeoutError(f"{self.id}: the broker did not confirm a message")
        self._sent.clear()

    def notifications(
        self, begin_us: int, end_us: int, power_every_us: int
    ) -> Iterator[tuple[str, bytes]]:
        """`em:0` every so often, `emdata:0` at each whole minute."""
        at_us = begin_us
        while at_us <= end_us:
            changed: dict[str, object] = {}
            if at_us % MINUTE_US == 0:
                changed["emdata:0"] = emdata_status(self.load, at_us)
            if (at_us - begin_us) % power_every_us == 0:
                changed["em:0"] = {"id": 0} | em_status(self.load, at_us)
            if changed:
                frame = {
                    "src": self.id,
                    "dst": f"{self.id}/events",
                    "method": "NotifyStatus",
                    "params": {"ts": at_us / SECOND_US, **changed},
                }
                yield f"{self.id}/events/rpc", _json(frame)
            at_us = min(at_us + power_every_us, at_us - at_us % MINUTE_US + MINUTE_US)

    def _on_request(self, client: Client, _data: object, message: MQTTMessage) -> None:
        frame = json.loads(message.payload)
        self.asked.append(frame)
        reply: dict[str, object] = {"id": frame["id"], "src": self.id, "dst": frame["src"]}
        try:
            reply["result"] = self._call(frame["method"], frame.get("params") or {}, on_mqtt=True)
        except RpcError as error:
            reply["error"] = {"code": error.code, "message": str(error)}
        client.publish(f"{frame['src']}/rpc", _json(reply), qos=1)

    def _call(self, method: str, params: dict[str, object], *, on_mqtt: bool) -> dict[str, object]:
        return call(self.load, self.id, method, params, self.now_us(), on_mqtt=on_mqtt)

    # ---- HTTP

    def serve(self) -> str:
        """Serve RPC over HTTP on loopback; returns `host:port`."""
        meter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                method = address.path.removeprefix("/rpc/")
                if not meter.allows(self.headers.get("Authorization"), "GET", self.path):
                    self._answer(401, b"", meter.challenge())
                    return
                try:
                    params = {name: json.loads(value) for name, value in parse_qsl(address.query)}
                    result = meter._call(method, params, on_mqtt=meter._mqtt is not None)
                except RpcError as error:
                    body = {"code": error.code, "message": str(error)}
                    self._answer(404 if error.code == 404 else 500, _json(body))
                    return
                meter.requests += 1
                self._answer(200, _json(result))

            def _answer(self, code: int, body: bytes, challenge: str | None = None) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if challenge is not None:
                    self.send_header("WWW-Authenticate", challenge)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self._server.server_address[1]}"

    def challenge(self) -> str:
        self.challenges += 1
        nonce = secrets.token_hex(4)
        self._nonces = {nonce: 0}
        return f'Digest qop="auth", realm="{self.id}", nonce="{nonce}", algorithm=SHA-256'

    def allows(self, authorization: str | None, method: str, uri: str) -> bool:
        """RFC 7616 with SHA-256; a nonce has its number of uses, and each `nc` is good once."""
        if self.password is None:
            return True
        said = {name: a or b for name, a, b in _FIELD.findall(authorization or "")}
        nonce, nc = said.get("nonce", ""), int(said.get("nc") or "0", 16)
        used = self._nonces.get(nonce)
        if used is None or not used < nc <= self.nonce_uses or said.get("uri") != uri:
            return False
        ha1 = _sha256(f"admin:{self.id}:{self.password}")
        ha2 = _sha256(f"{method}:{uri}")
        wanted = _sha256(f"{ha1}:{nonce}:{said.get('nc')}:{said.get('cnonce')}:auth:{ha2}")
        if not secrets.compare_digest(wanted, said.get("response", "")):
            return False
        self._nonces[nonce] = nc
        return True

    def close(self) -> None:
        if self._mqtt is not None:
            self._mqtt.disconnect()
            self._mqtt.loop_stop()
            self._mqtt = None
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _json(said: object) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
