"""The shapes of questions and answers about the registry, as OpenAPI tells them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field, JsonValue

from api.home_models import Exact, Question, Text
from api.instants import Instant
from api.models import Answer, Contract, DeviceRecord, PresenceName

# ---------------------------------------------------------------- a device


class ChangeDevice(Question):
    """What is left out stays; null takes back what a person had set."""

    name: Text | None = None
    location: Text | None = None
    zone: Text | None = Field(default=None, examples=["Asia/Bangkok"])
    model: Text | None = Field(default=None, examples=["SPEM-003CEBEU"])
    ip: Text | None = Field(default=None, examples=["192.0.2.7"])
    mac: Text | None = Field(default=None, examples=["3C:61:05:12:34:56"])
    max_power_w: int | None = Field(default=None, gt=0, lt=2**31)
    gap_limit_s: int | None = Field(default=None, gt=0, lt=2**31)


class Sensor(Answer):
    channel: Text = Field(examples=["total"])
    type: Text = Field(examples=["PZEM-004T"])
    address: Text | None = Field(default=None, description="On its bus, or its pin.")
    ct_ratio: Exact | None = Field(default=None, gt=0, max_digits=12, decimal_places=6)
    calibration: dict[str, float] = Field(default={}, examples=[{"power_w": 1.02}], max_length=64)


class Sensors(Answer):
    items: list[Sensor]


# ---------------------------------------------------------------- configuration

Settings = dict[str, JsonValue]


class SetConfig(Question):
    config: Settings = Field(examples=[{"interval_s": 10, "relays": {"restore": True}}])


class ConfigVersion(Answer):
    version: int
    config: Settings
    set_by: str
    set_at: datetime


class ConfigVersions(Answer):
    """The newest first."""

    items: list[ConfigVersion]


class Difference(Answer):
    setting: str = Field(examples=["relays.restore"])
    desired: JsonValue
    reported: JsonValue = Field(description="Null where the device has not told it.")


class Configuration(Answer):
    desired: ConfigVersion | None
    reported: Settings = Field(description="The device's newest word on each setting.")
    reported_version: int | None
    reported_at: datetime | None
    in_step: bool
    differences: list[Difference]


# ---------------------------------------------------------------- owners and claims


class Move(Question):
    home_id: Text
    at: Instant | None = Field(default=None, description="Default: now.")


class Ownership(Answer):
    """The device was of the home in `[valid_from, valid_to)`; null: it still is."""

    home_id: str
    valid_from: datetime
    valid_to: datetime | None


class Owners(Answer):
    items: list[Ownership]


class MakeCode(Question):
    code: Text | None = Field(default=None, description="8 letters; default: drawn by lot.")
    days: int = Field(default=30, ge=1, le=366)


class ClaimCode(Answer):
    """It is shown once."""

    code: str = Field(examples=["K7RZ2QWM"])
    expires_at: datetime


class ClaimByCode(Question):
    code: Text = Field(examples=["K7RZ-2QWM"])
    home_id: Text
    name: Text | None = None


class AskForProof(Question):
    device: Text = Field(description="An address, name or id.")
    home_id: Text
    name: Text | None = None


class Proof(Answer):
    proof_id: UUID
    device_id: int
    home_id: str
    expires_at: datetime
    what_to_do: str


class Claimed(Answer):
    """`device` is null until its button was pressed or its relay switched."""

    device: DeviceRecord | None


# ---------------------------------------------------------------- presence and models


class PresenceChange(Answer):
    """From `since_at` on it was so; `heard_at` is when it had last been heard."""

    since_at: datetime
    state: PresenceName
    reason: str = Field(examples=["first", "heard", "said", "silence"])
    heard_at: datetime | None
    home_id: str | None


class Gap(Answer):
    start_at: datetime
    end_at: datetime | None = Field(description="Null: it is still silent.")


class PresenceHistory(Answer):
    """Changes, the newest first, and the silences of the last 30 days."""

    device_id: int
    state: PresenceName | None
    since_at: datetime | None
    heard_at: datetime | None
    rssi_dbm: int | None
    contract: Contract
    items: list[PresenceChange]
    gaps: list[Gap]


class SetModel(Question):
    family: Text = Field(examples=["shelly"])
    expected_interval_s: int = Field(gt=0, le=2_592_000)
    late_after_s: int = Field(gt=0, le=2_592_000)
    offline_after_s: int = Field(gt=0, le=2_592_000)
    longest_gap_s: int | None = Field(default=None, gt=0, le=2_592_000)
    capabilities: list[Text] = Field(default=[], max_length=32)


class Models(Answer):
    items: list[Contract]


def described(found: Any) -> DeviceRecord:
    """The answer for a `sinks.device_details.DeviceDetails`."""
    return DeviceRecord.model_validate(found, from_attributes=True)
