"""A command to a device, and what becomes of it.

`accepted → sent → received → done | failed`, or from any of the first three `expired`,
`superseded` or `cancelled` (only while `accepted`). Moves are enforced in SQL.
"""

from enum import StrEnum
from typing import Any

import msgspec

from schemas.device import StateValue


class Kind(StrEnum):
    """What a device is to do. A `toggle` is an `on` or `off` from when it is accepted."""

    ON = "on"
    OFF = "off"
    TOGGLE = "toggle"
    REBOOT = "reboot"
    CONFIG = "config"
    CALIBRATE = "calibrate"
    RESET_ENERGY = "reset_energy"
    OTA = "ota"


SWITCHING = frozenset({Kind.ON, Kind.OFF, Kind.TOGGLE})


class CommandState(StrEnum):
    """Where a command is. `expired` says that nothing confirmed it in time."""

    ACCEPTED = "accepted"
    SENT = "sent"
    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


FINAL = frozenset(
    {
        CommandState.DONE,
        CommandState.FAILED,
        CommandState.EXPIRED,
        CommandState.SUPERSEDED,
        CommandState.CANCELLED,
    }
)


class CommandRequest(msgspec.Struct, gc=False):
    """One command on its way to its device, as on `energy.command.request.v1`.

    `command_id` is a UUIDv7 as text. `command_seq` rises by one per device and fits 31 bits: the
    number that protocols without room for an id echo (a Shelly's RPC `id`). Instants are µs since
    the epoch, UTC. `channel` is the relay (`switch:0`), None the whole device. `parameters` are
    what the kind needs: `config` its settings, `calibrate` its values, `ota` its manifest.
    """

    command_id: str
    command_seq: int
    device_id: int
    address: str
    kind: Kind
    channel: str | None
    parameters: dict[str, Any]
    issued_us: int
    expires_us: int
    issued_by: str


class CommandEvent(msgspec.Struct, gc=False):
    """One step of a command's life, as on `energy.command.event.v1`.

    `reason` says why a command failed or was dropped; `confirmed_by` is `answer` where the device
    said so itself, `state` where only its changed state tells.
    """

    command_id: str
    device_id: int
    address: str
    state: CommandState
    at_us: int
    kind: Kind | None = None
    channel: str | None = None
    reason: str | None = None
    confirmed_by: str | None = None
    issued_by: str | None = None


class Outcome(StrEnum):
    """What a device says of a command: the attribute `outcome` of the event ANSWER."""

    RECEIVED = "received"
    DONE = "done"
    FAILED = "failed"


ANSWER = "command_response"
"""The name of the `schemas.device.Event` that a decoder makes of a device's answer.

Its attributes: `command_id` (text) or `command_seq` (integer), `outcome`, where it failed
`reason`, and whatever else the device said (`was_on`, …). An answer to nobody's command (a bare
`{"relay": "on"}` of an old node) has neither id nor number.
"""

Answer = dict[str, StateValue | None]
