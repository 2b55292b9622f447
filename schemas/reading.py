"""The canonical reading: the values of one channel of a device at one instant.

Units are W, Wh, V, A, Hz, VA, var; power is + import, - export. An absent value is `None` and
means that the message did not say it; it is never filled in. Instants inside the pipeline are
whole microseconds since the Unix epoch, UTC, and end in `_us`.
"""

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

# The bounds refuse what no household or small grid connection can show, not what is unusual:
# a unit taken wrongly (kW for W, Wh for kWh) or a broken sensor. Plausibility against the
# device's own past is the business of `streams.energy`.
PowerW = Annotated[float, Meta(ge=-1e7, le=1e7)]
VoltageV = Annotated[float, Meta(ge=0, le=100_000)]
CurrentA = Annotated[float, Meta(ge=-100_000, le=100_000)]
FrequencyHz = Annotated[float, Meta(ge=0, le=1_000)]
PowerFactor = Annotated[float, Meta(ge=-1.01, le=1.01)]
ApparentVa = Annotated[float, Meta(ge=-1e7, le=1e7)]
RegisterWh = Annotated[float, Meta(ge=0, le=1e12)]
IntervalS = Annotated[float, Meta(gt=0, le=86_400)]
IntervalWh = Annotated[float, Meta(ge=0, le=1e9)]
TemperatureC = Annotated[float, Meta(ge=-100, le=250)]
Percent = Annotated[float, Meta(ge=0, le=100)]
ThdPercent = Annotated[float, Meta(ge=0, le=1_000)]


class Values(msgspec.Struct, gc=False, omit_defaults=True):
    """What one message said of one channel. Bounds are checked when msgspec decodes or converts.

    `import_total_wh` and `export_total_wh` are registers: they grow, roll over and reset.
    `interval_import_wh` is the energy of the `interval_s` seconds that end at the reading's
    instant. The order of the fields is the order of the columns of the table `readings`.
    """

    power_w: PowerW | None = None
    voltage_v: VoltageV | None = None
    current_a: CurrentA | None = None
    frequency_hz: FrequencyHz | None = None
    power_factor: PowerFactor | None = None
    apparent_va: ApparentVa | None = None
    reactive_var: ApparentVa | None = None
    import_total_wh: RegisterWh | None = None
    export_total_wh: RegisterWh | None = None
    interval_s: IntervalS | None = None
    interval_import_wh: IntervalWh | None = None
    temperature_c: TemperatureC | None = None
    humidity_percent: Percent | None = None
    thd_voltage_percent: ThdPercent | None = None
    thd_current_percent: ThdPercent | None = None


VALUE_NAMES = Values.__struct_fields__

ValueRow = tuple[float | None, ...]
"""One value for each of `VALUE_NAMES`, in their order."""


class Clock(IntEnum):
    """Whose clock `measured_us` is."""

    DEVICE = 0
    RECEIVED_NO_CLOCK = 1  # the message has no time of its own
    RECEIVED_SINCE_BOOT = 2  # the device counts seconds since it started
    RECEIVED_AHEAD = 3  # the device's clock was more than 2 min ahead, yet within a day


class Source(IntEnum):
    """How the bytes came to the raw topic (header `source`)."""

    MQTT = 0
    HTTP = 1
    POLL = 2
    IMPORT = 3


SOURCES = {source.name.lower(): source for source in Source}


class Reading(msgspec.Struct, gc=False):
    """One row: `channel` of the device whose message this was, at `measured_us`."""

    channel: str
    measured_us: int
    values: Values
    clock: Clock = Clock.DEVICE
    seq: int | None = None
