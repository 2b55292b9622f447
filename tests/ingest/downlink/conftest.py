"""A real downlink on the real Kafka and Mosquitto."""

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


@pytest.fixture(scope="module")
def process(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DownlinkProcess]:
    one = DownlinkProcess(servers, tmp_path_factory.mktemp("downlink") / "downlink.log")
    yield one
    one.close()


@pytest.fixture
def downlink(process: DownlinkProcess) -> Iterator[DownlinkProcess]:
    """Started and connected; the one of the test before, if that has left it running."""
    if not process.is_running:
        process.start()
    yield process.wait_ready()
    process.print_log()


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
