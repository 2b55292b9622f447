"""JSON from strangers: bounds, one meaning only, and every fault with its reason."""

import json
import re
from itertools import accumulate
from typing import TypeVar

import msgspec

from schemas.decoded import Reason, Undecodable

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_TEXT = 200

FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a msgspec decoder raises, besides running out of memory."""

_T = TypeVar("_T")
_ANYTHING = msgspec.json.Decoder()
# The end of the payload ends an unterminated string, so no byte is looked at twice.
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*\\?(?:"|\Z)', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())
_NOT_FINITE = re.compile(rb"(?:^|[\s:\[,])[+-]?(?:nan|inf|infinity)(?=[\s,\]}]|$)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_:.-]{1,64}", re.ASCII)


def read_json(payload: bytes) -> object:
    """The value that the payload holds; everything in it looked at, whatever it is for."""
    value = read_typed(_ANYTHING, payload)
    if b"{" in payload:
        refuse_duplicate_keys(payload)
    return value


def read_object(payload: bytes) -> dict[str, object]:
    return require_object(read_json(payload), "the payload")


def read_typed(decoder: msgspec.json.Decoder[_T], payload: bytes) -> _T:
    require_bounds(payload)
    try:
        return decoder.decode(payload)
    except FAULTS as error:
        raise undecodable(error, payload) from error


def require_bounds(payload: bytes) -> None:
    """Refuse what is too large, not UTF-8 or too deep, also in fields that nobody reads."""
    require_size(payload)
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise undecodable(error, payload) from error
    if payload.count(b"{") + payload.count(b"[") > MAX_DEPTH and _depth(payload) > MAX_DEPTH:
        raise _too_deep()


def require_size(payload: bytes) -> None:
    if len(payload) > MAX_BYTES:
        raise Undecodable(
            Reason.TOO_LARGE,
            f"{len(payload)} bytes, at most {MAX_BYTES} are read; send smaller messages",
        )


def refuse_duplicate_keys(payload: bytes) -> None:
    """Refuse an object that says a key twice: which of the two is meant, nobody can know.

    The payload has passed `require_bounds` and a msgspec decoder, so it is JSON.
    """
    json.loads(payload, object_pairs_hook=_require_distinct, parse_int=float)


def undecodable(error: Exception, payload: bytes) -> Undecodable:
    """Say in our words what msgspec said in its own; the JSON path stays in the text."""
    text = str(error)
    if isinstance(error, RecursionError):
        return _too_deep()
    if isinstance(error, UnicodeDecodeError):
        return Undecodable(
            Reason.MALFORMED, f"not UTF-8 ({error.reason}); send the payload as UTF-8"
        )
    if not isinstance(error, msgspec.ValidationError):
        if _NOT_FINITE.search(payload):
            return Undecodable(
                Reason.NOT_FINITE, "holds NaN or Infinity; leave the value out instead"
            )
        return Undecodable(
            Reason.MALFORMED, f"not JSON: {text}; check what the device sends and its buffer size"
        )
    if text.startswith("Object missing"):
        return Undecodable(Reason.MISSING_VALUE, f"{text}; send it")
    if text.startswith(("Number out of range", "Integer value out of range")) or _BOUND.search(
        text
    ):
        return Undecodable(
            Reason.OUT_OF_RANGE, f"{text}; check the unit that the device sends, and its sensor"
        )
    return Undecodable(Reason.WRONG_TYPE, f"{text}; send a value of that type, numbers unquoted")


_BOUND = re.compile(r"^Expected `\w+`(?: of length)? [<>]=? ")


def require_object(value: object, what: str) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise Undecodable(
        Reason.WRONG_TYPE, f"{what} is a JSON {json_type(value)}; an object belongs there"
    )


def require_number(value: object, what: str) -> float | None:
    """A number that a double can hold, or null."""
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"{what} is a JSON {json_type(value)}; a number belongs there, without quotes",
        )
    try:
        return float(value)
    except OverflowError as error:
        raise Undecodable(
            Reason.OUT_OF_RANGE, f"{what} is beyond any number; check the sensor"
        ) from error


def require_text(value: object, what: str, longest: int = MAX_TEXT) -> str:
    """A text that a table and a terminal can show: no control characters, not endless."""
    if not isinstance(value, str):
        raise Undecodable(
            Reason.WRONG_TYPE, f"{what} is a JSON {json_type(value)}; a text belongs there"
        )
    if len(value) > longest or not value.isprintable():
        raise Undecodable(
            Reason.OUT_OF_RANGE,
            f"{what} is {value!r:.60}; at most {longest} printable characters are taken",
        )
    return value


def require_name(value: str, what: str) -> str:
    """The name of a channel or an event."""
    if _NAME.fullmatch(value):
        return value
    raise Undecodable(
        Reason.OUT_OF_RANGE,
        f"{what} is {value!r:.60}; a name is 1 to 64 letters, digits and any of _ : . -",
    )


def json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _require_distinct(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise Undecodable(
                Reason.MALFORMED, f"the key {key!r:.60} is there twice; send each key once"
            )
        seen.add(key)


def _depth(payload: bytes) -> int:
    brackets = _TEXT.sub(b"", payload).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _too_deep() -> Undecodable:
    return Undecodable(
        Reason.TOO_DEEP, f"nested more than {MAX_DEPTH} levels deep; send flatter objects"
    )
