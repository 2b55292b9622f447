"""A current clamp at an analogue input: the current's effective value from many samples.

The clamp's burden sits on half of the supply voltage, so the mean is taken away first.
"""

from array import array
from math import sqrt

from micropython import const

SAMPLES = 400
_PERIODS_MS = const(200)  # whole periods at 50 and at 60 Hz
_NOISE_MA = const(30)  # less is noise, and shown as 0


class CtClamp:
    """`read()` gives a sample in millivolts.

    `now_us()` names an instant, `wait_us(start, offset)` waits until `offset` µs after it.
    """

    def __init__(self, read, now_us, wait_us):
        self._read = read
        self._now_us = now_us
        self._wait_us = wait_us
        self._samples = array("H", bytes(2 * SAMPLES))

    def current_ma(self, ratio, burden_mohm, gain_permille=1000):
        """Effective current over _PERIODS_MS, which it takes; nothing is allocated while sampling.

        A clamp of 100 A : 50 mA has the ratio 2000; with a burden of 33 ohm 1 A makes 16.5 mV.
        """
        samples, read, wait_us = self._samples, self._read, self._wait_us
        step_us = _PERIODS_MS * 1000 // SAMPLES
        start = self._now_us()
        for index in range(SAMPLES):
            wait_us(start, index * step_us)
            samples[index] = read()
        found_ma = int(effective(samples) * ratio * gain_permille / burden_mohm + 0.5)
        return found_ma if found_ma >= _NOISE_MA else 0


def effective(samples):
    """Effective value of the samples around their mean."""
    mean = sum(samples) / len(samples)
    squares = 0.0
    for sample in samples:
        squares += (sample - mean) * (sample - mean)
    return sqrt(squares / len(samples))


def power_dw(current_ma, voltage_dv, power_factor_c):
    """Power in 0.1 W of a current at an assumed voltage (0.1 V) and power factor (0.01)."""
    return current_ma * voltage_dv * power_factor_c // 100_000
