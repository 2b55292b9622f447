"""The swarm against a real Mosquitto; the connector's part is played by paho, or by nobody."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import paho.mqtt.client as mqtt
import pytest

from infra.local import Stack
from infra.swarm.record import Acked, Record, Sent, read
from infra.swarm.swarm import Swarm, SwarmError, SwarmSettings
from schemas.homesync import Ack, Payload

pytestmark = pytest.mark.stack


def settings_of(stack: Stack, **other: object) -> SwarmSettings:
    home = f"test-{time.time_ns()}"
    return SwarmSettings(**{"home": home, "port": stack.mqtt_port, **other})  # type: ignore[arg-type]


class Connector:
    """Takes messages and acknowledges the end of each node's run, as the uplink does."""

    def __init__(self, stack: Stack, home: str) -> None:
        self.deaf = False
        self.got: dict[str, list[int]] = {}
        self.firsts: list[int] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._received
        self.client.connect("127.0.0.1", stack.mqtt_port)
        self.client.subscribe(f"homesync/{home}/nodes/+/telemetry/+", qos=1)
        self.client.loop_start()
        assert subscribed.wait(10)

    def _received(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if self.deaf:
            return
        said = msgspec.json.decode(message.payload, type=Payload)
        node = message.topic.split("/")[3]
        self.got.setdefault(node, []).append(said.seq)
        self.firsts.append(said.first)
        client.publish(
            message.topic.rpartition("/telemetry/")[0] + "/ack",
            msgspec.json.encode(Ack(boot=said.boot, seq=said.seq)),
        )

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def home_of(stack: Stack) -> Iterator[list[Connector]]:
    opened: list[Connector] = []
    yield opened
    for one in opened:
        one.close()


def test_every_reading_is_acknowledged_and_recorded(
    stack: Stack, tmp_path: Path, home_of: list[Connector]
):
    settings = settings_of(stack, devices=20, rate=200, phases=3)
    connector = Connector(stack, settings.home)
    home_of.append(connector)

    async def go() -> Swarm:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(10)
            await swarm.run(1.0)
            assert await swarm.drain(20) == 0
            at_us = await swarm.finish()
            assert at_us % 60_000_000 == 0
            assert at_us - time.time() * 1e6 < 61e6
            assert await swarm.drain(20) == 0
            return swarm

    swarm = asyncio.run(go())
    assert swarm.counts.made == swarm.counts.acked == swarm.sent == 220
    frames = list(read(tmp_path / "r"))
    sent = [frame for frame in frames if isinstance(frame, Sent)]
    assert {(f"n{frame.node:05d}", frame.seq) for frame in sent} == {
        (node, seq) for node, seqs in connector.got.items() for seq in seqs
    }
    last = {f.node: f.seq for f in frames if isinstance(f, Acked)}
    assert last == dict.fromkeys(range(20), 11)


def test_an_ack_is_not_believed_before_it_is_on_disk(
    stack: Stack, tmp_path: Path, home_of: list[Connector]
):
    settings = settings_of(stack, devices=1, rate=10)
    home_of.append(Connector(stack, settings.home))
    disk, heard = threading.Event(), threading.Event()

    class SlowDisk(Record):
        def write(self, ready: bytearray) -> None:
            if b"A" in ready and len(ready) > 0 and heard.is_set():
                disk.wait(30)
            super().write(ready)

    async def go() -> None:
        async with Swarm(settings, SlowDisk(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(10)
            heard.set()
            await swarm.run(0.5)
            await asyncio.sleep(1.5)
            assert len(home_of[0].got["n00000"]) == 5
            assert swarm.counts.acked == 0
            assert not [f for f in read(tmp_path / "r") if isinstance(f, Acked)]
            disk.set()
            assert await swarm.drain(10) == 0
            assert [f.seq for f in read(tmp_path / "r") if isinstance(f, Acked)][-1] == 5

    asyncio.run(go())


def test_what_nobody_acknowledged_is_sent_again_from_the_first(
    stack: Stack, tmp_path: Path, home_of: list[Connector]
):
    settings = settings_of(stack, devices=3, rate=30)
    connector = Connector(stack, settings.home)
    connector.deaf = True
    home_of.append(connector)

    async def go() -> Swarm:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(10)
            await swarm.run(1.0)
            await asyncio.sleep(1.0)
            assert swarm.unacked == 30
            connector.deaf = False
            assert await swarm.drain(25) == 0
            return swarm

    swarm = asyncio.run(go())
    assert swarm.counts.sent_again == 30
    assert swarm.counts.connection_losses == 0
    assert connector.firsts[0] == 1
    assert {node: sorted(set(seqs)) for node, seqs in connector.got.items()} == {
        f"n0000{node}": list(range(1, 11)) for node in range(3)
    }


def test_bare_devices_believe_the_broker(stack: Stack, tmp_path: Path):
    settings = settings_of(stack, devices=10, rate=100, believe="puback")

    async def go() -> Swarm:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(10)
            await swarm.run(1.0)
            assert await swarm.drain(10) == 0
            return swarm

    assert asyncio.run(go()).counts.acked == 100


def test_a_killed_broker_costs_nothing(stack: Stack, tmp_path: Path, home_of: list[Connector]):
    import os
    import signal

    settings = settings_of(stack, devices=50, rate=200)
    connector = Connector(stack, settings.home)
    home_of.append(connector)

    async def go() -> Swarm:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(10)
            run = asyncio.create_task(swarm.run(3.0))
            await asyncio.sleep(1.0)
            os.kill(stack.pid("mosquitto"), signal.SIGKILL)
            await run
            await asyncio.to_thread(stack.wait_ready, "mosquitto")
            again = Connector(stack, settings.home)
            home_of.append(again)
            assert await swarm.drain(60) == 0
            return swarm

    swarm = asyncio.run(go())
    assert swarm.counts.connection_losses >= 50
    assert swarm.counts.acked == swarm.counts.made == 600
    got: dict[str, set[int]] = {}
    for one in home_of:
        for node, seqs in one.got.items():
            got.setdefault(node, set()).update(seqs)
    assert got == {f"n{node:05d}": set(range(1, 13)) for node in range(50)}


def test_two_thousand_nodes_speak_at_once(stack: Stack, tmp_path: Path):
    settings = settings_of(stack, devices=2_000, rate=4_000, believe="puback")

    async def go() -> Swarm:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(60)
            assert swarm.connected == 2_000
            await swarm.run(2.0)
            assert await swarm.drain(30) == 0
            return swarm

    swarm = asyncio.run(go())
    assert swarm.counts.acked == 8_000
    assert swarm.counts.connection_losses == 0


def test_a_broker_that_is_not_there_is_named(tmp_path: Path):
    settings = SwarmSettings("home", devices=2, rate=1, port=1)

    async def go() -> None:
        async with Swarm(settings, Record(tmp_path / "r", settings.header())) as swarm:
            await swarm.connect(0.5)

    with pytest.raises(SwarmError, match=r"2 of 2 nodes could not connect to 127\.0\.0\.1:1 "):
        asyncio.run(go())
