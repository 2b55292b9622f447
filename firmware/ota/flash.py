"""Files on the node's flash: the five things that updates do to them.

No write is taken to be whole: power may go after any byte. An ESP32 that updates whole partitions
has an object of the same methods in `hal`, with `esp32.Partition` behind the slots' names.
"""

import os


class Files:
    """Named files in one folder."""

    def __init__(self, folder):
        self._folder = folder

    def path(self, name):
        return self._folder + "/" + name

    def size(self, name):
        """In bytes; 0 of a file that is not there."""
        try:
            return os.stat(self.path(name))[6]
        except OSError:
            return 0

    def read(self, name, offset, length):
        """Up to `length` bytes; none of a file that is not there."""
        try:
            with open(self.path(name), "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""

    def replace(self, name, data):
        """Write the file anew; a power cut leaves a part of `data`."""
        with open(self.path(name), "wb") as file:
            file.write(data)

    def write_at(self, name, offset, data):
        """Write into the file, which has at least `offset` bytes, or begin it."""
        try:
            file = open(self.path(name), "r+b")
        except OSError:
            file = open(self.path(name), "wb")
        with file:
            file.seek(offset)
            file.write(data)

    def delete(self, name):
        try:
            os.remove(self.path(name))
        except OSError:
            pass
