"""A node whose power goes at any byte that it writes: the flash is played, its code is true.

Runs on CPython, and on MicroPython as a script: reads cases (a JSON object a line), prints what
came of each. Written for both.
"""

import gc
import json
import sys
from binascii import hexlify, unhexlify
from hashlib import sha256

from ota.boot import choose
from ota.errors import Refused
from ota.state import State, image_name
from ota.updates import Updates, provision

TORN = ("prefix", "nothing", "garbage")
MOST_STARTS = 400
MOST_STEPS = 4000


class PowerCut(Exception):
    pass


class CutFlash:
    """Files in memory. `left` bytes can still be written; each change of a file costs one more.

    `torn` says what a write that is cut leaves: its first bytes, nothing, or a wrong byte behind
    them.
    """

    def __init__(self, torn):
        self.files = {}
        self.left = None
        self.written = 0
        self._torn = torn

    def size(self, name):
        return len(self.files.get(name, b""))

    def read(self, name, offset, length):
        return bytes(self.files.get(name, b"")[offset : offset + length])

    def replace(self, name, data):
        kept = self._cut(len(data))
        if kept is None:
            self.files[name] = bytes(data)
            return
        if self._torn != "nothing":
            self.files[name] = bytes(data[:kept]) + self._garbage()
        raise PowerCut

    def write_at(self, name, offset, data):
        before = self.files.get(name, b"")
        assert len(before) >= offset
        kept = self._cut(len(data))
        if kept is not None:
            if self._torn == "nothing":
                raise PowerCut
            data = bytes(data[:kept]) + self._garbage()
        self.files[name] = before[:offset] + bytes(data) + before[offset + len(data) :]
        if kept is not None:
            raise PowerCut

    def delete(self, name):
        if self._cut(0) is not None:
            raise PowerCut
        self.files.pop(name, None)

    def flip(self, name, bit):
        changed = bytearray(self.files[name])
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        self.files[name] = bytes(changed)

    def _garbage(self):
        return b"\xa5" if self._torn == "garbage" else b""

    def _cut(self, length):
        """None if the write is done whole, else how many of its bytes are."""
        if self.left is None or self.left > length:
            if self.left is not None:
                self.left -= length + 1
            self.written += length + 1
            return None
        kept, self.left = self.left, 0
        self.written += kept
        return kept


class Server:
    """Serves the image of a case, damaged as the case says."""

    def __init__(self, case):
        self._image = unhexlify(case["image"])
        self._served = case.get("served") or {}
        self._once = self._served.get("once", False)

    def fetch(self, _url, offset, length):
        image = self._image
        flip, cut = self._served.get("flip"), self._served.get("cut")
        if cut is not None and offset + length > cut:
            if self._once:
                self._served = {}
                raise OSError("the server hung up")
            return image[offset:cut]
        if flip is not None and offset <= flip // 8 < offset + length:
            changed = bytearray(image)
            changed[flip // 8] ^= 1 << flip % 8
            image = bytes(changed)
            if self._once:
                self._served = {}
        return image[offset : offset + length]


def run_case(case):
    """Power the node on until nothing more happens. {runs, counter, outcome, starts, written}.

    `runs` is the image that runs in the end: "old", "new" or "built-in". Raises AssertionError if
    at any start something ran that was neither the old image nor an allowed new one.
    """
    flash = CutFlash(case.get("torn", "prefix"))
    old = unhexlify(case["old"])
    names = {_hex(old): "old"}
    if case["expect"] == "new" or case.get("sick"):
        names[_hex(unhexlify(case["image"]))] = "new"
    _manufacture(flash, case, old)
    node = _Node(flash, case, names)
    for cut in case.get("cuts", []):
        flash.left = cut
        try:  # noqa: SIM105  (MicroPython has no contextlib)
            node.live()
        except PowerCut:
            pass
        if node.settled:
            break
    flash.left = None
    for _ in range(MOST_STARTS):
        if node.settled:
            break
        node.live()
    assert node.settled, "the node does not come to rest"
    slot, trial = choose(flash)
    assert not trial
    return {
        "runs": node.running(slot),
        "counter": State(flash).counter,
        "outcome": node.outcome,
        "starts": node.starts,
        "written": flash.written,
    }


class _Node:
    """One node and the server that repeats its command until it is answered."""

    def __init__(self, flash, case, names):
        self._flash, self._case, self._names = flash, case, names
        self._server = Server(case)
        self._rot = case.get("rot")
        self.starts = 0
        self.outcome = None
        self.settled = False

    def live(self):
        """From a start to the next: a restart of its own, or a power cut."""
        self.starts += 1
        self._decay()
        slot, trial = choose(self._flash)
        runs = self.running(slot)
        updates = Updates(self._flash, self._case["device"], self._server.fetch)
        if trial:
            if self._case.get("sick"):
                return  # resets without a word
            updates.confirm()
        assert trial or runs != "new" or State(self._flash).counter >= self._case["counter"]
        if self._said(updates):
            return
        now_s = self._case["now_s"]
        try:
            going = updates.resume(now_s)
        except Refused as error:
            going = False
            if error.reason == "no_clock":
                self.outcome = error.reason
                self.settled = True
                return
        if not going and updates.report() is None:
            try:
                updates.command(self._case["command"], "c1", now_s)
            except Refused as error:
                self._heard("failed", error.reason)
                return
        self._download(updates, now_s)
        if not updates.ready:
            self._said(updates)

    def running(self, slot):
        if slot is None:
            return "built-in"
        image = self._flash.files[image_name(slot)]
        size = State(self._flash).slots[slot]["size"]
        found = self._names.get(_hex(image[:size]))
        assert found is not None, "something runs that was not verified"
        return found

    def _download(self, updates, now_s):
        for _ in range(MOST_STEPS):
            try:
                if not updates.step(now_s):
                    return
            except OSError:
                continue
            except Refused:
                return
        raise AssertionError("the download does not end")

    def _said(self, updates):
        """Give the report to the server, if there is one."""
        report = updates.report()
        if report is None:
            return False
        updates.reported()
        self._heard(report["outcome"], report.get("reason"))
        return True

    def _heard(self, outcome, reason):
        self.outcome = reason or outcome
        self.settled = True

    def _decay(self):
        """Bits of the flash flip by themselves before the new image is tried first."""
        if self._rot is not None and State(self._flash).trial is not None:
            self._flash.flip(self._rot["file"], self._rot["bit"])
            self._rot = None


def _manufacture(flash, case, old):
    """As it leaves the bench: a root, and the old image confirmed in slot a."""
    provision(flash, case["root"])
    state = State(flash)
    flash.replace(image_name("a"), old)
    image = {"version": "1.0", "counter": case["counter"], "size": len(old), "sha256": _hex(old)}
    state.slots["a"], state.active, state.counter = image, "a", case["counter"]
    state.store()


def _hex(data):
    return hexlify(sha256(data).digest()).decode()


def main():
    with open(sys.argv[1]) as lines:
        for line in lines:
            case = json.loads(line)
            try:
                verdict = run_case(case)
            except AssertionError as error:
                verdict = {"wrong": str(error)}
            verdict["number"] = case["number"]
            case = None
            gc.collect()
            print(json.dumps(verdict))


if __name__ == "__main__":
    main()
