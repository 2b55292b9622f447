"""What several rooms' tests share."""

from collections.abc import Iterator

import pytest

from infra.local import Stack, StackSettings, start


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Mosquitto, Kafka and TimescaleDB of this test run only: own ports, own data, no topics.

    The parts they run from are shared with other stacks, and built if missing. A test that kills
    or stops a server leaves it answering again (`stack.wait_ready`).
    """
    settings = StackSettings.free(tmp_path_factory.mktemp("stack"))
    running = Stack(settings)
    try:
        yield start(settings)
    finally:
        running.wipe()
