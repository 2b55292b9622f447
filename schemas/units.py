"""The whole numbers in which the pipeline counts time, power and energy."""

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
QUARTER_US = 15 * MINUTE_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

UWH_PER_WH = 1_000_000
MW_PER_W = 1_000
MWUS_PER_UWH = 3_600_000
"""Milliwatt-microseconds in a microwatt-hour: 1e-9 J over 3.6e-3 J."""


def wh_to_uwh(energy_wh: float) -> int:
    """Quantise an energy or a register to whole µWh, half to even."""
    return round(energy_wh * UWH_PER_WH)


def w_to_mw(power_w: float) -> int:
    """Quantise a power to whole mW, half to even."""
    return round(power_w * MW_PER_W)
