"""A simulated meter: what it says next, in whole numbers, and as the payload's bytes.

The truth is whole numbers (mW, mV, mA, µWh, …). A payload's decimal text is exactly such a number
over its scale, and Python's division of the two gives the double nearest to that text: it equals
what a decoder reads and the database stores.

A reading's power is the mean since the reading before it, so the registers follow it exactly:
they are the sum of power times time, cut to whole µWh.
"""

from collections.abc import Sequence
from random import Random

from schemas.units import MWUS_PER_UWH

CHANNELS = {1: ("total",), 3: ("total", "l1", "l2", "l3")}
SCALES = (1e3, 1e3, 1e3, 1e3, 1e3, 1e6, 1e6)
"""Of the numbers of a channel: power, voltage, current, frequency, power factor, registers."""
FIELDS = (
    "power_w",
    "voltage_v",
    "current_a",
    "frequency_hz",
    "power_factor",
    "import_total_wh",
    "export_total_wh",
)
ABSENT = -1
"""In the place of the export register of a meter that has none."""

ROLLS_OVER_AT_UWH = 10_000 * 10**9
"""The first reading that a register of 9,999.99 kWh cannot show."""

_MOST_MW = 6_000_000
_SOLAR_EVERY = 4  # of so many nodes one has panels, and an export register
_NEVER = 1 << 80

_LOADS_EACH_WAY = 4_096
_LONGEST_STEP = 255  # in the table of loads: some 400 W
_Load = tuple[int, int, int, int, int, bytes]


def _current_ma(power_mw: int, voltage_mv: int, factor_permille: int) -> int:
    return abs(power_mw) * 1_000_000 // (voltage_mv * factor_permille)


def _load_text(power: int, voltage: int, current: int, frequency: int, factor: int) -> bytes:
    return (
        b'"power_w":%b%d.%03d,"current_a":%d.%03d,"voltage_v":%d.%03d,'
        b'"frequency_hz":%d.%03d,"power_factor":%d.%03d,"import_total_wh":'
        % (
            b"-" if power < 0 else b"",
            *divmod(abs(power), 1_000),
            *divmod(current, 1_000),
            *divmod(voltage, 1_000),
            *divmod(frequency, 1_000),
            *divmod(factor, 1_000),
        )
    )


def _loads() -> list[_Load]:
    """Ready-made instants by rising power: mW, mV, mA, mHz, power factor in ‰, and their text.

    The text is most of a payload, and to format it most of a reading's cost.
    """
    chance = Random("loads")
    powers = sorted(chance.randrange(-_MOST_MW, 0) for _ in range(_LOADS_EACH_WAY))
    powers += sorted(chance.randrange(0, _MOST_MW) for _ in range(_LOADS_EACH_WAY))
    loads = []
    for power in powers:
        voltage = chance.randrange(218_000, 242_000)
        frequency = chance.randrange(49_900, 50_100)
        factor = chance.randrange(600, 1_001)
        current = _current_ma(power, voltage, factor)
        text = _load_text(power, voltage, current, frequency, factor)
        loads.append((power, voltage, current, frequency, factor, text))
    return loads


_LOADS = _loads()
_NO_POWER, _LAST = _LOADS_EACH_WAY, 2 * _LOADS_EACH_WAY - 1


class Meter:
    """The meter of node `index`. Everything follows from `chance`.

    `hidden_uwh` is what the registers have been through and no longer show, by resets and
    rollovers: import and export of each channel in turn. `jumps` counts these.
    """

    __slots__ = (
        "_export",
        "_import",
        "_lowest",
        "_names",
        "_places",
        "_random",
        "_rolls_over_at",
        "_solar",
        "hidden_uwh",
        "jumps",
        "last_us",
    )

    def __init__(self, index: int, phases: int, chance: Random) -> None:
        self._names = [b'"%b":{' % name.encode() for name in CHANNELS[phases]]
        self._solar = index % _SOLAR_EVERY == _SOLAR_EVERY - 1
        self._lowest = 0 if self._solar else _NO_POWER
        self._random = chance.getrandbits
        self._places = [chance.randrange(self._lowest, _LAST) for _ in range(phases)]
        start = [chance.randrange(10**12, 2 * 10**13) for _ in self._names]
        self._import = [uwh * MWUS_PER_UWH for uwh in start]  # mW·µs
        self._export = [uwh * MWUS_PER_UWH // 3 for uwh in start]
        self._rolls_over_at = _NEVER
        self.last_us: int | None = None
        self.hidden_uwh = [0] * (2 * len(start))
        self.jumps = 0

    def read(self, at_us: int) -> tuple[list[int], bytes]:
        """The numbers of all channels in a row, and the payload from `"ts"` to its end."""
        elapsed = 0 if self.last_us is None else at_us - self.last_us
        self.last_us = at_us
        solar, imports, names, places = self._solar, self._import, self._names, self._places
        chance = self._random(60)
        lowest = self._lowest
        for i, place in enumerate(places):
            place += (chance & 511) % (2 * _LONGEST_STEP + 1) - _LONGEST_STEP
            chance >>= 9
            if place > _LAST:
                place = 2 * _LAST - place
            elif place < lowest:
                place = 2 * lowest - place
            places[i] = place
        loads = [_LOADS[place] for place in places]
        if len(names) > 1:
            loads.insert(0, _sum(loads, chance))
        numbers: list[int] = []
        parts: list[bytes] = []
        for i, (power, voltage, current, frequency, factor, text) in enumerate(loads):
            if power >= 0:
                imports[i] += power * elapsed
            else:
                self._export[i] -= power * elapsed
            imported = imports[i] // MWUS_PER_UWH
            if imported >= self._rolls_over_at:
                imported -= self._hide(imports, i, 2 * i, ROLLS_OVER_AT_UWH)
            if solar:
                exported = self._export[i] // MWUS_PER_UWH
                parts.append(
                    b'%b%b%d.%06d,"export_total_wh":%d.%06d'
                    % (
                        names[i],
                        text,
                        imported // 1_000_000,
                        imported % 1_000_000,
                        exported // 1_000_000,
                        exported % 1_000_000,
                    )
                )
            else:
                exported = ABSENT
                parts.append(
                    b"%b%b%d.%06d" % (names[i], text, imported // 1_000_000, imported % 1_000_000)
                )
            numbers += (power, voltage, current, frequency, factor, imported, exported)
        return numbers, b'"ts":%d.%06d,"channels":{%b}}}' % (
            at_us // 1_000_000,
            at_us % 1_000_000,
            b"},".join(parts),
        )

    # ---- registers that do not only rise

    def reset(self) -> bool:
        """Begin all registers anew at 0, just after the last reading.

        False, and nothing done, if one has less than `LEAST_RESET_UWH`, or is about to roll over:
        nobody could tell the reset from a rise, or from the rollover.
        """
        registers = [self._import, self._export] if self._solar else [self._import]
        whole = [[one // MWUS_PER_UWH for one in register] for register in registers]
        if min(map(min, whole)) < LEAST_RESET_UWH:
            return False
        if self._rolls_over_at != _NEVER and max(whole[0]) * 10 > ROLLS_OVER_AT_UWH * 9:
            return False
        for first, (register, counts) in enumerate(zip(registers, whole, strict=True)):
            for i, uwh in enumerate(counts):
                self._hide(register, i, 2 * i + first, uwh)
        return True

    def roll_over_soon(self, within_uwh: int) -> None:
        """Let the import registers stand so little before their rollover, and roll over."""
        self._rolls_over_at = ROLLS_OVER_AT_UWH
        self._import = [(ROLLS_OVER_AT_UWH - within_uwh) * MWUS_PER_UWH for _ in self._import]

    def roll_over_no_more(self) -> None:
        """Count on beyond the end: after a last reading, no other would confirm a rollover."""
        self._rolls_over_at = _NEVER

    def _hide(self, register: list[int], i: int, at: int, uwh: int) -> int:
        register[i] -= uwh * MWUS_PER_UWH
        self.hidden_uwh[at] += uwh
        self.jumps += 1
        return uwh


LEAST_RESET_UWH = 10**9  # 1 kWh


def _sum(phases: list[_Load], chance: int) -> _Load:
    """The load of all phases together: their power, and mains of its own."""
    power = sum(phase[0] for phase in phases)
    _, voltage, _, frequency, factor, _ = _LOADS[chance % len(_LOADS)]
    current = _current_ma(power, voltage, factor)
    text = _load_text(power, voltage, current, frequency, factor)
    return power, voltage, current, frequency, factor, text


def values_of(numbers: Sequence[int]) -> tuple[float | None, ...]:
    """The seven numbers of one channel as the doubles that a decoder reads."""
    power, voltage, current, frequency, factor, imported, exported = numbers
    return (
        power / 1e3,
        voltage / 1e3,
        current / 1e3,
        frequency / 1e3,
        factor / 1e3,
        imported / 1e6,
        None if exported == ABSENT else exported / 1e6,
    )
