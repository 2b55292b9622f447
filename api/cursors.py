"""Cursors: where a page ended, as text that clients pass back unread.

A cursor carries a checksum over its place and over the question it belongs to, so that one that
is cut, altered or used with another question is refused instead of giving wrong rows. It is no
secret and gives no right.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import msgspec

from api.problems import bad_cursor

_SUM_BYTES = 8
_LONGEST = 200
Place = TypeVar("Place", bound=msgspec.Struct)
Row = TypeVar("Row")


def page_of(
    found: Sequence[Row], limit: int, place: Callable[[Row], msgspec.Struct], question: object
) -> tuple[Sequence[Row], str | None]:
    """A page of `limit` rows, of which one more was asked for, and the cursor of the next page."""
    page = found[:limit]
    return page, encode(place(page[-1]), question) if len(found) > limit else None


def encode(place: msgspec.Struct, question: object) -> str:
    body = msgspec.json.encode(place)
    return base64.urlsafe_b64encode(_sum(body, question) + body).rstrip(b"=").decode()


def decode(text: str, place: type[Place], question: object) -> Place:
    """The place that `encode` was given. Raises a 400 problem for any other text."""
    if len(text) > _LONGEST:
        raise bad_cursor("is too long")
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise bad_cursor("is not ours") from None
    body = raw[_SUM_BYTES:]
    if raw[:_SUM_BYTES] != _sum(body, question):
        raise bad_cursor("is altered, or belongs to other filters")
    try:
        found = msgspec.json.decode(body, type=place)
    except msgspec.DecodeError:
        raise bad_cursor("is of another version") from None
    if encode(found, question) != text:
        raise bad_cursor("is not ours")
    return found


def _sum(body: bytes, question: object) -> bytes:
    asked = msgspec.json.encode(question)
    return blake2b(asked + b"\0" + body, digest_size=_SUM_BYTES, person=b"meterstream cur").digest()
