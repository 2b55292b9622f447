"""The device families: how long a silence is bridged, what power is possible, what is promised."""

from dataclasses import dataclass

from schemas.units import SECOND_US, wh_to_uwh


@dataclass(frozen=True)
class Family:
    """A family of devices, and the limits of those whose registry row sets none.

    `gap_limit_s`: the longest time between two power readings over which energy is integrated.
    `max_power_w`: no channel can draw more; a register that rises faster is doubted.
    `register_span_wh`: where the registers of its meters begin anew at 0 (None: not known to).
    `register_age_s`: how old a register may be that is told as of now.
    """

    name: str
    gap_limit_s: int
    max_power_w: int
    register_span_wh: int | None = None
    register_age_s: int = 0
    end_to_end_ack: bool = False

    @property
    def gap_limit_us(self) -> int:
        return self.gap_limit_s * SECOND_US

    @property
    def register_span_uwh(self) -> int | None:
        return None if self.register_span_wh is None else wh_to_uwh(self.register_span_wh)

    @property
    def register_age_us(self) -> int:
        return self.register_age_s * SECOND_US


PZEM_SPAN_WH = 10_000_000
"""A PZEM-004T counts whole Wh, shows up to 9,999.99 kWh, and begins anew at 0."""

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "homesync",
            gap_limit_s=300,
            max_power_w=100_000,
            register_span_wh=PZEM_SPAN_WH,
            end_to_end_ack=True,
        ),
        # EMData and EM1Data count by whole minutes.
        Family("shelly", gap_limit_s=300, max_power_w=100_000, register_age_s=60),
        Family("shelly1", gap_limit_s=300, max_power_w=100_000),
        Family("wattaway", gap_limit_s=300, max_power_w=30_000, register_span_wh=PZEM_SPAN_WH),
        Family("home", gap_limit_s=300, max_power_w=100_000),
        Family("tasmota", gap_limit_s=900, max_power_w=30_000),
        Family("z2m", gap_limit_s=900, max_power_w=30_000),
        Family("http", gap_limit_s=900, max_power_w=100_000),
    )
}


def family_of(address: str) -> Family:
    """The family that an address (`<family>:<rest>`) names."""
    return FAMILIES[address.partition(":")[0]]
