"""Whether a device is there: states, why they changed, and the alert of one that is not."""

from datetime import datetime
from enum import StrEnum

import msgspec

from schemas.cost import Turn


class Presence(StrEnum):
    ONLINE = "online"
    LATE = "late"  # silent for longer than its model's contract allows
    OFFLINE = "offline"


class PresenceReason(StrEnum):
    """What made it so."""

    FIRST = "first"  # it was heard of for the first time
    HEARD = "heard"  # it spoke again
    SAID = "said"  # its last will, or its own word
    SILENCE = "silence"


class DeviceAlert(msgspec.Struct):
    """A device of a home went offline, or is back; as on `energy.alert.v1`.

    `alert_id` is the event's own and the same however often it is delivered. `at` is stream time;
    `raised_at` that of the alert which a cleared one takes back; `heard_at` when it last spoke.
    """

    alert_id: str
    home_id: str
    device_id: int
    address: str
    turn: Turn
    at: datetime
    reason: PresenceReason
    name: str | None = None
    heard_at: datetime | None = None
    raised_at: datetime | None = None
    kind: str = "device_offline"
