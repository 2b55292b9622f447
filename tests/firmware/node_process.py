"""The node as a process: MicroPython's unix port with a board's heap, and what it wrote."""

import json
import os
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.firmware_bundle import compiled
from infra.local.micropython import HEAP, micropython
from infra.local.parts import Parts

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
LONGEST_S = 400.0


def stored(document: object) -> bytes:
    """A document as `node.store` keeps it."""
    text = json.dumps(document).encode()
    number = struct.pack(">I", 1)
    return number + struct.pack(">I", zlib.crc32(text, zlib.crc32(number))) + text


def freeze(folder: Path) -> Path:
    """The firmware as bytecode in `folder`: nothing has to be compiled in a node's memory."""
    sources = {
        path.relative_to(FIRMWARE).as_posix(): path.read_bytes() for path in FIRMWARE.rglob("*.py")
    }
    for name, data in compiled(sources).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


class NodeProcess:
    """A node whose flash is the folder `flash`. `start` may be called again after `kill`.

    `frozen` is what `freeze` made, and `module` what begins. The node finds it as `rom`: names of
    files stay in its memory, and must not be longer on one machine than on another.
    """

    def __init__(
        self,
        parts: Parts,
        flash: Path,
        account: dict[str, object],
        config: dict[str, object],
        environment: dict[str, str],
        frozen: Path,
        module: str = "node.start",
        heap: str = HEAP,
    ) -> None:
        self._heap = heap
        self._parts = parts
        self._module = module
        self.flash = flash
        self._environment = {**os.environ, "MICROPYPATH": "rom:.frozen", **environment}
        flash.mkdir(exist_ok=True)
        (flash / "rom").symlink_to(frozen)
        (flash / "account.a").write_bytes(stored(account))
        (flash / "config.a").write_bytes(stored({"version": 1, "settings": config}))
        self._process: subprocess.Popen[bytes] | None = None
        self._log = flash / "log.jsonl"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                micropython(self._parts, "-m", self._module, heap=self._heap),
                cwd=self.flash,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """`kill -9`, wherever it is. Somebody else may start it again meanwhile."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait(LONGEST_S)

    def end(self) -> None:
        if self.running:
            self.kill()

    def wait_exit(self) -> int:
        assert self._process is not None
        return self._process.wait(LONGEST_S)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        found = []
        for line in self.text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                said = json.loads(line)
                if said["event"] == name:
                    found.append(said)
        return found

    def driven(self) -> list[tuple[int, bool]]:
        """Every time a relay's pin was set: (which, closed)."""
        path = self.flash / "relays.log"
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        return [(int(line.split()[0]), line.split()[1] == "1") for line in lines]

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + LONGEST_S
        while True:
            if value := condition():
                return value
            assert self.running, f"the node ended while waiting: {what}\n{self.text()[-3000:]}"
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.text()[-3000:]}"
            time.sleep(0.1)
