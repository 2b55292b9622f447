"""A real downlink on the real Kafka and Mosquitto, once a test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local import Stack
from infra.local.topics import create_topics

sys.path.insert(0, str(Path(__file__).parent))

from devices_and_logs import DownlinkProcess, Events, Listener, Requests


@pytest.fixture(scope="session")
def servers(stack: Stack) -> Stack:
    create_topics(stack.kafka_bootstrap)
    return stack


@pytest.fixture
def downlink(servers: Stack, tmp_path: Path) -> Iterator[DownlinkProcess]:
    """Started and connected."""
    one = DownlinkProcess(servers, tmp_path / "downlink.log")
    try:
        yield one.start().wait_ready()
    finally:
        one.close()


@pytest.fixture
def requests(servers: Stack) -> Requests:
    return Requests(servers)


@pytest.fixture
def events(servers: Stack) -> Iterator[Events]:
    one = Events(servers)
    yield one
    one.close()


@pytest.fixture
def listen(servers: Stack) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(*topics: str) -> Listener:
        made.append(Listener(servers, *topics))
        return made[-1]

    yield make
    for one in made:
        one.close()
