"""What of a record of the raw log tells whether a device is there. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from ingest.decoders.topic_table import decode, takes_retained
from schemas.decoded import Undecodable
from schemas.reading import Source
from schemas.topics import RawHeader
from streams.presence.watch import Heard

_HEADERS = 4  # that every message has
_IMPORT = Source.IMPORT.name.lower().encode()
_TOPICS_KEPT = 500_000
_is_status: dict[bytes, bool] = {}


class Tick(NamedTuple):
    shard: str
    tick_us: int


def read(headers: Sequence[tuple[str, bytes]], payload: bytes) -> Tick | Heard | None:
    """The tick or the message of a record; None for what is imported, or written by nobody of ours.

    Any message tells that its device is there, also one that is refused for what it holds.
    """
    try:
        if len(headers) >= _HEADERS and headers[0][0] == RawHeader.TOPIC:
            if headers[2][1] == _IMPORT:
                return None
            retained = headers[-1][0] == RawHeader.RETAINED
            at_us, topic = int(headers[1][1]), headers[0][1]
            says = _says_online(topic, payload, at_us, retained) if _states(topic) else None
            return Heard(at_us, says, retained)
        named = dict(headers)
        return Tick(named[RawHeader.SHARD].decode(), int(named[RawHeader.TICK]))
    except (KeyError, ValueError):
        return None


def _states(topic: bytes) -> bool:
    """Whether messages of the topic may say that the device is connected, or was."""
    known = _is_status.get(topic)
    if known is None:
        if len(_is_status) >= _TOPICS_KEPT:
            _is_status.clear()
        known = _is_status[topic] = takes_retained(topic.decode(errors="replace"))
    return known


def _says_online(topic: bytes, payload: bytes, at_us: int, retained: bool) -> bool | None:
    try:
        said = decode(topic.decode(errors="replace"), payload, at_us, retained=retained)
    except Undecodable:
        return None
    for state in said.states:
        online = state.fields.get("online") if state.channel is None else None
        if isinstance(online, bool):
            return online
    return None
