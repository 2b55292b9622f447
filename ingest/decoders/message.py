"""What a family's decoder is given, and what it is."""

from collections.abc import Callable, Mapping

import msgspec

from ingest.decoders.clock import instant_of
from ingest.decoders.json_bounds import json_type
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.reading import Clock
from schemas.units import DAY_US

OLDEST_US_BACK = 90 * DAY_US


class Message(msgspec.Struct, gc=False, frozen=True):
    """One message, with the address and the levels of its topic found already."""

    address: str
    words: tuple[str, ...]
    payload: bytes
    received_us: int
    retained: bool = False
    oldest_us_back: int = OLDEST_US_BACK


Decoder = Callable[[Message], Decoded]
"""Raises `Undecodable` and nothing else."""


def instant_in(said: Mapping[str, object], message: Message) -> tuple[int, Clock]:
    """The instant that an object's `ts` or `timestamp` says: see `instant_of`."""
    told = said.get("ts", said.get("timestamp"))
    if isinstance(told, bool) or not isinstance(told, int | float | str | None):
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"ts is a JSON {json_type(told)}; send Unix seconds, RFC 3339 or null",
        )
    return instant_of(told, message.received_us, message.oldest_us_back)
