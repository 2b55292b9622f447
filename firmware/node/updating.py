"""Signed updates beside the node: there is memory for one of the two at a time.

An `ota` command is put down and the node restarts; `update` then has the memory to itself: it
verifies, downloads and stages (`ota`), and restarts again into the new image, or into the
old one with the reason. Meters count on meanwhile. The node says what became of it.
"""

from micropython import const
from node.store import Store

COMMAND = const("command")  # the file that holds it, as it came
HEALTHY_WITHIN_MS = const(600_000)


class Updating:
    """What the running node has to do with updates. `files` is an `ota.flash.Files`.

    `version` is what was signed of the image that runs; None of the built-in application.
    """

    def __init__(self, files, store):
        self._files = files
        self._store = store
        document = store.read() or {}
        self._answer = document.get("answer")
        state = _state(files)
        self._trial = state.trial is not None
        slot = state.trial["slot"] if self._trial else state.active
        self.version = state.slots[slot]["version"] if slot else None
        self._report = None if self._trial else state.report
        if self._report and self._report["command_id"] == document.get("told"):
            self._report = state.report = None
            state.store()

    def take(self, command_id, payload, unix_ms):
        """Put a command down, unread; the node restarts. Raises OSError."""
        self._files.replace(COMMAND, payload)
        self._store.write({"command_id": command_id, "unix_ms": unix_ms})

    def confirm(self):
        """The node is healthy: Kafka has something of it. Ends the trial of a new image."""
        if not self._trial:
            return
        try:
            state = _state(self._files)
            state.confirm()
        except MemoryError:
            return  # much waits in the outbox: the next acknowledgement finds more room
        self._trial = False
        self._report = state.report

    def is_overdue(self, now_ms):
        """A new image that is not healthy by now is given up by a restart."""
        return self._trial and now_ms > HEALTHY_WITHIN_MS

    def answer(self):
        """(command id, outcome, reason) of an update that is over, until `answered`; else None."""
        said = self._answer or self._report
        return said and (said["command_id"], said["outcome"], said.get("reason"))

    def answered(self):
        """The answer is in the node's ledger: it can be given again from there.

        What the bootloader knows is changed at the next start, when there is memory for it.
        """
        if self._answer is not None:
            self._answer = None
            self._store.write({})
        elif self._report is not None:
            self._store.write({"told": self._report["command_id"]})
            self._report = None


def _state(files):
    """What is known of the images; its code goes again, for it is needed seldom."""
    from ota import forget
    from ota.state import State

    state = State(files)
    forget()
    return state


def waiting_job(flash):
    """The update that was put down, and its store; None where there is none."""
    store = Store(flash + "/update")
    document = store.read() or {}
    return (document, store) if "unix_ms" in document else (None, store)


def update_or_start(hal, files):
    """Do the update that was put down, which ends in a restart; without one, run for ever."""
    job, store = waiting_job(hal.flash)
    if job is not None:
        from node.update import run_update
        from ota.http import fetch

        run_update(hal, files, job, store, fetch)
    from node.start import start

    start(hal, Updating(files, store))
