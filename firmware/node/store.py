"""A small document on flash that is there whole, old or new, whenever the power goes.

Two files take turns; each has a number and a checksum, and the sound one with the higher number
counts. `write` costs one flash block.
"""

import json
import os
import struct
from binascii import crc32

from micropython import const

_HEAD = const(">II")  # number, checksum of number and text
_MAX_BYTES = const(16_384)


class Store:
    def __init__(self, path):
        self._paths = (path + ".a", path + ".b")
        self._number = 0
        self._next = 0

    def read(self):
        """The document as it was last written; None if there is none that is sound."""
        document = None
        for index, path in enumerate(self._paths):
            number, text = _sound(path)
            if text is not None and number > self._number:
                document = json.loads(text)
                self._number = number
                self._next = 1 - index
        return document

    def write(self, document):
        """Raises OSError when the flash refuses: then the document before it still counts."""
        text = json.dumps(document).encode()
        number = self._number + 1
        with open(self._paths[self._next], "wb") as file:
            data = struct.pack(">I", number)
            head = struct.pack(_HEAD, number, crc32(text, crc32(data)))
            if file.write(head) + file.write(text) != len(head) + len(text):
                raise OSError(28)  # ENOSPC
            file.flush()
        self._number = number
        self._next = 1 - self._next


def _sound(path):
    try:
        size = os.stat(path)[6]
        with open(path, "rb") as file:
            data = file.read(min(size, _MAX_BYTES))  # read(n) takes n bytes of memory at once
    except OSError:
        return 0, None
    if len(data) < 8:
        return 0, None
    number, crc = struct.unpack_from(_HEAD, data)
    text = data[8:]
    if crc != crc32(text, crc32(data[:4])):
        return 0, None
    return number, text
