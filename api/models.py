"""The shapes of answers, as OpenAPI tells them.

Long lists (readings, usage) are encoded by msgspec from rows of the same fields; the tests hold
each against its model here.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model

from schemas.reading import VALUE_NAMES, Clock, Source

Bucket = Literal["1m", "15m", "1h", "1d", "1w", "1mo"]
NextCursor = Annotated[
    str | None, Field(description="Pass as `cursor` for the next page; null at the end.")
]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def of(cls, row: object) -> Self:
        """From what has attributes of the same names, such as a row of a table."""
        return cls.model_validate(row, from_attributes=True)


def _literal(names: list[str]) -> Any:
    return Literal[tuple(names)]


QualityName = Literal[
    "measured", "integrated", "backfilled", "interpolated", "estimated", "provisional", "gap"
]
PresenceName = Literal["online", "late", "offline"]
WhyName = Literal[
    "nothing",
    "silence",
    "register_reset",
    "meter_replaced",
    "register_doubted",
    "late_register",
    "not_complete",
    "register_rollover",
    "register_restored",
    "register_spike",
]

# ---------------------------------------------------------------- is it all there?


class Health(Answer):
    status: Literal["ok"]


class Ready(Answer):
    ready: Literal[True]
    schema_revision: str
    stream_lag_s: float = Field(description="Now less the slowest partition's stream time.")


# ---------------------------------------------------------------- devices


class Device(Answer):
    """A device of the registry with the newest that is known of it."""

    id: int = Field(examples=[7])
    address: str = Field(examples=["homesync:h1/kitchen"])
    family: str = Field(examples=["homesync"])
    name: str | None = Field(examples=["Kitchen"])
    home_id: str | None = Field(examples=["h1"], description="Null while nobody has claimed it.")
    zone: str = Field(examples=["Asia/Bangkok"])
    claimed: bool
    channels: list[str] = Field(examples=[["l1", "l2", "l3", "total"]])
    last_reading_at: datetime | None
    power_w: float | None = Field(
        description="Newest power of `total`, else the sum over channels that do not overlap; "
        "+ import, - export. Null where the newest readings have none.",
        examples=[1250.5],
    )
    power_at: datetime | None = Field(description="When that was; the oldest where it is a sum.")
    online: bool | None = Field(description="Null where the device never said.")
    location: str | None = Field(examples=["Main board, ground floor"])
    model: str | None = Field(
        examples=["SPEM-003CEBEU"], description="As it was set, else as it says."
    )
    presence: PresenceName | None = Field(description="Null while the stream has not heard it.")
    capabilities: dict[str, Any] = Field(
        description="What the stream has seen: registers of each channel, relays, energy.",
        examples=[{"channels": {"total": ["import_register"]}, "relays": [], "energy": True}],
    )


class DevicePage(Answer):
    items: list[Device]
    next_cursor: NextCursor


Values = create_model(
    "Values",
    __config__=ConfigDict(extra="forbid"),
    __doc__="What a reading says. A value that its message did not hold is left out.",
    **dict.fromkeys(VALUE_NAMES, (float | None, None)),  # type: ignore[call-overload]
)


class Channel(Answer):
    name: str
    capabilities: list[str] = Field(
        description="Which values its last 100 readings had.",
        examples=[["power_w", "voltage_v", "import_total_wh"]],
    )
    measured_at: datetime | None = Field(description="Of the newest reading.")
    received_at: datetime | None
    values: dict[str, float] = Field(
        description="The newest reading; what its message did not say is left out.",
        examples=[{"power_w": 1250.5, "import_total_wh": 15234560.0}],
    )


class StateField(Answer):
    channel: str | None = Field(description="Null: of the device itself.")
    field: str = Field(examples=["relay"])
    value: bool | int | float | str | None
    measured_at: datetime


class Contract(Answer):
    """What a model, or a family (`family:shelly`), promises. Seconds of stream time."""

    name: str
    family: str
    expected_interval_s: int
    late_after_s: int
    offline_after_s: int
    longest_gap_s: int | None
    capabilities: list[str]


class DeviceRecord(Answer):
    """What the registry knows of a device, without its readings."""

    device_id: int
    address: str
    family: str
    name: str | None
    home_id: str | None
    zone: str
    location: str | None
    model: str | None = Field(description="As it was set, else as the device says.")
    model_set: str | None
    firmware: str | None
    ip: str | None
    mac: str | None
    rssi_dbm: int | None = Field(description="Signal strength.")
    link_quality: int | None
    max_power_w: int | None
    gap_limit_s: int | None
    capabilities: dict[str, Any]
    first_seen_at: datetime
    claimed_at: datetime | None
    deleted_at: datetime | None
    presence: PresenceName | None
    presence_since_at: datetime | None
    heard_at: datetime | None = Field(description="Exact to a minute while it is online.")
    contract: Contract
    desired_version: int | None = Field(description="Of its configuration.")
    reported_version: int | None


class DeviceDetail(Device):
    first_seen_at: datetime
    claimed_at: datetime | None
    registry: DeviceRecord
    channel_details: list[Channel]
    state: list[StateField]


# ---------------------------------------------------------------- readings

Reading = create_model(
    "Reading",
    __base__=Values,
    __doc__="One channel at one instant. A value that its message did not hold is left out.",
    channel=(str, Field(examples=["total"])),
    measured_at=(datetime, ...),
    received_at=(datetime | None, None),
    seq=(int | None, None),
    clock=(_literal([one.name.lower() for one in Clock]) | None, None),
    source=(_literal([one.name.lower() for one in Source]) | None, None),
)


class Spread(Answer):
    """A value over a span of time; `avg` is the mean of its readings."""

    min: float
    max: float
    avg: float


Sampled = create_model(
    "Sampled",
    __config__=ConfigDict(extra="forbid"),
    __doc__="The readings of one channel in the span of `width_s` that begins at `start`.",
    channel=(str, ...),
    start=(datetime, ...),
    readings=(int, ...),
    **dict.fromkeys(VALUE_NAMES, (Spread | None, None)),  # type: ignore[call-overload]
)


class _Range(Answer):
    from_: datetime = Field(alias="from")
    to: datetime


class ReadingPage(_Range):
    """Readings of [from, to), by instant and channel."""

    device_id: int
    items: list[Reading]
    next_cursor: NextCursor


class SampledReadings(_Range):
    """Least, greatest and mean value in equal spans of time. Never more than one page."""

    device_id: int
    width_s: float
    items: list[Sampled]


# ---------------------------------------------------------------- usage


class Usage(Answer):
    """One window. What is not `complete` may still change."""

    start: datetime
    end: datetime
    energy_wh: float = Field(examples=[20.842])
    export_wh: float = Field(examples=[0.0])
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    readings: int
    quality: QualityName
    why: WhyName | None = Field(description="Null in complete buckets of 1 h and more.")
    revision: int | None = Field(description="0 while not complete; null from 1 h on.")
    complete: bool
    provisional_wh: float = Field(
        description="The part of energy_wh from minutes that are not complete, computed now."
    )
    provisional_export_wh: float


class Gap(Answer):
    """What a register gained while nobody saw how; in no minute, but in the ledger."""

    start: datetime
    end: datetime
    energy_wh: float
    export_wh: float
    why: WhyName


class UsagePage(_Range):
    """All windows that touch the range asked for; `from` and `to` are their outer ends."""

    device_id: int
    channels: list[str] = Field(description="The channels added up.")
    bucket: Bucket
    zone: str = Field(description="Of the civil days, weeks (from Monday) and months.")
    materialized_until: datetime | None = Field(
        description="Windows that end by then are complete and stored (null: none yet)."
    )
    provisional_until: datetime | None = Field(
        description="The end of the last minute computed from readings just now; null: none."
    )
    items: list[Usage]
    gaps: list[Gap] = Field(description="With bucket 1m only; larger ones contain them.")
