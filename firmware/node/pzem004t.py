"""PZEM-004T v3: its requests, its replies, and a bus with several of them.

9600 8N1, Modbus-RTU; registers high byte first, 32-bit values LOW word first. Values stay whole
numbers in the meter's own steps: a board's floats have 24 bits.
Source: the maker's register table; frames checked against captures (tests/firmware).
"""

from micropython import const
from node.modbus import BadFrame, refuse_unsound, request

GENERAL_ADDRESS = 0xF8  # whoever is alone on the bus answers to it
_FIRST_ADDRESS = const(0x01)
_LAST_ADDRESS = const(0xF7)

_READ = const(0x04)
_WRITE = const(0x06)
_RESET = const(0x42)
_REGISTERS = const(10)
_MEASUREMENT_BYTES = const(5 + 2 * _REGISTERS)
_ADDRESS_REGISTER = const(0x0002)
_REPLY_WITHIN_MS = const(400)  # a read takes 107 to 126 ms
_EXCEPTION_BYTES = const(5)


def read_request(address):
    return request(address, _READ, 0, _REGISTERS)


def reset_energy_request(address):
    return request(address, _RESET)


def set_address_request(address, new):
    """Raises ValueError for an address that no meter may have."""
    if not _FIRST_ADDRESS <= new <= _LAST_ADDRESS:
        raise ValueError("address %r is not 1 to 247" % new)
    return request(address, _WRITE, _ADDRESS_REGISTER, new)


class Measurement:
    """What a meter says: 0.1 V, mA, 0.1 W, Wh, 0.1 Hz, 0.01; `alarm` when over its threshold.

    `energy_wh` rolls to 0 after 9,999,990.
    """

    def __init__(self, words):
        self.voltage_dv = words[0]
        self.current_ma = words[2] << 16 | words[1]
        self.power_dw = words[4] << 16 | words[3]
        self.energy_wh = words[6] << 16 | words[5]
        self.frequency_dhz = words[7]
        self.power_factor_c = words[8]
        self.alarm = words[9] != 0


def measurement(frame, address):
    """Decode the reply to `read_request`. Raises BadFrame."""
    refuse_unsound(frame, address, _READ)
    if len(frame) != _MEASUREMENT_BYTES or frame[2] != 2 * _REGISTERS:
        raise BadFrame("%d bytes with %d of data are no measurement" % (len(frame), frame[2]))
    return Measurement(
        [frame[3 + 2 * index] << 8 | frame[4 + 2 * index] for index in range(_REGISTERS)]
    )


def expected_bytes(asked):
    """Length of the reply to a request; an exception has _EXCEPTION_BYTES."""
    return {_READ: _MEASUREMENT_BYTES, _RESET: 4, _WRITE: 8}[asked[1]]


def refuse_not_done(frame, asked):
    """Raise BadFrame unless `frame` confirms a reset or a new address: it repeats the request."""
    refuse_unsound(frame, asked[0], asked[1])
    if bytes(frame) != bytes(asked):
        raise BadFrame("the confirmation is not what was asked")


class Bus:
    """One exchange at a time on a serial line, never waiting for it.

    `serial` has `write(bytes)` and `read(most)`, which gives bytes, or None when there are none.
    """

    def __init__(self, serial):
        self._serial = serial
        self._asked = None
        self._got = bytearray()
        self._until_ms = 0

    @property
    def busy(self):
        return self._asked is not None

    def ask(self, asked, now_ms):
        """Send a request; what was still on the line before it is thrown away."""
        while self._serial.read(64):
            pass
        self._got = bytearray()
        self._asked = asked
        self._until_ms = now_ms + _REPLY_WITHIN_MS
        self._serial.write(asked)

    def step(self, now_ms):
        """The reply's bytes when it is complete, else None.

        Raises BadFrame when it is late, or longer than it can be.
        """
        asked = self._asked
        if asked is None:
            return None
        expected = expected_bytes(asked)
        data = self._serial.read(64)
        if data:
            self._got.extend(data)
        got = self._got
        if len(got) > expected:
            self._asked = None
            raise BadFrame("%d bytes came where %d were due" % (len(got), expected))
        is_exception = len(got) == _EXCEPTION_BYTES and got[1] == asked[1] | 0x80
        if len(got) == expected or is_exception:
            self._asked = None
            return bytes(got)
        if now_ms >= self._until_ms:
            self._asked = None
            raise BadFrame("%d of %d bytes within %d ms" % (len(got), expected, _REPLY_WITHIN_MS))
        return None
