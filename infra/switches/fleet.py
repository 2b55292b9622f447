"""Simulated relays on a real broker, each with a connection of its own, and all that befalls them.

One thread does it all. Power comes and goes, connections break in the middle of a message, sessions
are lost, messages come twice or out of order; what ran is in the journal before it is answered.
"""

import heapq
import queue
import random
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from infra.switches.device import Publish, Switch
from infra.switches.journal import Journal
from ingest.mqtt_account import MqttAccount
from schemas.connections import MqttConnection

KEEPALIVE_S = 20
CONNACK_TIMEOUT_S = 10.0
ROUND_S = 0.01
HOUSEKEEPING_S = 0.5
RECONNECT_S = (0.2, 1.5)
REPORT_EVERY_S = 10.0
"""Devices tell the state of their relays also when nothing happens."""
REMEMBERED = 20
"""Messages of a node that may come once more."""


@dataclass(frozen=True)
class Whims:
    """What befalls a message that reaches a device: chances from 0 to 1.

    `cut_before`, `cut_after`: the power fails before it is read, or when it has run and before it
    is answered. `twice`: it comes a second time at once, as an unconfirmed message may. `replayed`
    and `held`: an older one comes again, or it comes after the next one; only to devices that
    deduplicate, for MQTT keeps a session's order. `session_lost`: at a reconnect.
    """

    cut_before: float = 0.0
    cut_after: float = 0.0
    twice: float = 0.0
    replayed: float = 0.0
    held: float = 0.0
    session_lost: float = 0.0
    off_s: tuple[float, float] = (0.5, 4.0)


class _Line:
    """A device and its connection."""

    def __init__(self, device: Switch) -> None:
        self.device = device
        self.client: Client | None = None
        self.connected = False
        self.has_power = True
        self.due_s = 0.0  # of the next connection
        self.since_s = 0.0
        self.report_s = 0.0
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED)
        self.held: list[tuple[str, bytes]] = []

    def socket(self) -> "socket.socket | None":
        sock = None if self.client is None else self.client.socket()
        return sock if isinstance(sock, socket.socket) else None


class Fleet:
    def __init__(
        self,
        connection: MqttConnection,
        devices: Sequence[Switch],
        journal: Journal,
        seed: int = 1,
        whims: Whims | None = None,
        account: MqttAccount | None = None,
    ) -> None:
        self._connection = connection
        self._account = account
        self._lines = {device.address: _Line(device) for device in devices}
        self._journal = journal
        self._chance = random.Random(seed)
        self._whims = whims or Whims()
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._power_back: list[tuple[float, str]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switches", daemon=True)
        self._kept_house_s = 0.0
        self.counts: Counter[str] = Counter()

    # ---- from outside, in any thread

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def worry(self, whims: Whims) -> None:
        """From now on these befall them."""

        def do() -> None:
            self._whims = whims

        self._asked.put(do)

    def calm(self) -> None:
        """From now on nothing befalls anybody, and all have power."""

        def do() -> None:
            self._whims = Whims()
            self._power_back.clear()
            for line in self._lines.values():
                line.has_power = True

        self._asked.put(do)

    def cut_power(self, address: str, off_s: float) -> None:
        self._asked.put(lambda: self._cut(self._lines[address], off_s))

    def press(self, address: str, relay: int) -> None:
        """Somebody presses the wall switch; without power it does nothing."""

        def do() -> None:
            line = self._lines[address]
            if line.has_power:
                self.counts["pressed"] += 1
                self._say(line, line.device.press(relay, _now_us()))

        self._asked.put(do)

    @property
    def connected(self) -> int:
        return sum(line.connected for line in self._lines.values())

    # ---- the loop

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._step()
        for line in self._lines.values():
            if line.client is not None:
                line.client.disconnect()

    def _step(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._asked.get_nowait()()
        now_s = time.monotonic()
        while self._power_back and self._power_back[0][0] <= now_s:
            _, address = heapq.heappop(self._power_back)
            self._lines[address].has_power = True
        by_socket = {
            sock: line for line in self._lines.values() if (sock := line.socket()) is not None
        }
        if not by_socket:
            time.sleep(ROUND_S)
        else:
            with suppress(OSError, ValueError):
                readable, _, _ = select.select(list(by_socket), [], [], ROUND_S)
                for sock in readable:
                    client = by_socket[sock].client
                    if client is not None:
                        client.loop_read()
        for line in by_socket.values():
            if line.client is not None and line.client.want_write():
                line.client.loop_write()
        if now_s >= self._kept_house_s:
            self._kept_house_s = now_s + HOUSEKEEPING_S
            self._keep_house(now_s)

    def _keep_house(self, now_s: float) -> None:
        for line in self._lines.values():
            if line.client is not None:
                line.client.loop_misc()
                late = not line.connected and now_s - line.since_s > CONNACK_TIMEOUT_S
                if line.client.socket() is None or late:
                    self._drop(line)
            if line.client is None and line.has_power and now_s >= line.due_s:
                self._connect(line)
            if line.connected:
                self._say(line, line.device.tick(_now_us()))
                if now_s >= line.report_s:
                    line.report_s = now_s + REPORT_EVERY_S * self._chance.uniform(0.8, 1.2)
                    self._report(line)

    def _connect(self, line: _Line) -> None:
        device = line.device
        clean = device.clean_session or self._happens(self._whims.session_lost)
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=device.address.replace("/", "-").replace(":", "-"),
            clean_session=clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        if self._account is not None:
            self._account.apply(client)
        will = device.will
        client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        client.on_connect = lambda client, *_: self._connected(line, client)
        client.on_message = lambda client, _, message: self._heard(line, client, message)
        line.since_s = time.monotonic()
        try:
            client.connect(self._connection.host, self._connection.port, KEEPALIVE_S)
        except OSError:
            line.due_s = time.monotonic() + self._chance.uniform(*RECONNECT_S)
            return
        self.counts["connections"] += 1
        line.client = client

    def _connected(self, line: _Line, client: Client) -> None:
        line.connected = True
        client.subscribe([(topic, 1) for topic in line.device.subscriptions])
        self._say(line, line.device.boot(_now_us()))

    def _report(self, line: _Line) -> None:
        for relay in range(len(line.device.on)):
            self._say(line, line.device.say_state(relay, "", _now_us()))

    def _drop(self, line: _Line) -> None:
        """The connection breaks without a word; the broker tells of the last will."""
        sock = line.socket()
        line.client, line.connected = None, False
        line.due_s = time.monotonic() + self._chance.uniform(*RECONNECT_S)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _cut(self, line: _Line, off_s: float) -> None:
        self.counts["power cuts"] += 1
        self._drop(line)
        line.held.clear()
        line.has_power = False
        heapq.heappush(self._power_back, (time.monotonic() + off_s, line.device.address))

    # ---- messages

    def _heard(self, line: _Line, client: Client, message: MQTTMessage) -> None:
        if line.client is not client:
            return  # the power failed over an earlier message of the same read
        whims = self._whims
        self.counts["messages"] += 1
        if self._happens(whims.cut_before):
            self._cut(line, self._chance.uniform(*whims.off_s))
            return
        this = (message.topic, bytes(message.payload))
        messages = [this]
        if line.device.deduplicates:
            if line.heard and self._happens(whims.replayed):
                messages.insert(0, self._chance.choice(line.heard))
                self.counts["replayed"] += 1
            line.heard.append(this)
            if self._happens(whims.held):
                self.counts["held"] += 1
                line.held.append(messages.pop())
            elif line.held:
                messages += line.held
                line.held = []
        if messages and self._happens(whims.twice):
            self.counts["twice"] += 1
            messages.append(messages[-1])
        for topic, payload in messages:
            if line.client is not client:
                return
            self._take(line, topic, payload)

    def _take(self, line: _Line, topic: str, payload: bytes) -> None:
        answers = line.device.receive(topic, payload, _now_us())
        if self._happens(self._whims.cut_after):
            self._journal.write(line.device.take_ran())
            self._cut(line, self._chance.uniform(*self._whims.off_s))
        else:
            self._say(line, answers)

    def _say(self, line: _Line, messages: Sequence[Publish]) -> None:
        self._journal.write(line.device.take_ran())
        client = line.client
        if client is None or not line.connected:
            return
        for one in messages:
            client.publish(one.topic, one.payload, qos=1, retain=one.retain)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._chance.random() < chance


def _now_us() -> int:
    return time.time_ns() // 1000
