"""What a device says of itself: its state, field by field, and events."""

import msgspec

STATE_FIELDS: dict[str, type] = {
    "online": bool,
    "relay": bool,
    "firmware": str,
    "model": str,
    "mac": str,
    "ip": str,
    "rssi_dbm": int,
    "uptime_s": float,
    "switched_by": str,
    "link_quality": int,
    "alarm": str,
    "presence": str,
}
"""Every field that a state may have. `relay` is true when the load is connected; `presence`, one of
`schemas.presence.Presence`, is not said by the device but found by the stream.
"""

CONFIG_REPORT = "config_report"
"""The name of the `Event` with which a device says how it is set up: its attributes are settings,
and `config_version`, the version that it was given.
"""

StateValue = bool | int | float | str


class State(msgspec.Struct, gc=False):
    """Fields of a device (`channel` None) or of one of its channels that one message set."""

    measured_us: int
    fields: dict[str, StateValue]
    channel: str | None = None
    retained: bool = False


class Event(msgspec.Struct, gc=False):
    """Something that happened once: a button, an update's progress, an alert of the device."""

    name: str
    measured_us: int
    channel: str | None = None
    attributes: dict[str, StateValue | None] = msgspec.field(default_factory=dict)
