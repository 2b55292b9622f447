"""A node's updates, as its main loop sees them: commands in, one chunk a step, answers out."""

from binascii import hexlify
from hashlib import sha256

from micropython import const

from ota.errors import Refused
from ota.manifest import accepted, check_time
from ota.record import Record
from ota.state import State, digest_of, image_name
from ota.trust import checked_root, newest_root

HEALTHY_WITHIN_S = 600
_MOST_DAMAGED = const(3)  # times that one chunk may come damaged


class Updates:
    """`device` is {"product", "hw_rev", "slot_bytes"}.

    `fetch(url, offset, length)` gives bytes of the image or raises OSError; `tick` feeds the
    watchdog while a signature is checked.
    """

    def __init__(self, flash, device, fetch, tick=None):
        self._flash, self._device, self._fetch, self._tick = flash, device, fetch, tick
        self._pending = Record(flash, "pending")
        self._root = Record(flash, "root")
        self._manifest = None  # of the download under way
        self._next = self._damaged = 0
        self.ready = False  # whether a restart would try a new image

    def command(self, parameters, command_id, now_s):
        """Take an `ota` command {manifest, url, roots}. Raises Refused, or an answer waits.

        The same image again goes on where the download stands; the same command again, once it
        is staged or answered, changes nothing.
        """
        if not isinstance(parameters, dict) or not isinstance(parameters.get("url"), str):
            raise Refused("malformed", "the command needs manifest and url")
        state = State(self._flash)
        known = (state.trial or {}).get("command_id"), (state.report or {}).get("command_id")
        if command_id in known:
            self.ready = state.trial is not None
            return
        if state.trial is not None:
            raise Refused("busy", "an update waits for its restart or is being tried")
        root = self._newest_root(parameters.get("roots", []))
        envelope = parameters.get("manifest")
        manifest = accepted(envelope, root, self._device, state.counter, now_s, self._tick)
        if self._runs(state, manifest):
            self._forget()
            state.report = {
                "command_id": command_id,
                "outcome": "done",
                "version": manifest["version"],
            }
            state.store()
            return
        if state.failed is not None:  # an operator insists
            state.failed = None
            state.store()
        self._pending.store(
            {"manifest": envelope, "url": parameters["url"], "command_id": command_id}
        )
        self._begin(manifest, state)

    def resume(self, now_s):
        """After a start: go on with a download that a power cut ended. False: there is none.

        Raises Refused, once, if it may not be taken any more.
        """
        pending, state = self._pending.load(), State(self._flash)
        if pending is None or state.trial is not None:
            return False
        if now_s is None:
            raise Refused("no_clock", "the node does not know the time yet")
        try:
            root = self._newest_root([])
            manifest = accepted(
                pending["manifest"], root, self._device, state.counter, now_s, self._tick
            )
        except Refused as error:
            self._give_up(pending["command_id"], error)
            raise
        if manifest["sha256"] == state.failed or self._runs(state, manifest):
            self._forget()
            return False
        self._begin(manifest, state)
        return True

    def step(self, now_s):
        """Fetch one chunk; True while there is more to do. OSError: try again later.

        At the end the whole is read back; then `ready`. Raises Refused, and forgets the download.
        """
        manifest = self._manifest
        if manifest is None:
            return False
        pending = self._pending.load()
        try:
            if self._next < len(manifest["chunk_hashes"]):
                self._take_chunk(manifest, pending["url"])
                return True
            check_time(manifest, self._newest_root([]), now_s)
            state = State(self._flash)
            if digest_of(self._flash, state.spare, manifest["size"]) != manifest["sha256"]:
                raise Refused("damaged", "the flash does not hold what was written")
        except Refused as error:
            self._give_up(pending["command_id"], error)
            raise
        image = {name: manifest[name] for name in ("version", "size", "sha256")}
        image["counter"] = manifest["security_counter"]
        state.stage(image, pending["command_id"])
        self._forget()
        self.ready = True
        return False

    def report(self):
        """What is still to be said of a command: {command_id, outcome, …}, None if nothing."""
        return State(self._flash).report

    def reported(self):
        """It was said and heard."""
        state = State(self._flash)
        state.report = None
        state.store()

    def is_overdue(self, uptime_s):
        """Whether a tried application should have been healthy by now: restart."""
        return uptime_s > HEALTHY_WITHIN_S and State(self._flash).trial is not None

    def confirm(self):
        """The application that is tried is healthy. Of no consequence if none is tried."""
        state = State(self._flash)
        if state.trial is not None:
            state.confirm()

    def _runs(self, state, manifest):
        """Whether the active slot has this image, whole."""
        image = state.slots[state.active] if state.active else None
        return (
            image is not None
            and image["sha256"] == manifest["sha256"]
            and digest_of(self._flash, state.active, image["size"]) == image["sha256"]
        )

    def _take_chunk(self, manifest, url):
        offset = self._next * manifest["chunk_size"]
        length = min(manifest["chunk_size"], manifest["size"] - offset)
        chunk = self._fetch(url, offset, length)
        if len(chunk) != length or _hex_digest(chunk) != manifest["chunk_hashes"][self._next]:
            self._damaged += 1
            if self._damaged >= _MOST_DAMAGED:
                raise Refused("damaged", "chunk %d is not what was signed" % self._next)
            return
        self._flash.write_at(image_name(State(self._flash).spare), offset, chunk)
        self._next += 1
        self._damaged = 0

    def _begin(self, manifest, state):
        """Keep the leading chunks that the spare slot has already."""
        self._manifest, self._next, self._damaged = manifest, 0, 0
        for expected in manifest["chunk_hashes"]:
            offset = self._next * manifest["chunk_size"]
            length = min(manifest["chunk_size"], manifest["size"] - offset)
            chunk = self._flash.read(image_name(state.spare), offset, length)
            if len(chunk) != length or _hex_digest(chunk) != expected:
                break
            self._next += 1

    def _give_up(self, command_id, error):
        state = State(self._flash)
        state.report = {"command_id": command_id, "outcome": "failed", "reason": error.reason}
        state.store()
        self._forget()

    def _forget(self):
        self._manifest = None
        if self._pending.load() is not None:
            self._pending.store(None)

    def _newest_root(self, envelopes):
        """The trusted root, after the rotations in `envelopes`, which are kept."""
        root = self._root.load()
        if root is None:
            raise Refused("wrong_root", "no root was put on this node")
        newest = newest_root(root, envelopes, self._tick)
        if newest["version"] != root["version"]:
            self._root.store(newest)
        return newest


def provision(flash, root):
    """Put the first root on the node, by cable. Raises Refused if it is not sound."""
    Record(flash, "root").store(checked_root(root))


def _hex_digest(data):
    return hexlify(sha256(data).digest()).decode()
