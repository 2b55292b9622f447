"""A MicroPython node with 120 KB against the real broker, connector, Kafka, worker and database."""

import itertools
import json
import os
import signal
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from node.outbox import UPTIME, Outbox
from node_process import LONGEST_S, NodeProcess
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from simulated_pzem import SimulatedPzem

from infra.local import Stack, StackSettings, start
from infra.local.parts import locate
from infra.local.programs import OWN, SERVERS

HEAP_BYTES = 120 * 1024
HOUR_S = 3600
NODES: list[NodeProcess] = []


class TimeServer:
    """SNTP on the loopback address; its clock is `ahead_s` off."""

    def __init__(self, ahead_s: int = 0) -> None:
        self.ahead_s = ahead_s
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.port = self._socket.getsockname()[1]
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            try:
                question, asker = self._socket.recvfrom(64)
            except TimeoutError:
                continue
            now = time.time() + self.ahead_s + 2_208_988_800
            stamp = struct.pack(">II", int(now), int(now % 1 * 2**32))
            answer = b"\x24\x02" + bytes(22) + question[40:48] + stamp + stamp
            self._socket.sendto(answer, asker)

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)
        self._socket.close()


class Bench:
    """The running stack, and a client that commands nodes and hears what they say."""

    def __init__(self, stack: Stack, frozen: Path) -> None:
        self.stack = stack
        self.frozen = frozen
        self.heard: list[tuple[str, bytes]] = []
        self._client = Client(
            CallbackAPIVersion.VERSION2, "bench", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe("homesync/#", 1)
        self._client.connect("127.0.0.1", stack.mqtt_port)
        self._client.loop_start()
        self.command_seq = 0

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload))

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1)

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.database_url, connect_timeout=5) as connection:
            return connection.execute(text.encode(), values).fetchall()

    def readings(self, home: str) -> list[tuple[int, int, float]]:
        """(seq, ms, register) of the node's readings as they are stored."""
        return self.query(
            """
            SELECT seq, (extract(epoch FROM measured_at) * 1000)::bigint, import_total_wh
            FROM readings JOIN channel USING (channel_id) JOIN device USING (device_id)
            WHERE address = %s AND channel.name = 'total' ORDER BY measured_at""",
            f"homesync:{home}/n",
        )

    def answers(self, home: str, command_id: str | None) -> list[dict[str, Any]]:
        topic = f"homesync/{home}/nodes/n/response/command"
        said = [json.loads(payload) for heard, payload in self.heard if heard == topic]
        return [one for one in said if one.get("command_id") == command_id]

    def told(self, home: str, tail: str) -> list[bytes]:
        topic = f"homesync/{home}/nodes/n/{tail}"
        return [payload for heard, payload in self.heard if heard == topic]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, frozen: Path) -> Iterator[Bench]:
    settings = StackSettings.free(tmp_path_factory.mktemp("node-stack"))
    programs = [*SERVERS, *(one for one in OWN if one.name in ("uplink", "worker"))]
    running = Stack(settings, programs)
    try:
        one = Bench(start(settings, programs), frozen)
        yield one
        one.close()
    finally:
        running.wipe()


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """No node outlives its test."""
    yield
    while NODES:
        NODES.pop().end()


@pytest.fixture
def meter() -> Iterator[SimulatedPzem]:
    one = SimulatedPzem()
    yield one
    one.close()


@pytest.fixture
def time_server() -> Iterator[TimeServer]:
    one = TimeServer()
    yield one
    one.close()


class Made:
    """A node of a home of its own."""

    def __init__(
        self,
        bench: Bench,
        folder: Path,
        meter: SimulatedPzem,
        ntp: str,
        **config: object,
    ) -> None:
        self.bench = bench
        self.home = f"h{uuid.uuid4().hex[:10]}"
        account = {
            "home": self.home,
            "node": "n",
            "wifi": {"ssid": "net", "password": "SECRET-WORD"},
            "mqtt": {"host": "127.0.0.1", "port": bench.stack.mqtt_port},
        }
        environment = {
            "NODE_METER": f"127.0.0.1:{meter.port}",
            "NODE_RELAYS": "1",
            "NODE_SKIP": "1",
        }
        parts = locate(bench.stack.settings.parts_dir)
        settings = {"ntp_host": ntp, "interval_s": 1, "status_s": 10, **config}
        self.process = NodeProcess(
            parts, folder / "flash", account, settings, environment, bench.frozen
        )
        NODES.append(self.process)

    def command(self, kind: str, **said: object) -> str:
        """Send a command; returns its id."""
        self.bench.command_seq += 1
        document = {
            "command_id": str(uuid.uuid4()),
            "command_seq": self.bench.command_seq,
            "issued_at": int(time.time()),
            "expires_at": int(time.time()) + 120,
            **said,
        }
        self.send(kind, json.dumps(document).encode())
        return str(document["command_id"])

    def send(self, kind: str, payload: bytes) -> None:
        self.bench.publish(f"homesync/{self.home}/nodes/n/command/{kind}", payload)

    def answer(self, command_id: str | None) -> dict[str, Any]:
        """The last answer to a command that is not just `received`."""

        def final() -> list[dict[str, Any]]:
            said = self.bench.answers(self.home, command_id)
            return [one for one in said if one["outcome"] != "received"]

        return self.process.wait_for(final, f"answer to {command_id}")[-1]

    def stored(self, count: int) -> list[tuple[int, int, float]]:
        """The readings in the database, as soon as there are so many."""

        def enough() -> list[tuple[int, int, float]] | None:
            rows = self.bench.readings(self.home)
            return rows if len(rows) >= count else None

        return self.process.wait_for(enough, f"{count} readings stored")

    def drained(self) -> None:
        """Wait until the node says that nothing waits in its outbox."""
        since = len(self.process.events("status"))
        self.process.wait_for(
            lambda: any(one["waiting"] <= 2 for one in self.process.events("status")[since:]),
            "the outbox is empty",
        )


def check_once_and_gapless(rows: list[tuple[int, int, float]], meter: SimulatedPzem) -> None:
    """Every reading of the meter is there once: its register counts them."""
    registers = [int(row[2]) for row in rows]
    assert len(set(registers)) == len(registers), "a reading is there twice"
    assert registers == sorted(registers)
    assert len({row[0] for row in rows}) == len(rows), "a seq is there twice"


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_killed_and_without_its_broker_a_node_loses_nothing_and_doubles_nothing(
    bench: Bench, meter: SimulatedPzem, time_server: TimeServer, tmp_path: Path
) -> None:
    node = Made(bench, tmp_path, meter, f"127.0.0.1:{time_server.port}")
    node.process.start()
    node.stored(3)
    for round_ in range(6):
        if round_ % 2:
            status = {one.name: one.pid for one in bench.stack.status()}
            pid = status["mosquitto"]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        else:
            node.process.kill()
            node.process.start()
        node.process.wait_for(
            lambda before=len(node.process.events("mqtt_up")): (
                len(node.process.events("mqtt_up")) > before
            ),
            "connected again",
        )
        time.sleep(1.5)
    node.drained()
    node.process.kill()
    acknowledged = max(json.loads(payload)["seq"] for payload in bench.told(node.home, "ack"))
    deadline = time.monotonic() + LONGEST_S
    while (bench.readings(node.home) or [(0,)])[-1][0] < acknowledged - 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    rows = bench.readings(node.home)
    check_once_and_gapless(rows, meter)
    # A kill may catch a reading between the meter and the flash: at most one a kill.
    span = int(rows[-1][2]) - int(rows[0][2]) + 1
    assert span - len(rows) <= 4, f"{span - len(rows)} readings of {span} are missing"


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_an_hour_without_network_is_all_sent_with_memory_flat(
    bench: Bench, meter: SimulatedPzem, tmp_path: Path
) -> None:
    time_server = TimeServer(ahead_s=-2 * HOUR_S)
    node = Made(bench, tmp_path, meter, f"127.0.0.1:{time_server.port}", interval_s=10)
    node.process.start()
    node.process.wait_for(lambda: node.process.events("time"), "the node knows the time")
    node.stored(1)
    down = node.process.flash / "link_down"
    down.touch()
    node.process.wait_for(
        lambda: (node.process.events("status") or [{}])[-1].get("uptime_s", 0) > HOUR_S + 60,
        "an hour has passed",
    )
    down.unlink()
    node.drained()
    rows = node.stored(360)
    check_once_and_gapless(rows, meter)
    span = int(rows[-1][2]) - int(rows[0][2]) + 1
    assert span == len(rows)
    assert rows[-1][1] - rows[0][1] >= HOUR_S * 1000
    used = [one["memory_bytes"] for one in node.process.events("status")]
    print("memory", used[0], max(used), used[-1], "of", HEAP_BYTES, "readings", len(rows))
    assert max(used[3:]) - used[2] < 6_000, used
    node.process.kill()
    time_server.close()


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_without_ntp_the_connectors_acknowledgement_tells_the_time(
    bench: Bench, meter: SimulatedPzem, tmp_path: Path
) -> None:
    node = Made(bench, tmp_path, meter, "")
    before_ms = time.time() * 1000
    node.process.start()
    rows = node.stored(5)
    node.process.kill()
    check_once_and_gapless(rows, meter)
    assert node.process.events("time")[0]["source"] == "server"
    assert all(before_ms - 5_000 < row[1] < time.time() * 1000 + 5_000 for row in rows)
    gaps = [after[1] - before[1] for before, after in itertools.pairwise(rows)]
    assert min(gaps) > 100, f"readings from before the clock keep their distance: {gaps}"


@pytest.mark.stack
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a power cut closes no file
def test_readings_that_wait_for_a_clock_do_not_keep_it_back(
    bench: Bench, meter: SimulatedPzem, tmp_path: Path
) -> None:
    """An earlier start never had a clock, and its readings are all that is in the outbox."""
    node = Made(bench, tmp_path, meter, "")
    (node.process.flash / "outbox").mkdir()
    earlier = Outbox(str(node.process.flash / "outbox"), os.urandom)
    values = [(at_ms, b'"channels":{"total":{"import_total_wh":%d}}') for at_ms in (1_000, 2_000)]
    earlier.append([(UPTIME, at_ms, body % (at_ms // 1_000)) for at_ms, body in values])
    del earlier
    node.process.start()
    rows = node.stored(5)
    node.process.kill()
    check_once_and_gapless(rows, meter)
    assert [row[2] for row in rows[:2]] == [1.0, 2.0]
    assert rows[1][1] - rows[0][1] == 1_000
    assert node.process.events("foreign_ack") == []


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_a_meter_is_given_another_address(
    bench: Bench, meter: SimulatedPzem, time_server: TimeServer, tmp_path: Path
) -> None:
    node = Made(bench, tmp_path, meter, f"127.0.0.1:{time_server.port}")
    node.process.start()
    node.stored(1)
    addresses = {"from_address": 248, "to_address": 5}
    assert node.answer(node.command("calibrate", parameters=addresses))["outcome"] == "done"
    assert meter.address == 5
    told = json.loads(bench.told(node.home, "response/config")[-1])
    assert told["meters"] == {"5": "total"}
    measured = len(bench.readings(node.home))
    node.stored(measured + 2)
    again = node.answer(node.command("calibrate", parameters=addresses))
    assert "no meter has the address 248" in again["reason"]


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_commands_run_once_and_what_is_wrong_is_refused_with_a_reason(
    bench: Bench, meter: SimulatedPzem, time_server: TimeServer, tmp_path: Path
) -> None:
    node = Made(bench, tmp_path, meter, f"127.0.0.1:{time_server.port}")
    node.process.start()
    node.stored(1)
    assert node.process.driven() == [(0, False)]

    on = {"action": "on", "relay": "relay:0"}
    done = node.command("relay", **on)
    assert node.answer(done)["outcome"] == "done"
    assert node.process.driven()[1:] == [(0, True)]

    # The same again, also after kill -9: answered, not run.
    again = json.dumps(
        {"command_id": done, "command_seq": bench.command_seq, "expires_at": 2**33, **on}
    ).encode()
    node.process.kill()
    node.process.start()
    node.process.wait_for(lambda: len(node.process.events("mqtt_up")) == 2, "connected")
    assert node.process.driven()[2:] == [(0, True)], "the state is kept over the restart"
    known = len(bench.answers(node.home, done))
    node.send("relay", again)
    node.process.wait_for(lambda: len(bench.answers(node.home, done)) > known, "the answer again")
    assert bench.answers(node.home, done)[-1]["outcome"] == "done"

    for said, why in [
        ({"relay": "relay:7", "action": "off"}, "no relay is named"),
        ({"action": "explode"}, "action"),
        ({"action": "off", "expires_at": int(time.time()) - 1}, "expired"),
        ({"action": "off", "command_seq": 1}, "came after"),
        ({"action": "off", "expires_at": "soon"}, "expires_at"),
    ]:
        refused = node.answer(node.command("relay", **said))
        assert refused["outcome"] == "failed"
        assert why in refused["reason"]
    for payload, why in [
        (b"{wrong", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 50, "deeper"),
        (b"{}", "command_id"),
        (b"x" * 20_000, "20000 bytes"),
    ]:
        before = len(bench.answers(node.home, None))
        node.send("relay", payload)
        node.process.wait_for(
            lambda before=before: len(bench.answers(node.home, None)) > before, why
        )
        assert why in bench.answers(node.home, None)[-1]["reason"]
    assert node.process.driven()[3:] == [], "no pin has moved"

    config = node.command("config", parameters={"version": 7, "settings": {"interval_s": 2}})
    assert node.answer(config)["outcome"] == "done"
    told = json.loads(bench.told(node.home, "response/config")[-1])
    assert (told["config_version"], told["interval_s"]) == (7, 2)
    for settings, why in [({"interval_s": 0}, "interval_s"), ({"nonsense": 1}, "no setting")]:
        bad = node.command("config", parameters={"version": 8, "settings": settings})
        assert why in node.answer(bad)["reason"]
    old = node.command("config", parameters={"version": 3, "settings": {"interval_s": 5}})
    assert "not above 7" in node.answer(old)["reason"]

    reset = node.command("reset_energy", parameters={})
    assert node.answer(reset)["outcome"] == "done"
    assert sum(request[1] == 0x42 for request in meter.asked) == 1

    (node.process.flash / "switch0").write_text("1")
    node.process.wait_for(lambda: node.process.driven()[3:] == [(0, False)], "the wall switch")
    meter.garble = lambda reply: b"\x55" + reply
    node.process.wait_for(lambda: len(node.process.events("bad_frame")) > 3, "bad frames")
    meter.garble = lambda reply: bytes([reply[0] ^ 4]) + reply[1:]
    node.process.wait_for(
        lambda: any("checksum" in one["why"] for one in node.process.events("bad_frame")), "crc"
    )
    meter.garble = None

    rebooted = node.command("reboot", parameters={})
    assert node.process.wait_exit() == 3
    assert bench.answers(node.home, rebooted)[-1]["outcome"] == "done"
    assert "SECRET-WORD" not in node.process.text()
    switched = bench.query(
        "SELECT value FROM device_state JOIN device USING (device_id) "
        "WHERE address = %s AND channel = 'relay:0' AND field = 'switched_by'",
        f"homesync:{node.home}/n",
    )
    assert switched == [("wall",)]
