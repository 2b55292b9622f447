"""An application's files in one image, mounted read-only: nothing is unpacked.

Image: b"MSB1", the number of files (2 bytes, big-endian), for each the length of its path (1), the
path, its size (4); then the files, one after the other.
"""

import io

from micropython import const

_MAGIC = const(b"MSB1")
_HEAD_BYTES = const(6)
_MOST_FILES = const(256)
_IS_DIRECTORY = const(0x4000)
_IS_FILE = const(0x8000)
_CLOSE = const(4)
_BUFFER_BYTES = const(11)  # requests of `ioctl`


class BadBundle(Exception):
    """The image is no bundle; its signature said nothing of that."""


def head_of(image, size):
    """What a bundle of `size` bytes says of its files, as it says it. Raises BadBundle.

    It stays bytes: a dictionary of them would take six times the memory.
    """
    head = image.read(_HEAD_BYTES)
    if head[:4] != _MAGIC:
        raise BadBundle("no bundle")
    count = int.from_bytes(head[4:6], "big")
    if count > _MOST_FILES:
        raise BadBundle("too many files")
    parts = []
    total = _HEAD_BYTES
    for _ in range(count):
        entry = image.read(1)
        if entry:
            entry += image.read(entry[0] + 4)
        if not entry or len(entry) != entry[0] + 5:
            raise BadBundle("cut short")
        parts.append(entry)
        total += len(entry) + int.from_bytes(entry[-4:], "big")
    if total != size:
        raise BadBundle("its files have %d bytes, not %d" % (total, size))
    return b"".join(parts)


def find(head, path):
    """(offset, size) of a file of the bundle, None where there is none.

    Without slices: what is thrown away while an import goes on cuts the heap up.
    """
    at = 0
    offset = _HEAD_BYTES + len(head)
    while at < len(head):
        end = at + 1 + head[at]
        size = head[end] << 24 | head[end + 1] << 16 | head[end + 2] << 8 | head[end + 3]
        if head[at] == len(path) and head.find(path, at + 1, end) > 0:
            return offset, size
        at = end + 4
        offset += size
    return None


def has_folder(head, path):
    """Whether the bundle has files below `path`, which ends in a slash."""
    at = 0
    while at < len(head):
        if head.find(path, at + 1, at + 1 + len(path)) > 0:
            return True
        at += 1 + head[at] + 4
    return False


class BundleFiles:
    """A file system (MicroPython's `vfs`) over the image in the file `path`."""

    def __init__(self, path, size):
        self._path = path
        with open(path, "rb") as image:
            self._head = head_of(image, size)

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def chdir(self, path):
        raise OSError(1)

    def stat(self, path):
        path = path.strip("/").encode()
        found = find(self._head, path)
        if found is not None:
            return (_IS_FILE, 0, 0, 0, 0, 0, found[1], 0, 0, 0)
        if path and not has_folder(self._head, path + b"/"):
            raise OSError(2)
        return (_IS_DIRECTORY, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def open(self, path, mode):
        found = find(self._head, path.strip("/").encode())
        if found is None or "w" in mode or "a" in mode or "+" in mode:
            raise OSError(2 if found is None else 30)
        return _Part(self._path, found[0], found[1])


class _Part(io.IOBase):
    """Bytes of the image, as a file that is read from its beginning."""

    def __init__(self, path, offset, size):
        self._file = open(path, "rb")
        self._file.seek(offset)
        self._left = size

    def readinto(self, buffer):
        if len(buffer) > self._left:
            buffer = memoryview(buffer)[: self._left]
        count = self._file.readinto(buffer)
        self._left -= count
        return count

    def read(self, length=-1):
        part = self._file.read(self._left if length < 0 else min(length, self._left))
        self._left -= len(part)
        return part

    def close(self):
        self._file.close()

    def ioctl(self, request, _argument):
        if request == _BUFFER_BYTES:
            return 240  # as many at once as an import takes
        if request == _CLOSE:
            self._file.close()
        return 0
