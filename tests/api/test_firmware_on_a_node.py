"""MicroPython with a node's heap updates itself from the API, killed on the way again and again."""

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from infra.firmware_bundle import bundle_of
from infra.local.micropython import micropython
from infra.local.parts import locate
from infra.local.settings import StackSettings, free_block
from schemas.firmware import OtaParameters
from sinks import firmware
from streams.firmware.documents import manifest_of, sign_manifest
from tests.api.conftest import TOKEN, Rows
from tests.streams.firmware.test_documents import KEYS, root

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
sys.path.insert(0, str(FIRMWARE))

from ota.flash import Files  # noqa: E402
from ota.state import State, image_name  # noqa: E402
from ota.updates import provision  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).resolve().parents[1] / "firmware" / "ota_node.py"
NOW_S = 1_763_700_000
LONGEST_S = 120


@pytest.fixture
def served(rows: Rows, migrated: str) -> Iterator[str]:
    """The API's address, over real sockets."""
    port = free_block(1)
    settings = ApiSettings.model_validate({"token": TOKEN, "port": port})
    config = uvicorn.Config(
        create_app(settings, migrated), host="127.0.0.1", port=port, log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + LONGEST_S
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def application(name: str, ballast: int) -> bytes:
    """A bundle with a package, a module and `ballast` bytes that no module needs."""
    source = f"NAME = {name!r}\nfrom parts.more import helper\n"
    return bundle_of(
        {
            "application.py": source.encode(),
            "parts/__init__.py": b"",
            "parts/more.py": b"def helper():\n    return '!'\n",
            "ballast.mpy": random.Random(name).randbytes(ballast),
        }
    )


class Node:
    """MicroPython on the flash in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command = micropython(locate(StackSettings().parts_dir), str(SCRIPT))
        (folder / "images").mkdir()
        provision(Files(str(folder / "images")), msgspec.to_builtins(root()[0]))
        self.highest_bytes = 0

    def install(self, name: str) -> None:
        """By cable, into slot a."""
        image = application(name, 100)
        files = Files(str(self.folder / "images"))
        files.replace(image_name("a"), image)
        state = State(files)
        state.active, state.counter = "a", 1
        sha256 = hashlib.sha256(image).hexdigest()
        state.slots["a"] = {
            "version": name, "counter": 1, "size": len(image), "sha256": sha256,
        }  # fmt: skip
        state.store()

    def run(self, kill_after: int | None) -> tuple[list[str], int]:
        """From a start to its end, or `kill -9` after so many lines. Lines, and how it ended."""
        with subprocess.Popen(
            self._command,
            cwd=self.folder,
            env={"MICROPYPATH": f"{FIRMWARE}:.frozen"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("step"):
                    self.highest_bytes = max(self.highest_bytes, int(line.split()[1]))
                if kill_after is not None and len(lines) == kill_after:
                    process.kill()
            process.wait(LONGEST_S)
        return lines, process.returncode

    @property
    def report(self) -> dict[str, Any] | None:
        path = self.folder / "report.json"
        return json.loads(path.read_text()) if path.exists() else None


def offered(conn: psycopg.Connection[Any], url: str, image: bytes, **changed: Any) -> Any:
    """Publish an image and give the command's parameters, as the roll-out makes them."""
    firmware.add_root(conn, root()[1])
    told: dict[str, Any] = {
        "product": "node", "hw_rev": "r1", "version": "2.0", "security_counter": 3,
        "created": 1, "expires": 2_000_000_000, "signer": KEYS[3].public_key(),
    }  # fmt: skip
    envelope = sign_manifest(manifest_of(image, **(told | changed)), KEYS[3])
    row = firmware.add_manifest(conn, envelope)
    firmware.add_image(conn, row.firmware_id, image)
    parameters = OtaParameters(envelope, f"{url}/firmware/{row.sha256}")
    return msgspec.to_builtins(parameters) | {"now_s": NOW_S}


def test_a_node_is_updated_though_it_is_killed_again_and_again(
    rows: Rows, served: str, tmp_path: Path
):
    node = Node(tmp_path)
    node.install("old")
    assert node.run(1)[0][0] == "runs old! a False"
    image = application("new", 200_000)
    (tmp_path / "command.json").write_text(json.dumps(offered(rows.conn, served, image)))
    chance = random.Random(5)
    steps = kills = 0
    for _ in range(60):
        lines, ended = node.run(chance.randrange(1, 8) if kills < 12 else None)
        assert lines[0] in ("runs old! a False", "runs new! b True", "runs new! b False"), lines
        steps += sum(line.startswith("step") for line in lines)
        kills += ended == -9
        if node.report is not None:
            break
    assert node.report == {"command_id": "c1", "outcome": "done", "version": "2.0"}
    assert node.run(1)[0][0] == "runs new! b False"
    assert State(Files(str(tmp_path / "images"))).counter == 3
    assert kills >= 3
    chunks = -(-len(image) // 4096)
    assert steps < 2 * chunks + kills  # a kill costs a chunk, not the download
    assert node.highest_bytes < 60_000
    print(f"{kills} kills, {steps} steps for {chunks} chunks, {node.highest_bytes} bytes at most")


def test_an_image_for_another_product_is_refused(rows: Rows, served: str, tmp_path: Path):
    node = Node(tmp_path)
    node.install("old")
    said = offered(rows.conn, served, application("new", 10), product="plug")
    (tmp_path / "command.json").write_text(json.dumps(said))
    lines, ended = node.run(None)
    assert ended == 1
    assert "wrong_product" in lines[-1]
    assert node.run(1)[0][0] == "runs old! a False"


def test_a_signed_image_that_is_no_bundle_is_rolled_back(rows: Rows, served: str, tmp_path: Path):
    node = Node(tmp_path)
    node.install("old")
    said = offered(rows.conn, served, b"no bundle at all")
    (tmp_path / "command.json").write_text(json.dumps(said))
    assert node.run(None)[1] == 3
    lines, _ = node.run(None)
    assert lines[0] == "runs old! a False"
    assert node.report is not None
    assert (node.report["outcome"], node.report["reason"]) == ("failed", "malformed")


def test_without_any_image_the_built_in_application_runs(rows: Rows, served: str, tmp_path: Path):
    node = Node(tmp_path)
    image = application("first", 10)
    (tmp_path / "command.json").write_text(json.dumps(offered(rows.conn, served, image)))
    assert node.run(None)[0][0] == "runs built-in None False"
    assert node.run(None)[0][0] == "runs first! a True"
    assert node.report is not None
