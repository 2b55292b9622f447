"""What a node remembers of its images: which runs, which is tried, what was committed."""

from binascii import hexlify
from hashlib import sha256

from micropython import const

from ota.record import Record

SLOTS = ("a", "b")
TRIES = 3
_READ_BYTES = const(1024)


class State:
    """The record `state` on flash.

    `counter` is the greatest security counter ever confirmed. `slots` has of each slot what was
    verified into it: {version, counter, size, sha256}, or None. `active` is the slot that was
    confirmed last, None while only the built-in application ever was. `trial` is the slot to be
    tried, with the tries left. `failed` is the SHA-256 of the image that was rolled back last.
    `report` is what is still to be said of a command.
    """

    def __init__(self, flash):
        self._record = Record(flash, "state")
        known = self._record.load() or {}
        self.counter = known.get("counter", 0)
        self.active = known.get("active")
        self.slots = known.get("slots", {"a": None, "b": None})
        self.trial = known.get("trial")
        self.failed = known.get("failed")
        self.report = known.get("report")

    def store(self):
        names = ("counter", "active", "slots", "trial", "failed", "report")
        self._record.store({name: getattr(self, name) for name in names})

    @property
    def spare(self):
        """The slot that an update may overwrite."""
        return "b" if self.active == "a" else "a"

    def stage(self, image, command_id):
        """Have the spare slot tried at the next start; its bytes are verified."""
        self.slots[self.spare] = image
        self.trial = {"slot": self.spare, "tries": TRIES, "command_id": command_id}
        self.store()

    def confirm(self):
        """The tried application is healthy: from now on it runs, and nothing older."""
        slot = self.trial["slot"]
        image = self.slots[slot]
        self.report = {
            "command_id": self.trial["command_id"],
            "outcome": "done",
            "version": image["version"],
        }
        self.active, self.trial, self.failed = slot, None, None
        self.counter = max(self.counter, image["counter"])
        self.store()

    def roll_back(self, reason):
        """Forget the tried image; what was confirmed before runs again."""
        slot = self.trial["slot"]
        image = self.slots[slot]
        self.report = {
            "command_id": self.trial["command_id"],
            "outcome": "failed",
            "reason": reason,
            "version": image["version"],
        }
        self.failed, self.slots[slot], self.trial = image["sha256"], None, None
        self.store()


def image_name(slot):
    return slot + ".img"


def digest_of(flash, slot, size):
    """SHA-256, in hex, of the first `size` bytes of a slot."""
    digest, offset = sha256(), 0
    while offset < size:
        part = flash.read(image_name(slot), offset, min(_READ_BYTES, size - offset))
        if not part:
            break
        digest.update(part)
        offset += len(part)
    return hexlify(digest.digest()).decode()
