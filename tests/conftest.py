"""What several rooms' tests share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from infra.local import Stack, StackSettings, start
from infra.local.parts import Parts, ensure
from infra.local.stack import silent

# HYPOTHESIS_PROFILE=long pytest tests/…_machine.py: hours rather than seconds.
# No deadlines: how long an example takes is this machine's business.
settings.register_profile("usual", deadline=None)
settings.register_profile("long", max_examples=20_000, stateful_step_count=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


@pytest.fixture(scope="session")
def parts() -> Parts:
    """The servers' programs, MicroPython among them; built if missing."""
    return ensure(StackSettings().parts_dir, silent)


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
