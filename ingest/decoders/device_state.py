"""What devices say of themselves under many names, turned into the fields of a state."""

from collections.abc import Callable, Mapping

from ingest.decoders.json_bounds import json_type, require_number, require_text
from schemas.decoded import Reason, Undecodable
from schemas.device import StateValue

MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_TEXT = 1_000

_ONLINE = {"online": True, "true": True, "1": True, "offline": False, "false": False, "0": False}
_CLOSED = {
    "on": True, "closed": True, "true": True, "1": True,
    "off": False, "open": False, "false": False, "0": False,
}  # fmt: skip


def online_word(payload: bytes) -> bool | None:
    """What a bare `online`, `"offline"`, `true`, … says; None for anything else."""
    return _word(payload, _ONLINE)


def relay_word(payload: bytes) -> bool | None:
    """What a bare `on` or `off` says: true when the load is connected. None for anything else."""
    return _word(payload, _CLOSED)


def require_online(payload: bytes) -> bool:
    online = online_word(payload)
    if online is None:
        raise Undecodable(
            Reason.WRONG_TYPE, f"{payload[:40]!r} is neither online nor offline; send true or false"
        )
    return online


def relay_of(value: object, what: str) -> bool:
    """True when the load is connected: a closed contact, an output that is on."""
    return _one_of(value, _CLOSED, what)


def rssi_of(value: object, what: str) -> int:
    return round(_bounded(value, what, -200, 100))


def state_fields(said: Mapping[str, object]) -> dict[str, StateValue]:
    """The fields of a state that a flat object says; what it says besides is ignored."""
    fields: dict[str, StateValue] = {}
    for theirs, (ours, read) in _FIELDS.items():
        value = said.get(theirs)
        if value is not None and ours not in fields:
            fields[ours] = read(value, theirs)
    status = said.get("status")
    if isinstance(status, str) and status.lower() in ("online", "offline"):
        fields.setdefault("online", status.lower() == "online")
    return fields


def attributes_of(
    said: Mapping[str, object],
    leave_out: frozenset[str] = frozenset(),
    most: int = MAX_ATTRIBUTES,
) -> dict[str, StateValue | None]:
    """The scalars of an object, those of an object inside it as `outer.inner`; no lists."""
    attributes: dict[str, StateValue | None] = {}
    for name, value in said.items():
        if name in leave_out:
            continue
        inner = value.items() if isinstance(value, dict) else ()
        for path, scalar in ((name, value), *((f"{name}.{key}", each) for key, each in inner)):
            if isinstance(scalar, dict | list):
                continue
            if len(attributes) == most:
                raise Undecodable(
                    Reason.OUT_OF_RANGE,
                    f"an event has more than {most} attributes; send fewer",
                )
            attributes[require_text(path, "an attribute's name")] = _scalar(scalar, path)
    return attributes


def _scalar(value: object, what: str) -> StateValue | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return require_text(value, what, MAX_ATTRIBUTE_TEXT)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    return require_number(value, what)


def _word(payload: bytes, words: Mapping[str, bool]) -> bool | None:
    if len(payload) > 16:
        return None
    return words.get(payload.decode(errors="replace").strip().strip('"').lower())


def _one_of(value: object, words: Mapping[str, bool], what: str) -> bool:
    known = words.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if known is None:
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"{what} is {value!r:.40} ({json_type(value)}); send true or false",
        )
    return known


def _online_of(value: object, what: str) -> bool:
    return _one_of(value, _ONLINE, what)


def _uptime_of(value: object, what: str) -> float:
    return _bounded(value, what, 0, 1e10)


def _bounded(value: object, what: str, low: float, high: float) -> float:
    number = require_number(value, what)
    if number is None or not low <= number <= high:
        raise Undecodable(
            Reason.OUT_OF_RANGE, f"{what} is {number}; it lies between {low} and {high}"
        )
    return number


_FIELDS: dict[str, tuple[str, Callable[[object, str], StateValue]]] = {
    "online": ("online", _online_of),
    "relay": ("relay", relay_of),
    "relay_state": ("relay", relay_of),
    "rssi_dbm": ("rssi_dbm", rssi_of),
    "rssi": ("rssi_dbm", rssi_of),
    "wifi_rssi": ("rssi_dbm", rssi_of),
    "uptime_s": ("uptime_s", _uptime_of),
    "uptime_seconds": ("uptime_s", _uptime_of),
    "uptime": ("uptime_s", _uptime_of),
    "firmware": ("firmware", require_text),
    "firmware_version": ("firmware", require_text),
    "fw_ver": ("firmware", require_text),
    "ver": ("firmware", require_text),
    "model": ("model", require_text),
    "mac": ("mac", require_text),
    "ip": ("ip", require_text),
}
