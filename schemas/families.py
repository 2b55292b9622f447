"""The device families: how long a silence is bridged, what power is possible, what is promised."""

from dataclasses import dataclass

from schemas.units import SECOND_US


@dataclass(frozen=True)
class Family:
    """A family of devices, and the limits of those whose registry row sets none.

    `gap_limit_s`: the longest time between two power readings over which energy is integrated.
    `max_power_w`: no channel can draw more; a register that rises faster is doubted.
    """

    name: str
    gap_limit_s: int
    max_power_w: int
    end_to_end_ack: bool = False

    @property
    def gap_limit_us(self) -> int:
        return self.gap_limit_s * SECOND_US


FAMILIES = {
    family.name: family
    for family in (
        Family("homesync", gap_limit_s=300, max_power_w=100_000, end_to_end_ack=True),
        Family("shelly", gap_limit_s=300, max_power_w=100_000),
        Family("shelly1", gap_limit_s=300, max_power_w=100_000),
        Family("wattaway", gap_limit_s=300, max_power_w=30_000),
        Family("home", gap_limit_s=300, max_power_w=100_000),
        Family("tasmota", gap_limit_s=900, max_power_w=30_000),
        Family("z2m", gap_limit_s=900, max_power_w=30_000),
        Family("http", gap_limit_s=900, max_power_w=100_000),
    )
}


def family_of(address: str) -> Family:
    """The family that an address (`<family>:<rest>`) names."""
    return FAMILIES[address.partition(":")[0]]
