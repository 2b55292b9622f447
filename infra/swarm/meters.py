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

_MOST_MW = 6_000_000
_SOLAR_EVERY = 4  # of so many nodes one has panels, and an export register

_MOODS = 4_093
_STEP_MW = 200_000


def _moods() -> list[tuple[int, int, int, int, bytes]]:
    """Ready-made mains: (mV, mHz, power factor in ‰, mV times ‰, their text)."""
    chance = Random("mains")
    moods = []
    for _ in range(_MOODS):
        voltage = chance.randrange(218_000, 242_000)
        frequency = chance.randrange(49_900, 50_100)
        factor = chance.randrange(600, 1_001)
        text = b'"voltage_v":%.3f,"frequency_hz":%.3f,"power_factor":%.3f' % (
            voltage / 1e3,
            frequency / 1e3,
            factor / 1e3,
        )
        moods.append((voltage, frequency, factor, voltage * factor, text))
    return moods


_MAINS = _moods()


class Meter:
    """The meter of node `index`. Everything follows from `chance`."""

    __slots__ = ("_export", "_import", "_last_us", "_names", "_powers", "_random", "_solar")

    def __init__(self, index: int, phases: int, chance: Random) -> None:
        self._names = [name.encode() for name in CHANNELS[phases]]
        self._solar = index % _SOLAR_EVERY == _SOLAR_EVERY - 1
        self._random = chance.getrandbits
        self._powers = [chance.randrange(_MOST_MW) for _ in range(phases)]
        start = [chance.randrange(10**12, 2 * 10**13) for _ in self._names]
        self._import = [uwh * MWUS_PER_UWH for uwh in start]  # mW·µs
        self._export = [uwh * MWUS_PER_UWH // 3 for uwh in start]
        self._last_us: int | None = None

    def read(self, at_us: int) -> tuple[list[int], bytes]:
        """The numbers of all channels in a row, and the payload from `"ts"` to its end."""
        elapsed = 0 if self._last_us is None else at_us - self._last_us
        self._last_us = at_us
        solar, imports, names = self._solar, self._import, self._names
        chance = self._random(60)
        powers = []
        for power in self._powers:
            power += chance % (2 * _STEP_MW + 1) - _STEP_MW
            chance >>= 7
            if power > _MOST_MW:
                power = 2 * _MOST_MW - power
            elif power < 0 and not solar:
                power = -power
            elif power < -_MOST_MW:
                power = -2 * _MOST_MW - power
            powers.append(power)
        self._powers = powers
        if len(names) > 1:
            powers = [sum(powers), *powers]
        numbers: list[int] = []
        parts: list[bytes] = []
        for i, power in enumerate(powers):
            voltage, frequency, factor, product, mains = _MAINS[(chance + i * 1_009) % _MOODS]
            if power >= 0:
                sign, size = b"", power
                imports[i] += power * elapsed
            else:
                sign, size = b"-", -power
                self._export[i] += size * elapsed
            current = size * 1_000_000 // product
            imported = imports[i] // MWUS_PER_UWH
            part = b'"%b":{"power_w":%b%d.%03d,"current_a":%d.%03d,%b,"import_total_wh":%d.%06d' % (
                names[i],
                sign,
                size // 1_000,
                size % 1_000,
                current // 1_000,
                current % 1_000,
                mains,
                imported // 1_000_000,
                imported % 1_000_000,
            )
            if solar:
                exported = self._export[i] // MWUS_PER_UWH
                part += b',"export_total_wh":%d.%06d' % divmod(exported, 1_000_000)
            else:
                exported = ABSENT
            parts.append(part)
            numbers += (power, voltage, current, frequency, factor, imported, exported)
        seconds, micros = divmod(at_us, 1_000_000)
        return numbers, b'"ts":%d.%06d,"channels":{%b}}}' % (seconds, micros, b"},".join(parts))


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
