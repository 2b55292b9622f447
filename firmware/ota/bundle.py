"""An application's files in one image, mounted read-only: nothing is unpacked.

Image: b"MSB1", the number of files (2 bytes, big-endian), for each the length of its path (1), the
path, its size (4); then the files, one after the other.
"""

import io

_MAGIC = b"MSB1"
_MOST_FILES = 256
_IS_DIRECTORY, _IS_FILE = 0x4000, 0x8000
_CLOSE = 4


class BadBundle(Exception):
    """The image is no bundle; its signature said nothing of that."""


def index_of(image, size):
    """By path: (offset, size) of each file of a bundle of `size` bytes. Raises BadBundle."""
    head = image.read(6)
    if head[:4] != _MAGIC:
        raise BadBundle("no bundle")
    count = int.from_bytes(head[4:6], "big")
    if count > _MOST_FILES:
        raise BadBundle("too many files")
    sizes = []
    at = 6
    for _ in range(count):
        length = _number(image, 1)
        path = image.read(length)
        if len(path) != length:
            raise BadBundle("cut short")
        sizes.append((path.decode(), _number(image, 4)))
        at += 5 + length
    index = {}
    for path, length in sizes:
        index[path] = (at, length)
        at += length
    if at != size:
        raise BadBundle("its files have %d bytes, not %d" % (at, size))
    return index


def _number(image, length):
    text = image.read(length)
    if len(text) != length:
        raise BadBundle("cut short")
    return int.from_bytes(text, "big")


class BundleFiles:
    """A file system (MicroPython's `vfs`) over the image in the file `path`."""

    def __init__(self, path, size):
        self._path = path
        with open(path, "rb") as image:
            self._index = index_of(image, size)

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def chdir(self, path):
        raise OSError(1)

    def stat(self, path):
        path = path.strip("/")
        if path in self._index:
            return (_IS_FILE, 0, 0, 0, 0, 0, self._index[path][1], 0, 0, 0)
        if not path or any(one.startswith(path + "/") for one in self._index):
            return (_IS_DIRECTORY, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        raise OSError(2)

    def open(self, path, mode):
        found = self._index.get(path.strip("/"))
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
        length = min(len(buffer), self._left)
        part = self._file.read(length)
        buffer[: len(part)] = part
        self._left -= len(part)
        return len(part)

    def read(self, length=-1):
        part = self._file.read(self._left if length < 0 else min(length, self._left))
        self._left -= len(part)
        return part

    def close(self):
        self._file.close()

    def ioctl(self, request, _argument):
        if request == _CLOSE:
            self._file.close()
        return 0
