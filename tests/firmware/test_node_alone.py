"""The node as a process without a broker: asleep, and not set up."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from node.outbox import Outbox
from node_process import NodeProcess
from simulated_pzem import SimulatedPzem

from infra.local.parts import Parts

ACCOUNT = {"home": "h", "node": "n", "mqtt": {"host": "127.0.0.1", "port": 1}}

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def meter() -> Iterator[SimulatedPzem]:
    one = SimulatedPzem()
    yield one
    one.close()


def test_a_node_that_sleeps_reads_writes_and_sleeps_again(
    tmp_path: Path, parts: Parts, frozen: Path, meter: SimulatedPzem
):
    config = {"sleep_s": 60, "batch": 4, "ntp_host": ""}
    environment = {"NODE_METER": f"127.0.0.1:{meter.port}", "NODE_RELAYS": "0"}
    node = NodeProcess(parts, tmp_path / "flash", ACCOUNT, config, environment, frozen)
    for _ in range(3):
        node.start()
        assert node.wait_exit() == 4, node.text()
    assert [one["ms"] for one in node.events("deep_sleep")] == [60_000] * 3
    outbox = Outbox(str(tmp_path / "flash" / "outbox"), os.urandom)
    outbox.clock_known(1_763_700_000_000)
    kept = outbox.read(1, 10)
    assert [one.seq for one in kept] == [1, 2, 3]
    registers = [one.body.split(b'"import_total_wh":')[1] for one in kept]
    assert registers == [b"1001}}", b"1002}}", b"1003}}"]
    times = [one.at_ms for one in kept]
    assert times == sorted(set(times))


def test_a_node_that_was_never_set_up_says_so(tmp_path: Path, parts: Parts, frozen: Path):
    node = NodeProcess(parts, tmp_path / "flash", ACCOUNT, {}, {}, frozen)
    (tmp_path / "flash" / "account.a").write_bytes(b"junk")
    node.start()
    assert node.wait_exit() == 5
    assert node.events("no_account")[0]["why"] == "no account"
