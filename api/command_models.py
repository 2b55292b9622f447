"""The shapes of questions and answers about commands, as OpenAPI tells them."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from api.home_models import Question, Text
from api.models import Answer, NextCursor

KindName = Literal["on", "off", "toggle", "reboot", "config", "calibrate", "reset_energy", "ota"]
StateName = Literal[
    "accepted", "sent", "received", "done", "failed", "expired", "superseded", "cancelled"
]
ByName = Literal["user", "rule", "schedule", "scene", "revert", "wall switch", "device"]
MOST_DEVICES = 200


class GiveCommand(Question):
    """What a device is to do."""

    kind: KindName
    channel: Text | None = Field(
        default=None,
        examples=["switch:0"],
        description="The relay; left out, the device's only one, or the whole device.",
    )
    parameters: dict[str, Any] = Field(
        default={}, description="Of `config`, `calibrate` and `ota`: what they need."
    )
    expires_in_s: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Never run later. Default 30 s for switching, else by kind.",
    )
    queue_while_offline: bool = Field(
        default=False, description="Wait for an offline device, until it expires."
    )
    revert_after_s: int | None = Field(
        default=None,
        description="Of `on` and `off`: taken back after so long, unless given again by then.",
    )
    confirm: bool = Field(
        default=False,
        description="Needed for `reboot calibrate reset_energy ota`, and for several devices.",
    )


class GiveCommands(GiveCommand):
    """What several devices are to do."""

    devices: list[Text] = Field(
        min_length=1, max_length=MOST_DEVICES, description="Ids, names or addresses."
    )


class OldCommand(Question):
    """PowerTrack's."""

    command: Literal["on", "off", "toggle"]
    relay: Annotated[int, Field(ge=0, le=99)] | None = None


class OldAnswer(Answer):
    """PowerTrack's. `newState` is what the relay will be; the command tells when it is."""

    success: Literal[True] = True
    newState: Literal["on", "off"]
    commandId: UUID


class Command(Answer):
    """A command, and what has become of it.

    `accepted → sent → received → done | failed`, or `expired`, `superseded`, `cancelled`.
    `expired` says that nothing confirmed it in time; `late_answer` is what the device said after
    that. `confirmed_by` is `answer` where the device said so, `state` where only its changed state
    tells.
    """

    id: UUID
    device_id: int
    seq: int = Field(description="Rises by one with each command of the device.")
    channel: str | None
    kind: KindName
    asked: KindName = Field(description="The kind that was asked for: a toggle is an on or off.")
    parameters: dict[str, Any]
    issued_by: str = Field(examples=["user:operator"])
    issued_at: datetime
    expires_at: datetime
    queue_while_offline: bool
    revert_after_s: int | None
    revert_at: datetime | None = Field(description="Null: nothing is to be taken back.")
    state: StateName
    reason: str | None
    confirmed_by: Literal["answer", "state"] | None
    sent_at: datetime | None
    ended_at: datetime | None
    late_answer: Literal["done", "failed"] | None
    superseded_by: UUID | None


class CommandEvent(Answer):
    """A step of a command's life; `late` ones came when it had ended, and moved nothing."""

    state: StateName
    at: datetime
    reason: str | None
    confirmed_by: str | None
    late: bool


class CommandDetail(Command):
    events: list[CommandEvent]


class CommandPage(Answer):
    items: list[Command]
    next_cursor: NextCursor


class Refused(Answer):
    """A device that did not take the command, and why."""

    device: str
    problem: str
    detail: str


class Commands(Answer):
    """What became of a command for several devices."""

    items: list[Command]
    refused: list[Refused]


class Switch(Answer):
    """A change of a relay, and who made it: `user:operator`, a rule, the wall switch, …"""

    channel: str | None
    at: datetime
    was_on: bool | None = Field(description="Null: it was heard for the first time.")
    is_on: bool
    by: ByName
    whom: str = Field(description="Which user or rule; of the device itself, its own word.")
    command_id: UUID | None


class SwitchPage(Answer):
    items: list[Switch]
    next_cursor: NextCursor


class CommandLimit(Question):
    switch_interval_s: float = Field(
        ge=0, le=86_400, allow_inf_nan=False, description="Least time between two switchings."
    )
