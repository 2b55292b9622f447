"""Shelly Gen1: `shellies/<id>/…`, mostly bare numbers and words, QoS 0, each 30 s.

Channels: `relay:N`, `emeter:N`, `temperature:0`. A relay's `energy` counts watt-minutes and
starts at 0 with the device: a register that resets. An emeter's `total` is Wh and persists.
Nothing has a clock, but `info`: its `unixtime` is 0 until the device knows the time.
Source: Shelly Gen1 API, MQTT; shellies/<id>/info is the answer of `/status`.
"""

from msgspec.json import Decoder

from ingest.decoders.clock import instant_of
from ingest.decoders.device_state import relay_word, require_online, state_fields
from ingest.decoders.json_bounds import (
    read_object,
    read_typed,
    require_bounds,
    require_number,
    require_object,
    require_text,
)
from ingest.decoders.message import Message
from ingest.decoders.quantities import says_something, values_of, watt_minutes_to_wh
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import Event, State, StateValue
from schemas.reading import Clock, Reading

_NUMBER = Decoder(float)
_EMETER = {
    "power": "power_w",
    "voltage": "voltage_v",
    "current": "current_a",
    "pf": "power_factor",
    "reactive_power": "reactive_var",
    "total": "import_total_wh",
    "total_returned": "export_total_wh",
}
_SINCE_LAST_PUBLISH = ("energy", "returned_energy")


def decode_relay(message: Message) -> Decoded:
    """Decode `relay/N`: `on`, `off` or `overpower`."""
    channel = f"relay:{_number(message.words[3])}"
    require_bounds(message.payload)
    fields: dict[str, StateValue]
    if message.payload.strip() == b"overpower":
        fields = {"relay": False, "alarm": "overpower"}
    else:
        closed = relay_word(message.payload)
        if closed is None:
            raise Undecodable(
                Reason.WRONG_TYPE,
                f"{message.payload[:40]!r} is none of on, off and overpower; check the topic",
            )
        fields = {"relay": closed}
    return Decoded(
        message.address, states=[State(message.received_us, fields, channel, message.retained)]
    )


def decode_relay_value(message: Message) -> Decoded:
    """Decode `relay/N/power` in W, `relay/N/energy` in watt-minutes."""
    channel, quantity = f"relay:{_number(message.words[3])}", message.words[4]
    number = read_typed(_NUMBER, message.payload)
    if quantity == "power":
        return _one_value(message, channel, "power_w", number)
    if quantity == "energy":
        return _one_value(message, channel, "import_total_wh", watt_minutes_to_wh(number))
    raise _unknown(message)


def decode_emeter_value(message: Message) -> Decoded:
    """Decode `emeter/N/<quantity>`; what counts since the last publish says nothing alone."""
    channel, quantity = f"emeter:{_number(message.words[3])}", message.words[4]
    number = read_typed(_NUMBER, message.payload)
    if quantity in _SINCE_LAST_PUBLISH:
        return Decoded(message.address)
    if quantity not in _EMETER:
        raise _unknown(message)
    return _one_value(message, channel, _EMETER[quantity], number)


def decode_temperature(message: Message) -> Decoded:
    number = read_typed(_NUMBER, message.payload)
    return _one_value(message, "temperature:0", "temperature_c", number)


def decode_input(message: Message) -> Decoded:
    """Check `input/N`; a wall switch's position is neither a value nor an event."""
    _number(message.words[3])
    read_typed(_NUMBER, message.payload)
    return Decoded(message.address)


def decode_input_event(message: Message) -> Decoded:
    """Decode `input_event/N`: `{"event": "S", "event_cnt": 3}`; an empty event is none."""
    said = read_object(message.payload)
    event = require_text(said.get("event"), "event")
    if not event:
        return Decoded(message.address)
    count = require_number(said.get("event_cnt"), "event_cnt")
    channel = f"input:{_number(message.words[3])}"
    attributes: dict[str, StateValue | None] = {"event": event, "event_cnt": count}
    return Decoded(
        message.address,
        events=[Event("input_event", message.received_us, channel, attributes)],
    )


def decode_online(message: Message) -> Decoded:
    online = require_online(message.payload)
    state = State(message.received_us, {"online": online}, retained=message.retained)
    return Decoded(message.address, states=[state])


def decode_announce(message: Message) -> Decoded:
    said = read_object(message.payload)
    named = said.get("id")
    if named is not None and named != message.words[1]:
        raise Undecodable(
            Reason.WRONG_IDENTITY,
            f"the announcement names {named!r:.60}; publish it on that device's topic",
        )
    fields = state_fields(said)
    if not fields:
        raise Undecodable(
            Reason.MISSING_VALUE, "the announcement has none of model, mac, ip, fw_ver; send them"
        )
    state = State(message.received_us, fields, retained=message.retained)
    return Decoded(message.address, states=[state])


def decode_info(message: Message) -> Decoded:
    """Decode `info`: the whole status."""
    said = read_object(message.payload)
    unixtime = require_number(said.get("unixtime"), "unixtime")
    measured_us, clock = instant_of(unixtime, message.received_us, message.oldest_us_back)
    return _decode_status(said, measured_us, clock, message)


def decode_polled(message: Message) -> Decoded:
    """Decode `/status`, asked over HTTP. It takes our clock, as all that such a device says over
    MQTT does: registers under two clocks would step back and forth.
    """
    said = read_object(message.payload)
    return _decode_status(said, message.received_us, Clock.RECEIVED_NO_CLOCK, message)


def _decode_status(
    said: dict[str, object], measured_us: int, clock: Clock, message: Message
) -> Decoded:
    decoded = Decoded(message.address)
    for number, meter in enumerate(_list(said, "meters")):
        _add(decoded, f"relay:{number}", _meter_fields(meter), measured_us, clock)
    for number, meter in enumerate(_list(said, "emeters")):
        fields = {ours: meter.get(name) for name, ours in _EMETER.items() if name in meter}
        fields.setdefault("reactive_var", meter.get("reactive"))
        if meter.get("is_valid") is not False:
            _add(decoded, f"emeter:{number}", fields, measured_us, clock)
    _add(decoded, "temperature:0", {"temperature_c": said.get("temperature")}, measured_us, clock)
    for number, relay in enumerate(_list(said, "relays")):
        closed = relay.get("ison")
        if isinstance(closed, bool):
            state = State(measured_us, {"relay": closed}, f"relay:{number}", message.retained)
            decoded.states.append(state)
    device = _device_fields(said)
    if device:
        decoded.states.append(State(measured_us, device, retained=message.retained))
    return decoded


def _meter_fields(meter: dict[str, object]) -> dict[str, object]:
    if meter.get("is_valid") is False:
        return {}
    energy_wmin = require_number(meter.get("total"), "meters.total")
    return {"power_w": meter.get("power"), "import_total_wh": watt_minutes_to_wh(energy_wmin)}


def _device_fields(said: dict[str, object]) -> dict[str, StateValue]:
    wifi = require_object(said.get("wifi_sta") or {}, "wifi_sta")
    update = require_object(said.get("update") or {}, "update")
    about: dict[str, object] = {name: said.get(name) for name in ("mac", "uptime")}
    if wifi.get("rssi"):
        about["rssi"] = wifi["rssi"]
    return state_fields(about | {"ip": wifi.get("ip"), "firmware": update.get("old_version")})


def _add(
    decoded: Decoded, channel: str, fields: dict[str, object], measured_us: int, clock: Clock
) -> None:
    values = values_of(fields)
    if says_something(values):
        decoded.readings.append(Reading(channel, measured_us, values, clock))


def _one_value(message: Message, channel: str, name: str, value: float | None) -> Decoded:
    reading = Reading(
        channel, message.received_us, values_of({name: value}), Clock.RECEIVED_NO_CLOCK
    )
    return Decoded(message.address, [reading])


def _list(said: dict[str, object], name: str) -> list[dict[str, object]]:
    entries = said.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise Undecodable(Reason.WRONG_TYPE, f"{name} is no array; check the firmware")
    return [require_object(each, f"an entry of {name}") for each in entries]


def _number(word: str) -> int:
    if word.isascii() and word.isdigit() and len(word) <= 3:
        return int(word)
    raise Undecodable(Reason.UNKNOWN_TOPIC, f"{word!r:.60} is no number of a relay, meter or input")


def _unknown(message: Message) -> Undecodable:
    return Undecodable(Reason.UNKNOWN_TOPIC, f"no quantity is named {message.words[4]!r:.60} there")
