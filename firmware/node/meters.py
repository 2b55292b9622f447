"""The PZEMs on a serial line: read in turn, reset or given an address when told. Never waits."""

from micropython import const
from node.modbus import BadFrame
from node.pzem004t import (
    Bus,
    measurement,
    read_request,
    refuse_not_done,
    reset_energy_request,
    set_address_request,
)

_TRIES = const(2)
_RESET = const("reset")
_READ = const("read")
_MOVE = const("move")


class Meters:
    """`named` is the channel of each address. `fault(address, why)` hears of every bad frame."""

    def __init__(self, serial, named, fault):
        self._bus = Bus(serial)
        self._fault = fault
        self.set_named(named)
        self._queue = []  # (what, address, tries left)
        self._new_address = None
        self._current = None
        self._found = []  # (channel, Measurement) of the round under way
        self._round = False
        self._result = None
        self.bad_frames = 0

    @property
    def busy(self):
        return self._round or self._current is not None or bool(self._queue)

    def set_named(self, named):
        self._named = {int(address): channel for address, channel in named.items()}

    def begin_round(self):
        """Read every meter once; False while the last round is under way."""
        if self._round:
            return False
        self._round = True
        self._found = []
        self._queue.extend([(_READ, address, _TRIES) for address in sorted(self._named)])
        return True

    def reset_energy(self, channel):
        """False where no meter has this channel; None means the only one."""
        for address, name in self._named.items():
            if name == channel or (channel is None and len(self._named) == 1):
                self._queue.insert(0, (_RESET, address, 1))
                return True
        return False

    def set_address(self, old, new):
        """Have the meter at `old` answer to `new` from then on; it keeps that without power.

        Raises ValueError for an address that no meter may have.
        """
        set_address_request(old, new)
        self._new_address = new
        self._queue.insert(0, (_MOVE, old, 1))

    def result(self):
        """Once: (done, why not) of a reset or a new address that is over."""
        result, self._result = self._result, None
        return result

    def step(self, now_ms):
        """Go on; the round's (channel, Measurement) when it is over, else None.

        A meter that does not answer soundly is left out of its round.
        """
        if self._current is None:
            if self._queue:
                self._ask(self._queue.pop(0), now_ms)
            elif self._round:
                self._round = False
                return self._found
            return None
        what, address, tries = self._current
        try:
            frame = self._bus.step(now_ms)
            if frame is None:
                return None
            if what == _READ:
                found = measurement(frame, address)
                if address in self._named:
                    self._found.append((self._named[address], found))
            else:
                refuse_not_done(frame, self._asked)
                self._result = (True, None)
        except BadFrame as error:
            self.bad_frames += 1
            self._fault(address, str(error))
            if tries > 1:
                self._queue.insert(0, (what, address, tries - 1))
            elif what != _READ:
                self._result = (False, str(error))
        self._current = None
        return None

    def _ask(self, job, now_ms):
        what, address, _ = job
        self._current = job
        if what == _READ:
            self._asked = read_request(address)
        elif what == _RESET:
            self._asked = reset_energy_request(address)
        else:
            self._asked = set_address_request(address, self._new_address)
        self._bus.ask(self._asked, now_ms)
