"""Relays by name, what they do at power-on, and the wall switches beside them."""

from micropython import const

LAST, ON, OFF = "last", "on", "off"
POWER_ON = (LAST, ON, OFF)
DEBOUNCE_MS = 40
_PREFIXES = const(("relay:", "switch:"))


def relay_name(index):
    return "relay:%d" % index


def relay_index(name, count):
    """Which relay is meant; None, or a number, is taken too. None for one that is not there."""
    if name is None:
        return 0 if count else None
    if isinstance(name, str):
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name = name[len(prefix) :]
        if not name.isdigit() or len(name) > 2:
            return None
        name = int(name)
    if isinstance(name, bool) or not isinstance(name, int) or not 0 <= name < count:
        return None
    return name


class Relays:
    """`pins` have `set(closed)`. Each change is in the ledger before a pin moves."""

    def __init__(self, pins, ledger):
        self._pins = pins
        self._ledger = ledger

    def power_on(self, rule):
        """Bring the relays to where they were, or all on or off."""
        if rule != LAST and self._pins:
            wanted = [rule == ON] * len(self._pins)
            if wanted != self._ledger.relays:
                self._ledger.keep_relays(wanted)
        self._drive()

    def __len__(self):
        return len(self._pins)

    @property
    def states(self):
        """Closed or not, by name."""
        return {relay_name(index): closed for index, closed in enumerate(self._ledger.relays)}

    def after(self, index, action):
        """All relays' states once `action` (on, off, toggle) was done to one."""
        wanted = list(self._ledger.relays)
        wanted[index] = not wanted[index] if action == "toggle" else action == "on"
        return wanted

    def run(self, command, index):
        """Do a command, once: whatever happens it is in the ledger as done before a pin moves."""
        wanted = self.after(index, command.action)
        self._ledger.begin(command.command_id, command.seq, "done", wanted)
        self._drive()

    def flip(self, index):
        """Somebody used the wall switch."""
        self._ledger.keep_relays(self.after(index, "toggle"))
        self._drive()

    def _drive(self):
        for pin, closed in zip(self._pins, self._ledger.relays):  # noqa: B905  MicroPython's has no strict
            pin.set(closed)


class WallSwitch:
    """An input that toggles its relay at every change of position that lasts."""

    def __init__(self, is_closed):
        self._is_closed = is_closed
        self._position = is_closed()
        self._changed_ms = None

    def step(self, now_ms):
        """True when it was used."""
        position = self._is_closed()
        if position == self._position:
            self._changed_ms = None
            return False
        if self._changed_ms is None:
            self._changed_ms = now_ms
        if now_ms - self._changed_ms < DEBOUNCE_MS:
            return False
        self._position = position
        self._changed_ms = None
        return True
