"""A small value on flash that a power cut leaves as it was or as it shall be.

Two copies, written in turn, each with a number and a SHA-256: the newest whole one counts. Needs
no rename and no order of writes beyond that of two calls.
"""

import json
from binascii import hexlify
from hashlib import sha256

from micropython import const

_LONGEST = const(32_768)


class Record:
    def __init__(self, flash, name):
        self._flash = flash
        self._names = (name + ".0", name + ".1")

    def load(self):
        """The value, None if there never was one or both copies are damaged."""
        found = self._newest()
        return None if found is None else found[2]

    def store(self, value):
        found = self._newest()
        number, into = (1, 0) if found is None else (found[0] + 1, 1 - found[1])
        found = None  # a node's memory is small
        body = json.dumps({"n": number, "value": value}).encode()
        self._flash.replace(self._names[into], _digest(body) + body)

    def _newest(self):
        """The newest whole copy: its number, which it is, and its value."""
        best = None
        for copy, name in enumerate(self._names):
            # no more than there is: MicroPython takes the memory for what is asked for
            body = self._flash.read(name, 64, min(_LONGEST, self._flash.size(name)))
            if not body or _digest(body) != self._flash.read(name, 0, 64):
                continue
            said = json.loads(body)
            if best is None or said["n"] > best[0]:
                best = (said["n"], copy, said["value"])
        return best


def _digest(body):
    return hexlify(sha256(body).digest())
