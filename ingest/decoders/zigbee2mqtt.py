"""Zigbee2MQTT: `zigbee2mqtt/<name>` with JSON, a name having one to four levels.

    {"state":"ON","power":12,"current":0.06,"voltage":229,"energy":3.41,"linkquality":120}

`energy` is a register in kWh. `last_seen`, where it is switched on, is the clock; without it there
is none. Of a device with several meters `power_l2` belongs to `channel:2`, `power_phase_b` to `l2`;
`state` is `relay:0`, `state_l2` is `relay:2`. The `voltage` of a device with a battery is that of
its battery, in mV, and no reading. Source: zigbee2mqtt.io, usage/mqtt_topics_and_messages.
"""

import re

from ingest.decoders.clock import instant_of
from ingest.decoders.device_state import online_word, relay_of, require_online
from ingest.decoders.json_bounds import read_object, require_number, require_text
from ingest.decoders.message import Message
from ingest.decoders.quantities import says_something, values_of
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import State, StateValue
from schemas.reading import Clock, Reading

_QUANTITIES = {
    "power": "power_w",
    "voltage": "voltage_v",
    "current": "current_a",
    "ac_frequency": "frequency_hz",
    "power_factor": "power_factor",
    "power_apparent": "apparent_va",
    "power_reactive": "reactive_var",
    "energy": "import_total_kwh",
    "produced_energy": "export_total_kwh",
    "temperature": "temperature_c",
    "humidity": "humidity_percent",
}
_SUFFIXED = re.compile(r"([a-z_]+?)_(?:l([1-9])|phase_([abc]))", re.ASCII)
_PHASES = {"a": "l1", "b": "l2", "c": "l3"}
_MOST_LINK_QUALITY = 255


def decode_state(message: Message) -> Decoded:
    """Decode what a device says; an empty message deletes one that was retained."""
    if not message.payload:
        return Decoded(message.address)
    said = read_object(message.payload)
    measured_us, clock = _instant(said.get("last_seen"), message)
    by_channel: dict[str, dict[str, object]] = {}
    states: list[State] = []
    for key, value in said.items():
        if value is None:
            continue
        name, channel, number = _place(key)
        if name == "state" and isinstance(value, str) and value.upper() in ("ON", "OFF"):
            closed: dict[str, StateValue] = {"relay": relay_of(value, key)}
            states.append(State(measured_us, closed, f"relay:{number}", message.retained))
        elif name in _QUANTITIES and not (name == "voltage" and "battery" in said):
            by_channel.setdefault(channel, {})[_QUANTITIES[name]] = value
    if said.get("linkquality") is not None:
        quality: dict[str, StateValue] = {"link_quality": _link_quality(said["linkquality"])}
        states.append(State(measured_us, quality, retained=message.retained))
    readings = []
    for channel, fields in by_channel.items():
        values = values_of(fields)
        if says_something(values):
            readings.append(Reading(channel, measured_us, values, clock))
    return Decoded(message.address, readings, states)


def decode_availability(message: Message) -> Decoded:
    """Decode `<name>/availability`: `{"state":"online"}`, in old versions bare `online`."""
    online = online_word(message.payload)
    if online is None:
        word = require_text(read_object(message.payload).get("state"), "state")
        online = require_online(word.encode())
    state = State(message.received_us, {"online": online}, retained=message.retained)
    return Decoded(message.address, states=[state])


def decode_nothing(message: Message) -> Decoded:
    """What is said to a device, or by the bridge of itself, is no news of a device."""
    return Decoded(message.address)


def _place(key: str) -> tuple[str, str, int]:
    """Name, channel and relay number of an attribute."""
    found = _SUFFIXED.fullmatch(key)
    if found is None:
        return key, "total", 0
    if found[3]:
        return found[1], _PHASES[found[3]], 0
    return found[1], f"channel:{found[2]}", int(found[2])


def _instant(last_seen: object, message: Message) -> tuple[int, Clock]:
    """`last_seen` is text or ms since the epoch; `N/A` of a device that was never heard."""
    if isinstance(last_seen, bool) or not isinstance(last_seen, int | float | str):
        last_seen = None
    if isinstance(last_seen, str) and not last_seen[:4].isdigit():
        last_seen = None
    return instant_of(last_seen, message.received_us, message.oldest_us_back)


def _link_quality(value: object) -> int:
    number = require_number(value, "linkquality")
    if number is None or not 0 <= number <= _MOST_LINK_QUALITY:
        raise Undecodable(
            Reason.OUT_OF_RANGE, f"linkquality is {number}; it lies between 0 and 255"
        )
    return round(number)
