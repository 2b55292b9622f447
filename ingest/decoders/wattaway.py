"""WattAway's smart sockets: `devices/<id>/data` every 30 s, and `devices/<id>/status`.

    {"voltage": 229.8, "current": 5.67, "power": 1250.5, "energy": 15.2,
     "frequency"?, "power_factor"?, "timestamp"?: "2026-02-06 14:30:00"}
    {"voltage": 229.8, "channels": [{"channel": 1, "current": 0.5, "power": 100.0}]}

`energy` is the meter chip's register in kWh. `timestamp` is local time without an offset, so it
is no clock. Source: github.com/Dyjuen/wattaway, StoreDeviceDataRequest and DeviceDataService.
"""

from ingest.decoders.answers import answer_of
from ingest.decoders.device_state import online_word, relay_of, state_fields
from ingest.decoders.json_bounds import read_json, read_object, require_name, require_object
from ingest.decoders.message import Message, instant_in
from ingest.decoders.quantities import (
    FLAT_NAMES,
    flat_fields,
    missing_value,
    says_something,
    values_of,
)
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import State
from schemas.reading import Reading

_ACK_KEYS = ("command_id", "command", "ack")


def decode_data(message: Message) -> Decoded:
    """Decode what a socket measured: channel `total`, and `channel:<n>` for each of several."""
    said = read_object(message.payload)
    measured_us, clock = instant_in(said, message)
    by_channel = {"total": values_of(flat_fields(said))}
    for each in _channels(said):
        number = each.get("channel")
        if isinstance(number, bool) or not isinstance(number, int | str):
            raise Undecodable(
                Reason.MISSING_VALUE, "an entry of channels has no number; send channel"
            )
        name = require_name(f"channel:{number!s:.64}", "a channel")
        if name in by_channel:
            raise Undecodable(
                Reason.MALFORMED, f"{name} is there twice; send each channel once a message"
            )
        by_channel[name] = values_of(flat_fields(each))
    readings = [
        Reading(channel, measured_us, values, clock)
        for channel, values in by_channel.items()
        if says_something(values)
    ]
    if not readings:
        raise missing_value("the payload", FLAT_NAMES)
    fields = state_fields(said)
    states = [State(measured_us, fields, retained=message.retained)] if fields else []
    return Decoded(message.address, readings, states)


def decode_status(message: Message) -> Decoded:
    """Decode `online`, `offline`, an object of state fields, or a command's acknowledgement.

    An object that names a command is its answer, with all that it says.
    """
    online = online_word(message.payload)
    if online is not None:
        state = State(message.received_us, {"online": online}, retained=message.retained)
        return Decoded(message.address, states=[state])
    said = require_object(read_json(message.payload), "the status")
    measured_us, _ = instant_in(said, message)
    fields = state_fields(said)
    if "relay" not in fields and said.get("state") is not None:
        fields["relay"] = relay_of(said["state"], "state")
    events = []
    if any(key in said for key in _ACK_KEYS):
        events = [answer_of(said, measured_us)]
    if not fields and not events:
        raise missing_value("the status", ("status", "online", "relay", "rssi", *_ACK_KEYS))
    states = [State(measured_us, fields, retained=message.retained)] if fields else []
    return Decoded(message.address, states=states, events=events)


def _channels(said: dict[str, object]) -> list[dict[str, object]]:
    channels = said.get("channels")
    if channels is None:
        return []
    if not isinstance(channels, list):
        raise Undecodable(Reason.WRONG_TYPE, "channels is no array; send [{channel, power, …}]")
    return [require_object(each, "an entry of channels") for each in channels]
