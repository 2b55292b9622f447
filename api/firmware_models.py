"""The shapes of questions and answers about firmware, as OpenAPI tells them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.home_models import Question
from api.models import Answer

Percent = Annotated[Decimal, Field(ge=0, le=100, max_digits=6)]


class Signature(Question):
    key_id: str = Field(pattern="^[0-9a-f]{16}$")
    signature: str = Field(pattern="^[0-9a-f]{128}$")


class Envelope(Question):
    """A signed document, as `meterstream firmware sign` makes it."""

    payload: str = Field(max_length=8192, pattern="^[^\x00]*$")
    signatures: list[Signature] = Field(max_length=8)


class RootKnown(Answer):
    version: int
    expires: int = Field(description="Seconds since the epoch, UTC.")


class Firmware(Answer):
    model_config = ConfigDict(from_attributes=True)

    firmware_id: int
    sha256: str
    product: str
    hw_rev: str
    version: str
    security_counter: int
    size_bytes: int
    expires_at: datetime
    added_at: datetime
    has_image: bool = Field(description="Without it, it cannot be rolled out.")


class Firmwares(Answer):
    items: list[Firmware]


class StartRollout(Question):
    """Which part of the devices of the firmware's product gets it."""

    percent: Percent
    base_url: str = Field(
        max_length=200,
        pattern="^http://[^/\\s\x00]+$",
        description="Where nodes find this API, http://host:port.",
    )
    max_failed_percent: Percent = Field(
        default=Decimal(5), description="More failures than that halt it."
    )
    least_results: int = Field(
        default=10, ge=1, le=100_000, description="Fewer results are judged as if so many had come."
    )


class ChangeRollout(Question):
    """What is left out stays."""

    percent: Percent | None = None
    state: Literal["running", "halted"] | None = Field(
        default=None, description="`running` goes on after a halt and forgives what failed so far."
    )


class Rollout(Answer):
    model_config = ConfigDict(from_attributes=True)

    rollout_id: int
    firmware_id: int
    product: str
    version: str
    percent: Decimal
    max_failed_percent: Decimal
    least_results: int
    state: Literal["running", "halted", "stopped"]
    reason: str | None
    made_by: str
    made_at: datetime
    waiting: int
    sent: int
    done: int
    failed: int


class Rollouts(Answer):
    items: list[Rollout]


class RolloutDevice(Answer):
    model_config = ConfigDict(from_attributes=True)

    device_id: int
    address: str
    status: Literal["waiting", "sent", "done", "failed"]
    attempts: int
    reason: str | None
    changed_at: datetime


class RolloutDevices(Answer):
    items: list[RolloutDevice]
