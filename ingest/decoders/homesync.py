"""Our own nodes, and PowerTrack's: `homesync/<home>/nodes/<node>/…`.

Two payloads on `…/telemetry/<metric>`: the envelope of `schemas.homesync`, and the bare ones that
PowerTrack's nodes send: a number, {"value": …}, {"node_id", "metric", "value"}, or several
quantities at once, {"power": …, "voltage": …, "ts": …}. Bare payloads say the channel `total`.
"""

import math
from typing import TYPE_CHECKING, Literal, get_args, get_type_hints

import msgspec
from msgspec.json import Decoder
from msgspec.structs import astuple

from ingest.decoders.answers import answer_of
from ingest.decoders.clock import instant_of
from ingest.decoders.device_state import (
    attributes_of,
    online_word,
    require_online,
    rssi_of,
    state_fields,
)
from ingest.decoders.json_bounds import (
    FAULTS,
    MAX_BYTES,
    json_type,
    read_json,
    refuse_duplicate_keys,
    require_bounds,
    require_name,
    require_object,
    require_size,
    require_text,
    undecodable,
)
from ingest.decoders.message import Message, instant_in
from ingest.decoders.quantities import (
    FLAT_NAMES,
    flat_fields,
    missing_value,
    says_something,
    values_of,
)
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import CONFIG_REPORT, Event, State, StateValue
from schemas.homesync import VERSION, Boot, Payload, Seq
from schemas.reading import VALUE_NAMES, Reading, Values

_ENVELOPE = Decoder(Payload)
_ENVELOPE_KEYS = frozenset({"v", "boot", "seq", "first", "channels"})
ENVELOPE_COLONS = 6  # after v, boot, seq, first, ts, channels
_VALUES = len(VALUE_NAMES)
_CHANNELS_KNOWN = 10_000
_colons_of_channel: dict[str, int] = {}


_value_types = get_type_hints(Values, include_extras=True)
if TYPE_CHECKING:
    Quantities = Values
else:
    Quantities = msgspec.defstruct(
        "Quantities",
        [(name, get_args(kind)[0], math.nan) for name, kind in _value_types.items()],
        gc=False,
        omit_defaults=True,
        forbid_unknown_fields=True,
    )
"""`Values` with NaN for what is not said: a column of numbers needs no objects."""


class Envelope(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """`schemas.homesync.Payload` for those who read very many: readings with a clock, nothing else.

    No null values, no state, no keys that nobody knows.
    """

    v: Literal[1]
    boot: Boot
    seq: Seq
    first: Seq
    ts: float
    channels: dict[str, Quantities]


read_envelope = Decoder(Envelope).decode
"""Raises `json_bounds.FAULTS` for all that is no such envelope. Left to the caller: `first` above
`seq`, an unprintable `boot`, keys that are there twice, whether the clock is to be believed.
"""


def decode_telemetry(message: Message) -> Decoded:
    """Decode what a node measured.

    A message whose colons are just those of the keys that were understood has no key twice,
    nothing deep and nothing that is not UTF-8: then the slow checks are left out.
    """
    payload = message.payload
    if len(payload) > MAX_BYTES:
        require_size(payload)
    try:
        said = _ENVELOPE.decode(payload)
    except FAULTS as error:
        return _decode_other(message, error)
    seq = said.seq
    if said.v != VERSION:
        raise _wrong_version(said.v)
    if said.first > seq:
        raise Undecodable(
            Reason.OUT_OF_RANGE,
            f"first {said.first} lies after seq {seq}; first is the oldest unacknowledged",
        )
    measured_us, clock = instant_of(said.ts, message.received_us, message.oldest_us_back)
    decoded = Decoded(message.address)
    readings = decoded.readings
    colons = ENVELOPE_COLONS
    for channel, values in said.channels.items():
        try:
            colons += _colons_of_channel[channel]
        except KeyError:
            colons += _colons_of(channel)
        unsaid = astuple(values).count(None)
        if unsaid != _VALUES:
            colons += _VALUES - unsaid
            readings.append(Reading(channel, measured_us, values, clock, seq))
    if (
        said.relay is not None
        or said.rssi_dbm is not None
        or said.firmware is not None
        or said.model is not None
    ):
        decoded.states = _states(said, measured_us, message.retained)
        colons += _colons_of_state(said)
    if payload.count(b":") != colons:
        require_bounds(payload)
        refuse_duplicate_keys(payload)
    if not said.boot.isprintable():
        require_text(said.boot, "boot")
    if not readings and not decoded.states:
        raise missing_value("every channel", VALUE_NAMES)
    return decoded


def decode_status(message: Message) -> Decoded:
    """Decode `…/status`: a bare `online` or `offline`, or an object of state fields."""
    measured_us, fields = message.received_us, dict[str, StateValue]()
    online = online_word(message.payload)
    if online is None:
        said = require_object(read_json(message.payload), "the payload")
        _require_own(said, message)
        measured_us, _ = instant_in(said, message)
        fields = state_fields(said)
    else:
        fields["online"] = online
    if not fields:
        raise missing_value("the status", ("status", "online", "relay", "rssi", "firmware_version"))
    return Decoded(message.address, states=[State(measured_us, fields, retained=message.retained)])


def decode_online(message: Message) -> Decoded:
    online = require_online(message.payload)
    state = State(message.received_us, {"online": online}, retained=message.retained)
    return Decoded(message.address, states=[state])


def decode_response(message: Message) -> Decoded:
    """Decode `…/response/command`: the node's own answer to a command."""
    said = require_object(read_json(message.payload), "the payload")
    _require_own(said, message)
    measured_us, _ = instant_in(said, message)
    return Decoded(message.address, events=[answer_of(said, measured_us)])


def decode_config(message: Message) -> Decoded:
    """Decode `…/response/config`: how the node is set up, and which version of it that is."""
    said = require_object(read_json(message.payload), "the payload")
    _require_own(said, message)
    measured_us, _ = instant_in(said, message)
    event = Event(CONFIG_REPORT, measured_us, attributes=attributes_of(said))
    return Decoded(message.address, events=[event])


def _decode_other(message: Message, error: Exception) -> Decoded:
    """Decode what is not an envelope, or say why the envelope is refused."""
    if not isinstance(error, ValueError):
        raise undecodable(error, message.payload) from error
    said = read_json(message.payload)
    if isinstance(said, dict) and not _ENVELOPE_KEYS.isdisjoint(said):
        version = said.get("v", VERSION)
        if isinstance(version, int) and version != VERSION:
            raise _wrong_version(version)
        raise undecodable(error, message.payload) from error
    return _decode_bare(said, message)


def _decode_bare(said: object, message: Message) -> Decoded:
    metric = FLAT_NAMES.get(message.words[-1])
    if isinstance(said, bool) or not isinstance(said, int | float | dict):
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"the payload is a JSON {json_type(said)}; send the envelope, an object or a number",
        )
    if isinstance(said, dict):
        _require_own(said, message)
        named = said.get("metric")
        if named is not None:
            metric = FLAT_NAMES.get(require_text(named, "metric"))
    else:
        said = {"value": said}
    fields = flat_fields(said, metric)
    if metric is None and "value" in said:
        raise Undecodable(
            Reason.UNKNOWN_TOPIC,
            f"no quantity is named {message.words[-1]!r:.60}; known are {', '.join(FLAT_NAMES)}",
        )
    values = values_of(fields)
    if not says_something(values):
        raise missing_value("the payload", FLAT_NAMES)
    measured_us, clock = instant_in(said, message)
    return Decoded(message.address, [Reading("total", measured_us, values, clock)])


def _require_own(said: dict[str, object], message: Message) -> None:
    node = said.get("node_id")
    if node is not None and node != message.words[3]:
        raise Undecodable(
            Reason.WRONG_IDENTITY,
            f"the payload names the node {node!r:.60}; publish it on that node's topic",
        )


def _colons_of(channel: str) -> int:
    """Colons of a channel's key and its name; names once found good are remembered."""
    colons = 1 + require_name(channel, "a channel").count(":")
    if len(_colons_of_channel) < _CHANNELS_KNOWN:
        _colons_of_channel[channel] = colons
    return colons


def _states(said: Payload, measured_us: int, retained: bool) -> list[State]:
    fields: dict[str, StateValue] = {}
    if isinstance(said.relay, bool):
        fields["relay"] = said.relay
    if said.rssi_dbm is not None:
        fields["rssi_dbm"] = rssi_of(said.rssi_dbm, "rssi_dbm")
    if said.firmware is not None:
        fields["firmware"] = require_text(said.firmware, "firmware")
    if said.model is not None:
        fields["model"] = require_text(said.model, "model")
    states = [State(measured_us, fields, retained=retained)] if fields else []
    if isinstance(said.relay, dict):
        for channel, closed in said.relay.items():
            require_name(channel, "a channel of relay")
            states.append(State(measured_us, {"relay": closed}, channel, retained))
    if said.switched_by is not None:
        switched_by = require_text(said.switched_by, "switched_by")
        for state in states:
            if "relay" in state.fields:
                state.fields["switched_by"] = switched_by
    return states


def _colons_of_state(said: Payload) -> int:
    scalars = (said.relay, said.rssi_dbm, said.firmware, said.model, said.switched_by)
    colons = sum(value is not None for value in scalars)
    if isinstance(said.relay, dict):
        colons += sum(1 + channel.count(":") for channel in said.relay)
    return colons


def _wrong_version(version: int) -> Undecodable:
    return Undecodable(
        Reason.WRONG_VERSION,
        f"v is {version!r:.20}, this decoder knows {VERSION}; replay it after the upgrade",
    )
