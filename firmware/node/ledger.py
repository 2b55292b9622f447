"""Which commands ran, and how the relays stand: on flash before anything moves.

A command is written down before it runs, together with the relays' new states: whenever the power
goes, it ran once or not at all, and the relays come back as it left them.
"""

from micropython import const

_MOST_KEPT = const(8)  # answers that can be repeated; older commands are known by their number
_MAX_REASON = const(60)


class Ran:
    """`outcome` is None while it runs: found so after a start, the power went in between."""

    def __init__(self, command_id, seq, outcome, reason):
        self.command_id = command_id
        self.seq = seq
        self.outcome = outcome
        self.reason = reason


class Ledger:
    def __init__(self, store, relays):
        """`relays` is how many there are; all off the first time."""
        self._store = store
        document = store.read() or {}
        self._last_seq = document.get("last_seq", 0)
        self._ran = [Ran(*one) for one in document.get("ran", [])]
        kept = document.get("relays", [])
        self.relays = [kept[index] if index < len(kept) else False for index in range(relays)]

    @property
    def last_seq(self):
        return self._last_seq

    def find(self, command_id):
        """What is known of this command; None for one never seen, or long ago."""
        for one in self._ran:
            if one.command_id == command_id:
                return one
        return None

    def running(self):
        """Commands that began and did not end."""
        return [one for one in self._ran if one.outcome is None]

    def begin(self, command_id, seq, outcome=None, relays=None):
        """Write down that a command runs, and with `outcome` and `relays` that it has run.

        Raises OSError when the flash refuses: then it must not run.
        """
        before = (self._ran, self._last_seq, self.relays)
        self._ran = self._ran[1 - _MOST_KEPT :] + [Ran(command_id, seq, outcome, None)]
        self._last_seq = seq
        if relays is not None:
            self.relays = relays
        self._write(before)

    def finish(self, command_id, outcome, reason):
        one = self.find(command_id)
        if one is not None:
            one.outcome, one.reason = outcome, reason and reason[:_MAX_REASON]
            self._write((self._ran, self._last_seq, self.relays))

    def keep_relays(self, relays):
        """The wall switch moved them."""
        before = (self._ran, self._last_seq, self.relays)
        self.relays = relays
        self._write(before)

    def _write(self, before):
        ran = [[one.command_id, one.seq, one.outcome, one.reason] for one in self._ran]
        document = {"last_seq": self._last_seq, "ran": ran, "relays": self.relays}
        try:
            self._store.write(document)
        except OSError:
            self._ran, self._last_seq, self.relays = before
            raise
