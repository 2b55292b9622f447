"""Which command runs, once; which does not, and why; and what is answered.

A command runs if it is not known, its number is above the last one's, and it has not expired. One
that comes before the node knows the time waits CLOCK_WITHIN_MS for it. What was refused is in
the ledger as well: its answer stays the same however often it comes.
"""

import json

from micropython import const
from node.command import Refused, read
from node.relays import relay_index, relay_name

CLOCK_WITHIN_MS = 30_000
_MOST_WAITING = const(4)
_RECEIVED = const("received")
_DONE = const("done")
_FAILED = const("failed")


class Commands:
    """`actions` has a function a kind beside `relay`: it takes the Command and its parameters'
    meaning is its own. It raises Refused (nothing changed), or returns True when done and False
    when `finish` will be called later.
    """

    def __init__(self, relays, ledger, clock, actions, say, switched):
        self._relays = relays
        self._ledger = ledger
        self._clock = clock
        self._actions = actions
        self._say = say
        self._switched = switched
        self._waiting = []  # (command, until)

    def heard(self, kind, payload, size, now_ms):
        """A message on `…/command/<kind>`; `payload` None where it was too large to keep."""
        try:
            if payload is None:
                raise Refused("%d bytes are more than a node takes" % size)
            command = self._read(kind, payload)
        except Refused as error:
            self._answer(getattr(error, "command_id", None), None, _FAILED, str(error), now_ms)
            return
        if self._clock.known or self._is_known(command):
            self._judge(command, now_ms)
        elif len(self._waiting) < _MOST_WAITING:
            self._let_wait(command, now_ms + CLOCK_WITHIN_MS)
        else:
            self._refuse(command, "the node does not know the time", now_ms)

    def _read(self, kind, payload):
        try:
            return read(kind, payload)
        except MemoryError:
            raise Refused("%d bytes need more memory than there is" % len(payload))

    def _let_wait(self, command, until_ms):
        """An update that there is no memory for is left: what was not answered comes again."""
        try:
            if command.payload is not None:
                command.payload = bytes(command.payload)
            self._waiting.append((command, until_ms))
        except MemoryError:
            pass

    def step(self, now_ms):
        """Look again at what waits for the clock."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for command, until_ms in waiting:
            if self._clock.known:
                self._judge(command, now_ms)
            elif now_ms >= until_ms:
                self._refuse(command, "the node does not know the time", now_ms)
            else:
                self._waiting.append((command, until_ms))

    def finish(self, command_id, outcome, reason, now_ms):
        """A command that took its time is over."""
        ran = self._ledger.find(command_id)
        self._ledger.finish(command_id, outcome, reason)
        self._answer(command_id, ran.seq if ran else None, outcome, reason, now_ms)

    def interrupted(self, now_ms):
        """After a start: what was running is answered, for nobody else will."""
        for ran in self._ledger.running():
            self.finish(ran.command_id, _FAILED, "the power went while it ran", now_ms)

    def _is_known(self, command):
        return self._ledger.find(command.command_id) is not None

    def _judge(self, command, now_ms):
        ran = self._ledger.find(command.command_id)
        if ran is not None:
            self._answer(ran.command_id, ran.seq, ran.outcome or _RECEIVED, ran.reason, now_ms)
        elif command.seq <= self._ledger.last_seq:
            reason = "command %d came after %d" % (command.seq, self._ledger.last_seq)
            self._answer(command.command_id, command.seq, _FAILED, reason, now_ms)
        elif self._clock.unix_ms(now_ms) >= command.expires_at_s * 1000:
            self._refuse(command, "expired", now_ms)
        else:
            self._run(command, now_ms)

    def _run(self, command, now_ms):
        try:
            if command.kind == "relay":
                self._switch(command, now_ms)
                return
            action = self._actions.get(command.kind)
            if action is None:
                raise Refused("this node has no %s" % command.kind)
            # An update goes on over a restart, anything else has failed by then.
            begun = _RECEIVED if command.kind == "ota" else None
            self._ledger.begin(command.command_id, command.seq, begun)
            if action(command):
                self.finish(command.command_id, _DONE, None, now_ms)
            else:
                self._answer(command.command_id, command.seq, _RECEIVED, None, now_ms)
        except Refused as error:
            self._refuse(command, str(error), now_ms)
        except OSError:
            self._refuse(command, "the flash takes nothing more", now_ms)

    def _switch(self, command, now_ms):
        index = relay_index(command.relay, len(self._relays))
        if index is None:
            raise Refused("no relay is named %r" % (command.relay,))
        self._relays.run(command, index)
        name = relay_name(index)
        self._switched(name, "command", now_ms)
        more = {"relay": name, "state": "on" if self._relays.states[name] else "off"}
        self._answer(command.command_id, command.seq, _DONE, None, now_ms, more)

    def _refuse(self, command, reason, now_ms):
        try:
            if not self._is_known(command):
                self._ledger.begin(command.command_id, command.seq, _FAILED)
            self._ledger.finish(command.command_id, _FAILED, reason)
        except OSError:
            pass  # the answer below is all that can be done
        self._answer(command.command_id, command.seq, _FAILED, reason, now_ms)

    def _answer(self, command_id, seq, outcome, reason, now_ms, more=None):
        said = {"outcome": outcome}
        if command_id is not None:
            said["command_id"] = command_id
        if seq is not None:
            said["command_seq"] = seq
        if reason is not None:
            said["reason"] = reason[:200]
        unix_ms = self._clock.unix_ms(now_ms)
        if unix_ms is not None:
            said["ts"] = unix_ms  # above 1e11: milliseconds
        said.update(more or {})
        self._say("response/command", json.dumps(said).encode())
