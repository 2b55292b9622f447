"""Thousands of nodes with end-to-end acknowledgements: all are back soon after the broker is."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from infra.local import Stack
from infra.local.errors import StackError
from infra.local.settings import PROJECT_ROOT
from infra.local.topics import create_topics
from infra.swarm.record import Acked, read
from infra.swarm.swarm import NODES_PER_ADDRESS, Swarm, SwarmSettings, new_record

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

DEVICES = NODES_PER_ADDRESS + 40
RATE = 2_000
BACK_WITHIN_S = 60.0


@pytest.fixture
def uplink(stack: Stack) -> Iterator[None]:
    create_topics(stack.kafka_bootstrap)
    environment = {**os.environ, **stack.environment(), "METERSTREAM_METRICS_PORT": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "ingest"],
        cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        yield
        process.terminate()


async def until(condition: Callable[[], bool], what: str) -> float:
    """Wait for it; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < BACK_WITHIN_S, f"{what}: not in {BACK_WITHIN_S:.0f} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def test_five_thousand_nodes_are_back_after_the_broker_is_killed_and_after_it_is_restarted(
    stack: Stack, uplink: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = SwarmSettings(
        home=f"many-{time.time_ns()}", devices=DEVICES, rate=RATE, port=stack.mqtt_port
    )
    record = new_record(settings, tmp_path)
    told: list[str] = []

    async def kill() -> None:
        before = stack.pid("mosquitto")
        os.kill(before, signal.SIGKILL)

        def is_another() -> bool:
            try:
                return stack.pid("mosquitto") != before
            except StackError:
                return False

        await until(is_another, "the broker is started again")

    async def restart() -> None:
        await asyncio.to_thread(stack.restart, "mosquitto")

    async def go() -> Swarm:
        async with Swarm(settings, record) as swarm:
            began = time.monotonic()
            await swarm.connect(60)
            told.append(f"connected in {time.monotonic() - began:.1f} s")
            speech = asyncio.create_task(swarm.run(25))
            await until(lambda: swarm.counts.acked > 2 * DEVICES, "acknowledgements come")
            await strike(swarm, "kill -9", kill)
            await strike(swarm, "clean restart", restart)
            await speech
            assert await swarm.drain(60) == 0
            assert Counter(
                node.link.transport.get_extra_info("sockname")[0]
                for node in swarm._nodes
                if node.link is not None
            ) == {"127.0.0.2": NODES_PER_ADDRESS, "127.0.0.3": DEVICES - NODES_PER_ADDRESS}
            return swarm

    async def strike(swarm: Swarm, name: str, blow: Callable[[], Awaitable[None]]) -> None:
        losses = swarm.counts.connection_losses
        began = time.monotonic()
        await blow()
        down_s = time.monotonic() - began
        await until(lambda: swarm.counts.connection_losses >= losses + DEVICES, "all are cut")
        await until(lambda: swarm.connected == DEVICES, "all are back")
        back_s = time.monotonic() - began
        made = swarm.counts.made
        await until(lambda: swarm.counts.acked >= made, "all made until then is safe")
        safe_s = time.monotonic() - began
        told.append(f"{name}: broker away {down_s:.1f} s, all back {back_s:.1f}, safe {safe_s:.1f}")

    swarm = asyncio.run(go())
    with capsys.disabled():
        print(f"\n{DEVICES:,} nodes, {RATE:,}/s: {'; '.join(told)}")
    assert swarm.counts.made == swarm.counts.acked == 25 * RATE
    assert swarm.counts.false_acks == 0
    last = {frame.node: frame.seq for frame in read(record.path) if isinstance(frame, Acked)}
    assert len(last) == DEVICES
    assert sum(last.values()) == swarm.counts.made
