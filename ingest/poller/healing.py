"""What is asked of a meter for its stored minutes, and what its answer means. Pure."""

import json
from typing import NamedTuple

import msgspec

from ingest.decoders.topic_table import decode
from schemas.decoded import Undecodable
from schemas.units import HOUR_US, SECOND_US

PAGE_US = HOUR_US
"""So much is asked for at once: 60 records are some 25 kB, and a meter is a small computer."""
_METHODS = {"emdata": "EMData.GetData", "em1data": "EM1Data.GetData"}
_NO_SUCH_THING = frozenset({404, -105})
"""No handler for the method; the component does not exist."""


class Page(NamedTuple):
    """`[start_us, end_us)` of what a component stored."""

    component: str
    start_us: int
    end_us: int

    @property
    def request_id(self) -> str:
        return f"{self.component}@{self.start_us // SECOND_US}"


class Answer(NamedTuple):
    """What came of a page: all before `until_us` is here. `error` is the device's, then nothing is;
    `for_good`: asking again is no use.
    """

    until_us: int
    records: int
    error: str | None = None
    for_good: bool = False


class Reply(msgspec.Struct):
    """The part of a reply that decides how to go on."""

    id: object = None
    result: "Result | None" = None
    error: "RpcError | None" = None


class Result(msgspec.Struct):
    next_record_ts: float | None = None


class RpcError(msgspec.Struct):
    code: int = 0
    message: str = ""


def next_page(component: str, asked_until_us: int, end_us: int) -> Page:
    return Page(component, asked_until_us, min(end_us, asked_until_us + PAGE_US))


def request(prefix: str, page: Page) -> tuple[str, bytes]:
    """Topic and payload. The reply comes on `meterstream/<prefix>/rpc`, and into the raw log."""
    kind, _, number = page.component.partition(":")
    frame = {
        "id": page.request_id,
        "src": f"meterstream/{prefix}",
        "method": _METHODS[kind],
        "params": {
            "id": int(number),
            "ts": page.start_us // SECOND_US,
            "end_ts": page.end_us // SECOND_US - 1,  # the last record's start; both ends count
        },
    }
    return f"{prefix}/rpc", json.dumps(frame, separators=(",", ":")).encode()


def answer_to(page: Page, topic: str, payload: bytes, received_us: int) -> Answer | None:
    """What a reply says of a page; None where it answers something else."""
    try:
        reply = _reply(payload)
    except msgspec.DecodeError:
        return None
    if reply.id != page.request_id:
        return None
    if reply.error is not None:
        text = f"{reply.error.message[:200]} ({reply.error.code})"
        return Answer(page.start_us, 0, text, reply.error.code in _NO_SUCH_THING)
    try:
        readings = decode(topic, payload, received_us).readings
    except Undecodable as error:
        return Answer(page.start_us, 0, str(error))
    ends = {reading.measured_us for reading in readings}
    until_us = page.end_us
    if reply.result is not None and reply.result.next_record_ts is not None:
        next_us = round(reply.result.next_record_ts * SECOND_US)
        if page.start_us < next_us < page.end_us:
            until_us = next_us
    return Answer(until_us, len(ends))


_reply = msgspec.json.Decoder(Reply).decode
