"""What one message says, and why a message is refused."""

from enum import StrEnum

import msgspec

from schemas.device import Event, State
from schemas.reading import Reading


class Decoded(msgspec.Struct, gc=False):
    """Everything that one message of one device says. Any of the lists may be empty."""

    address: str
    readings: list[Reading] = msgspec.field(default_factory=list)
    states: list[State] = msgspec.field(default_factory=list)
    events: list[Event] = msgspec.field(default_factory=list)


class Reason(StrEnum):
    """Why a record was refused: the fixed list that counters and the dead letter topic use."""

    UNKNOWN_TOPIC = "unknown_topic"
    MALFORMED = "malformed"  # not UTF-8, not JSON, lone surrogates, duplicate keys
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"  # a text where a number belongs, a list for an object
    NOT_FINITE = "not_finite"
    MISSING_VALUE = "missing_value"  # nothing in it that could be a reading
    OUT_OF_RANGE = "out_of_range"
    WRONG_VERSION = "wrong_version"
    WRONG_IDENTITY = "wrong_identity"  # topic, key and payload name different devices
    TOO_OLD = "too_old"
    CLOCK_AHEAD = "clock_ahead"
    TOO_MANY_NEW = "too_many_new_devices"
    TOO_MANY_CHANNELS = "too_many_channels"
    UNSTORABLE = "unstorable"  # the database refused this row alone


class Undecodable(ValueError):
    """A message that cannot be a reading, a state or an event. `reason` is for counters."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
