"""What several rooms' tests share, and in which order their files begin."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from infra.local import Stack, StackSettings, start
from infra.local.parts import Parts, ensure
from infra.local.stack import silent

# `make properties` (HYPOTHESIS_PROFILE=long): hours rather than seconds.
# No deadlines: how long an example takes is this machine's business.
settings.register_profile("usual", deadline=None)
settings.register_profile("long", max_examples=20_000, stateful_step_count=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))

# A stack of the tests lives for a minute or two: Kafka's second compiler would never pay.
os.environ.setdefault(StackSettings.variable("kafka_jvm_options"), "-XX:TieredStopAtLevel=1")

TESTS = Path(__file__).parent
FIRST = (
    # One process makes the servers' parts where they are missing, others need none meanwhile.
    "system/test_chaos.py",
    "ingest/decoders/test_any_bytes.py",
    "ingest/test_ack_gate_machine.py",
    "streams/test_windows_machine.py",
    "streams/test_windows.py",
    # By how long they take.
    "infra/test_swarm_load.py",
    "ingest/test_uplink.py",
    "system/test_selftest.py",
    "system/test_kills.py",  # not beside test_chaos.py: each of them fills the machine
    "system/test_bill_trial.py",
    "system/test_commands.py",
    "ingest/downlink/test_process.py",
    "system/test_real_data.py",
    "infra/test_local_stack.py",
    "streams/commands/test_process.py",
)
"""Files that begin first, in this order: a long one must not be what the others wait for."""
LAST_OF_ITS_ROOM = "system/test_verify.py"
LOG_LINES = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _turn(item.path.relative_to(TESTS).as_posix()))


def _turn(name: str) -> tuple[int, bool]:
    """The named files, then the other system tests, then the rest; each in the usual order."""
    if name in FIRST:
        return FIRST.index(name), False
    is_system = name.startswith("system/")
    return len(FIRST) + (not is_system), name == LAST_OF_ITS_ROOM


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """With a failure, what the processes said last: their logs are wiped with the stack."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {}).values()
        for stack in {one for it in used if isinstance(one := getattr(it, "stack", it), Stack)}:
            for log in sorted(stack.log_dir.glob("*.log")):
                lines = log.read_text(errors="replace").splitlines()
                own = [line[:300] for line in lines if not line.startswith("%")]  # not librdkafka's
                report.sections.append((log.name, "\n".join(own[-LOG_LINES:])))
    return report
