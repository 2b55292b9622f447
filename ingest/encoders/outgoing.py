"""What an encoder makes of a command, and what all encoders need for it."""

import re
from collections.abc import Callable
from enum import StrEnum

import msgspec

from schemas.command import CommandRequest
from schemas.units import SECOND_US

MAX_PAYLOAD_BYTES = 32 * 1024
MAX_TOPIC = 512


class AnsweredBy(StrEnum):
    """How it will be known that the command ran."""

    ID = "id"  # the device says the command's id
    SEQ = "seq"  # the device says the command's number
    STATE = "state"  # only the state that the device reports afterwards tells
    NOTHING = "nothing"  # nobody will ever know


class Outgoing(msgspec.Struct, gc=False, frozen=True):
    """One MQTT message to a device: QoS 1, never retained.

    `repeatable`: the device runs a command id at most once and looks at its expiry itself, so it
    may be sent again. Any other message is sent once.
    """

    topic: str
    payload: bytes
    answered_by: AnsweredBy
    repeatable: bool = False


class NotForThisFamily(ValueError):
    """The device cannot do this. The text is for the person who asked for it."""


Encoder = Callable[[CommandRequest], Outgoing]
"""Raises `NotForThisFamily` and nothing else."""

_NUMBERED = re.compile(r"[A-Za-z_]*:?(\d{1,2})", re.ASCII)
_WHOLE_DEVICE = frozenset({None, "total", ""})


def names_in(request: CommandRequest) -> list[str]:
    """What stands behind the family in the address, split at slashes."""
    return request.address.partition(":")[2].split("/")


def relay_number(request: CommandRequest, first: int) -> int:
    """Which relay is meant: the number in the channel's name, `first` where none is named."""
    if request.channel in _WHOLE_DEVICE:
        return first
    found = _NUMBERED.fullmatch(request.channel or "")
    if found is None or int(found[1]) < first:
        raise NotForThisFamily(
            f"no relay is named {request.channel!r:.60}; name one by its number, from {first}"
        )
    return int(found[1])


def cannot(request: CommandRequest, family: str) -> NotForThisFamily:
    return NotForThisFamily(f"{family} has no {request.kind}")


def sound_topic(topic: str) -> str:
    """A topic that can be published on: no wildcard, no empty level, no tree of the broker's."""
    if (
        len(topic) > MAX_TOPIC
        or topic.startswith("$")
        or not topic.isprintable()
        or any(sign in topic for sign in "+#")
        or not all(topic.split("/"))
    ):
        raise NotForThisFamily(f"no command can be published on {topic!r:.80}; check the address")
    return topic


def json_payload(value: object) -> bytes:
    payload = msgspec.json.encode(value)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise NotForThisFamily(
            f"the command has {len(payload)} bytes; a device takes {MAX_PAYLOAD_BYTES}"
        )
    return payload


def whole_seconds(instant_us: int) -> int:
    """Unix seconds, rounded down: many devices count in 32 bits, or in floats of 24."""
    return instant_us // SECOND_US


def require_settings(request: CommandRequest) -> dict[str, object]:
    """The parameters of a `config` or `calibrate`."""
    if not request.parameters:
        raise NotForThisFamily(f"a {request.kind} without parameters changes nothing; send some")
    return request.parameters
