"""What goes on a node: an application as one image (`ota.bundle`), a root (`ota.record`)."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from schemas.firmware import Root
from streams.firmware.errors import BadImage

_MAGIC = b"MSB1"
_SUFFIXES = (".py", ".mpy")
_MOST_FILES = 256


def files_in(folder: Path) -> dict[str, bytes]:
    """The modules below `folder`, by their path in it. Raises BadImage if there are none."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SUFFIXES and path.is_file()
    }
    if not found:
        raise BadImage(f"{folder} has no modules (.py, .mpy)")
    return found


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
