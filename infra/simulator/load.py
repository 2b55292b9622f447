"""One load: its power and its register at any instant. Pure, and in whole numbers.

The register is a function of the instant alone, so a simulator that is started again goes on
where its meters would be, as real ones do.
"""

import math
from dataclasses import dataclass

from infra.simulator.shapes import MINUTES, Shape
from schemas.units import MINUTE_US, MW_PER_W, MWUS_PER_UWH, SECOND_US

ORIGIN_US = 946_659_600 * SECOND_US
"""2000-01-01 00:00 in Bangkok, a Saturday: where every register stood at its base."""

PHASE_SHARES = {"l1": 470, "l2": 310, "l3": 220}  # of a thousand


@dataclass(frozen=True)
class Load:
    """A shape, `scale` thousandths of it, `shift` minutes later; `wave` sets its voltage's run."""

    shape: Shape
    scale: int
    shift: int
    wave: float

    def power_mw(self, at_us: int, share: int = 1000) -> int:
        minute = (at_us - ORIGIN_US) // MINUTE_US + self.shift
        return self.shape.powers_mw[minute % MINUTES] * self.scale * share // 1_000_000

    def register_uwh(self, at_us: int, share: int = 1000) -> int:
        minute, rest_us = divmod(at_us - ORIGIN_US, MINUTE_US)
        cycles, i = divmod(minute + self.shift, MINUTES)
        sums = self.shape.sums
        flowed = (cycles * sums[MINUTES] + sums[i]) * MINUTE_US
        flowed += self.shape.powers_mw[i] * rest_us  # mW·µs
        return flowed * self.scale * share // (1_000_000 * MWUS_PER_UWH)

    def electrical(self, at_us: int, share: int = 1000) -> "Electrical":
        at_s = at_us / SECOND_US
        wave = self.wave + share / 100
        voltage = 229 + 3 * math.sin(at_s / 13_750 + wave) + 0.7 * math.sin(at_s / 37 + 3 * wave)
        power = self.power_mw(at_us, share) / MW_PER_W
        factor = 0.99 - 0.35 * math.exp(-power / 150)
        frequency = 50 + 0.03 * math.sin(at_s / 211 + wave)
        return Electrical(power, voltage, power / factor / voltage, factor, frequency)


@dataclass(frozen=True)
class Electrical:
    power_w: float
    voltage_v: float
    current_a: float
    power_factor: float
    frequency_hz: float

    @property
    def apparent_va(self) -> float:
        return self.voltage_v * self.current_a
