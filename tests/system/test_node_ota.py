"""From `meterstream firmware` to a MicroPython node that runs what was signed.

Nothing is left out: API, command process, downlink, broker, uplink, worker; the node downloads,
verifies, restarts into the other slot, and is believed when Kafka has heard of it.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local import Stack, StackSettings, start
from infra.local.parts import locate
from infra.local.programs import OWN, SERVERS
from sinks import firmware_rollouts
from sinks.firmware_rollouts import RolloutRow
from sinks.registry import claim_device
from tests.firmware.node_process import FIRMWARE, NodeProcess, freeze
from tests.firmware.simulated_pzem import SimulatedPzem
from tests.system.conftest import PROJECT_ROOT, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(2400)]

NEEDED = ("uplink", "worker", "commands", "downlink", "api")
HOME, ADDRESS = "h-ota", "homesync:h-ota/n"
PRODUCT, HW_REV = "pzem-node", "r1"
LONGEST_S = 900.0  # for what takes a minute on a quiet machine
HEAP = "120K"
_COMMAND = "import infra.cli as cli; cli.main()"
_LINK = '        return not _exists("link_down")\n'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = StackSettings.free(tmp_path_factory.mktemp("ota-stack"))
    programs = [*SERVERS, *(one for one in OWN if one.name in NEEDED)]
    running = Stack(settings, programs)
    try:
        yield start(settings, programs)
    finally:
        running.wipe()


@pytest.fixture(scope="module")
def keys(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys and the root that two of them have signed."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("root-1", "root-2", "targets"):
        meterstream(stack, "firmware", "keygen", folder / name)
    meterstream(
        stack, "firmware", "root", folder / "root.json", "--sign-with", folder / "root-1",
        "--root-key", folder / "root-1.pub", "--root-key", folder / "root-2.pub",
        "--targets-key", folder / "targets.pub",
    )  # fmt: skip
    meterstream(stack, "firmware", "cosign", folder / "root.json", "--key", folder / "root-2")
    meterstream(stack, "firmware", "publish", "--root", folder / "root.json")
    return folder


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware as a board has it."""
    return freeze(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def board(
    stack: Stack, keys: Path, frozen: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Board"]:
    """A claimed node that runs what was put on it by cable."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        claim_device(conn, ADDRESS, "Node under test", HOME, "Asia/Bangkok")
    meter = SimulatedPzem()
    flash = tmp_path_factory.mktemp("node") / "flash"
    (flash / "images").mkdir(parents=True)
    meterstream(stack, "firmware", "node-root", keys / "root.json", flash / "images" / "root.0")
    (flash / "board.json").write_text(json.dumps({"product": PRODUCT, "hw_rev": HW_REV}))
    node = NodeProcess(
        locate(stack.settings.parts_dir),
        flash,
        {"home": HOME, "node": "n", "mqtt": {"host": "127.0.0.1", "port": stack.mqtt_port}},
        {"ntp_host": "127.0.0.1:1", "interval_s": 10, "status_s": 10},
        {"NODE_METER": f"127.0.0.1:{meter.port}", "NODE_SKIP": "1"},
        frozen,
        "main_unix",
        HEAP,
    )
    one = Board(node, stack)
    try:
        yield one
    finally:
        one.switch_off()
        meter.close()


class Board:
    """Starts its node again whenever it has ended, as the reset of a board does."""

    def __init__(self, node: NodeProcess, stack: Stack) -> None:
        self.node = node
        self._stack = stack
        self.starts = 0
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._run, name="board")
        self._thread.start()

    def _run(self) -> None:
        while not self._off.is_set():
            self.node.start()
            self.starts += 1
            while self.node.running and not self._off.wait(0.05):
                pass
        self.node.end()

    def switch_off(self) -> None:
        self._off.set()
        self._thread.join(60)

    def until(self, condition: Any, what: str, in_vain: Any = lambda: None) -> Any:
        """What `condition` says as soon as it is something.

        Fails with all there is to say when it is late, or when `in_vain` says that it cannot come.
        """

        def either() -> Any:
            found = condition()
            return (found, None) if found else (why := in_vain()) and (None, why)

        try:
            found, why = wait_for(either, what, LONGEST_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error
        assert why is None, f"{what}: {why}\n{self.told()}"
        return found

    def told(self) -> str:
        """What explains a failure: the node's starts and last words, roll-outs, processes' logs."""
        said = [f"{self.starts} starts", self.node.text()[-3000:], *asked(self._stack)]
        said += [
            "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for log in sorted(self._stack.log_dir.glob("*.log"))
            if log.stem in NEEDED
        ]
        return "\n".join(said)


def meterstream(stack: Stack, *arguments: object) -> Any:
    """Run the command in this stack's surroundings; a document where `--json` asks for one."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env={**os.environ, **stack.environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}\n{done.stdout}"
    return json.loads(done.stdout) if "--json" in arguments else None


def published(stack: Stack, keys: Path, folder: Path, version: str, counter: int) -> int:
    """Pack, sign and publish the application in `folder`; its firmware's id."""
    image, manifest = folder / f"{version}.img", folder / f"{version}.json"
    meterstream(stack, "firmware", "pack", folder / "application", image)
    meterstream(
        stack, "firmware", "sign", image, manifest, "--key", keys / "targets",
        "--product", PRODUCT, "--hw-rev", HW_REV, "--version", version, "--counter", counter,
    )  # fmt: skip
    made = meterstream(stack, "firmware", "publish", manifest, image, "--json")
    return int(made["firmware_id"])


def application(folder: Path, **changes: tuple[str, str]) -> Path:
    """The node's sources in `folder`/application, with texts of modules replaced by others."""
    for path in (FIRMWARE / "node").glob("*.py"):
        text = path.read_text()
        if path.stem in changes:
            before, after = changes[path.stem]
            assert text.count(before) == 1
            text = text.replace(before, after)
        into = folder / "application" / "node" / path.name
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_text(text)
    return folder


def rolled_out(stack: Stack, firmware_id: int) -> int:
    url = f"http://127.0.0.1:{stack.settings.api_port}"
    made = meterstream(
        stack, "firmware", "rollout", firmware_id, "--percent", 100, "--url", url, "--json"
    )
    return int(made["rollout_id"])


def said(stack: Stack) -> dict[str, Any]:
    """What the registry knows of the node."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        rows = conn.execute(
            "SELECT field, value FROM device_state JOIN device USING (device_id) "
            "WHERE address = %s AND channel = ''",
            [ADDRESS],
        ).fetchall()
    return dict(rows)


def asked(stack: Stack) -> list[str]:
    """Where the roll-outs and their commands stand."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        return [
            str(row)
            for query in (
                b"SELECT rollout_id, status, attempts, reason FROM firmware_rollout_device",
                b"SELECT kind, state, reason, requested_at, sent_at FROM command",
                b"SELECT channel, field, value FROM device_state",
            )
            for row in conn.execute(query)
        ]


def newest_seq(stack: Stack) -> int:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        ((seq,),) = conn.execute(
            "SELECT coalesce(max(seq), 0) FROM readings JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = %s",
            [ADDRESS],
        ).fetchall()
    return int(seq)


def standing(stack: Stack, rollout_id: int) -> RolloutRow:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        return firmware_rollouts.find(conn, rollout_id)


def test_a_signed_image_is_rolled_out_and_runs(
    stack: Stack, keys: Path, board: Board, tmp_path: Path
):
    board.until(lambda: said(stack).get("model"), "the node says what it is")
    assert said(stack)["model"] == f"{PRODUCT}/{HW_REV}"
    assert said(stack)["firmware"] == "1.0.0"
    board.until(lambda: newest_seq(stack) > 0, "a reading")

    application(tmp_path)
    rollout = rolled_out(stack, published(stack, keys, tmp_path, "1.1.0", counter=3))
    board.until(
        lambda: standing(stack, rollout).done == 1,
        "the roll-out says done",
        in_vain=lambda: standing(stack, rollout).reason,
    )
    board.until(lambda: said(stack)["firmware"] == "1.1.0", "the node says its new version")
    status = meterstream(stack, "firmware", "status", rollout, "--json")
    assert (status["state"], status["done"], status["failed"]) == ("running", 1, 0)
    (device,) = status["devices"]
    assert (device["address"], device["status"], device["attempts"]) == (ADDRESS, "done", 1)
    shown = meterstream(stack, "device", "show", ADDRESS, "--json")
    assert (shown["firmware"], shown["model"]) == ("1.1.0", f"{PRODUCT}/{HW_REV}")
    assert board.starts == 3, f"not: built in, the update alone, the new image\n{board.told()}"

    seq = newest_seq(stack)
    board.node.kill()
    board.until(lambda: newest_seq(stack) > seq + 1, "it measures on after a power cut")
    assert said(stack)["firmware"] == "1.1.0", "it was kept"
    heaps = [one["memory_bytes"] for one in board.node.events("status")]
    print(f"memory of the node: {min(heaps)} to {max(heaps)} bytes")


def test_an_image_that_cannot_connect_is_rolled_back_and_halts_the_roll_out(
    stack: Stack, keys: Path, board: Board, tmp_path: Path
):
    board.until(lambda: said(stack).get("firmware") == "1.1.0", "the image before runs")
    starts = board.starts
    application(tmp_path, hal_unix=(_LINK, "        return False\n"))
    rollout = rolled_out(stack, published(stack, keys, tmp_path, "1.2.0", counter=4))
    board.until(lambda: standing(stack, rollout).state == "halted", "the roll-out is halted")
    status = meterstream(stack, "firmware", "status", rollout, "--json")
    assert (status["done"], status["failed"]) == (0, 1)
    assert status["reason"].startswith("1 of 1 failed")
    (device,) = status["devices"]
    assert (device["status"], device["reason"]) == ("failed", "not_healthy"), board.told()
    told = f"not: the update, three tries, the image before\n{board.told()}"
    assert board.starts == starts + 5, told
    assert said(stack)["firmware"] == "1.1.0"
    tried = [one for one in board.node.events("status") if one["firmware"] == "1.2.0"]
    assert tried, "it did run"
    seq = newest_seq(stack)
    board.until(lambda: newest_seq(stack) > seq, "it measures on")
