"""Tasmota with its default FullTopic: `tele/<topic>/…` and `stat/<topic>/…`.

    tele/<topic>/SENSOR {"Time":"2018-02-15T17:37:10","ENERGY":{"Total":6.294,"Power":2635,
                         "ApparentPower":2650,"ReactivePower":282,"Factor":0.99,"Voltage":227,
                         "Current":11.661}}
    tele/<topic>/LWT    Online

`Time` is local and says no offset, so it is no clock; where the device sends one with an offset it
is believed. Energies are registers in kWh; `Today`, `Yesterday` and `Period` say nothing more.
A device with several meters says arrays: channel `channel:<n>` from 1, and their sums in `total`.
Relays are `relay:<n>` from 1. Source: tasmota/docs, Commands and Power-Monitoring.
"""

import re

from ingest.decoders.config_report import config_report
from ingest.decoders.device_state import relay_of, relay_word, require_online, rssi_of, state_fields
from ingest.decoders.json_bounds import (
    read_object,
    require_name,
    require_number,
    require_object,
)
from ingest.decoders.message import Message, instant_in
from ingest.decoders.quantities import says_something, values_of
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import State, StateValue
from schemas.reading import Reading

MOST_METERS = 8
_ENERGY = {
    "Power": "power_w",
    "Voltage": "voltage_v",
    "Current": "current_a",
    "Frequency": "frequency_hz",
    "Factor": "power_factor",
    "ApparentPower": "apparent_va",
    "ReactivePower": "reactive_var",
    "Total": "import_total_kwh",
    "ExportActive": "export_total_kwh",
}
_SUMMED = ("Power", "Current", "ApparentPower", "ReactivePower", "Total", "ExportActive")
_RELAY = re.compile(r"POWER([1-9]\d?)?", re.ASCII)
_FAHRENHEIT = "F"
_SETTINGS = {"STATUS": "Status", "STATUS3": "StatusLOG", "STATUS6": "StatusMQT"}
_NO_SETTINGS = frozenset({"Power", "MqttCount"})
_ABOUT = {"STATUS2": "StatusFWR", "STATUS5": "StatusNET"}

_Fields = dict[str, object]


def decode_telemetry(message: Message) -> Decoded:
    """Decode `tele/<topic>/<word>`: SENSOR and STATE; INFO1 and INFO2 for what they say of the
    device. Others say nothing.
    """
    match message.words[2]:
        case "SENSOR":
            return _decode_sensors(_with_time(read_object(message.payload)), message)
        case "STATE":
            return _decode_state(_with_time(read_object(message.payload)), message)
        case "INFO1" | "INFO2" as name:
            about = require_object(
                read_object(message.payload).get(name.capitalize()) or {}, name.capitalize()
            )
            return _about(
                {"model": about.get("Module"), "ver": about.get("Version"),
                 "ip": about.get("IPAddress")},
                message,
            )  # fmt: skip
    return Decoded(message.address)


def decode_will(message: Message) -> Decoded:
    """Decode `tele/<topic>/LWT`: `Online`, or `Offline` by the broker."""
    state = State(
        message.received_us, {"online": require_online(message.payload)}, retained=message.retained
    )
    return Decoded(message.address, states=[state])


def decode_answer(message: Message) -> Decoded:
    """Decode `stat/<topic>/<word>`: RESULT, POWER<n>, and what `Status 0` asks for: STATUS,
    STATUS3 and STATUS6 tell settings, STATUS2 and STATUS5 of the device, STATUS8, STATUS10 and
    STATUS11 what it measures.
    """
    word = message.words[2]
    if _RELAY.fullmatch(word):
        return _decode_relay(word, message)
    if word == "RESULT":
        return _states(read_object(message.payload), message.received_us, message)
    if word in _SETTINGS:
        settings = _within(message, _SETTINGS[word])
        settings = {name: value for name, value in settings.items() if name not in _NO_SETTINGS}
        return Decoded(message.address, events=[config_report(settings, message.received_us)])
    if word in _ABOUT:
        about = _within(message, _ABOUT[word])
        return _about(
            {"ver": about.get("Version"), "ip": about.get("IPAddress"), "mac": about.get("Mac")},
            message,
        )
    wrapped = {"STATUS8": "StatusSNS", "STATUS10": "StatusSNS", "STATUS11": "StatusSTS"}.get(word)
    if wrapped is None:
        return Decoded(message.address)
    decode = _decode_state if wrapped == "StatusSTS" else _decode_sensors
    return decode(_with_time(_within(message, wrapped)), message)


def _within(message: Message, name: str) -> _Fields:
    return require_object(read_object(message.payload).get(name), name)


def _decode_sensors(said: _Fields, message: Message) -> Decoded:
    measured_us, clock = instant_in(said, message)
    by_channel: dict[str, _Fields] = {}
    energy = said.get("ENERGY")
    if energy is not None:
        by_channel |= _meters(require_object(energy, "ENERGY"))
    for name, sensor in said.items():
        if name != "ENERGY" and isinstance(sensor, dict):
            climate = _climate(sensor, said.get("TempUnit"))
            if climate:
                by_channel[require_name(name, "a sensor")] = climate
    readings = []
    for channel, fields in by_channel.items():
        values = values_of(fields)
        if says_something(values):
            readings.append(Reading(channel, measured_us, values, clock))
    return Decoded(message.address, readings)


def _meters(energy: _Fields) -> dict[str, _Fields]:
    """By channel: `total`, and `channel:<n>` where a quantity is an array."""
    total: _Fields = {}
    channels: dict[str, _Fields] = {}
    for theirs, ours in _ENERGY.items():
        said = energy.get(theirs)
        if said is None:
            continue
        if not isinstance(said, list):
            total[ours] = said
            continue
        if len(said) > MOST_METERS:
            raise Undecodable(
                Reason.OUT_OF_RANGE,
                f"{theirs} has {len(said)} values; Tasmota has {MOST_METERS} meters at most",
            )
        numbers = [require_number(each, theirs) for each in said]
        for number, value in enumerate(numbers, start=1):
            channels.setdefault(f"channel:{number}", {})[ours] = value
        known = [value for value in numbers if value is not None]
        if theirs in _SUMMED and known and len(known) == len(numbers):
            total[ours] = round(sum(known), 6)
    return {"total": total} | channels


def _climate(sensor: _Fields, unit: object) -> _Fields:
    temperature = require_number(sensor.get("Temperature"), "Temperature")
    if temperature is not None and unit == _FAHRENHEIT:
        temperature = round((temperature - 32) / 1.8, 6)
    fields = {"temperature_c": temperature, "humidity_percent": sensor.get("Humidity")}
    return {name: value for name, value in fields.items() if value is not None}


def _decode_state(said: _Fields, message: Message) -> Decoded:
    measured_us, _ = instant_in(said, message)
    decoded = _states(said, measured_us, message)
    wifi = require_object(said.get("Wifi") or {}, "Wifi")
    fields = state_fields({"uptime": said.get("UptimeSec")})
    if wifi.get("Signal") is not None:  # RSSI is a percentage there
        fields["rssi_dbm"] = rssi_of(wifi["Signal"], "Wifi.Signal")
    if fields:
        decoded.states.append(State(measured_us, fields, retained=message.retained))
    return decoded


def _states(said: _Fields, measured_us: int, message: Message) -> Decoded:
    """What an object says of relays; the rest of an answer to a command says nothing."""
    states = []
    for key, value in said.items():
        found = _RELAY.fullmatch(key)
        if found is not None:
            closed: dict[str, StateValue] = {"relay": relay_of(value, key)}
            states.append(State(measured_us, closed, _relay(found), message.retained))
    return Decoded(message.address, states=states)


def _decode_relay(word: str, message: Message) -> Decoded:
    found, closed = _RELAY.fullmatch(word), relay_word(message.payload)
    if found is None or closed is None:
        raise Undecodable(
            Reason.WRONG_TYPE,
            f"{message.payload[:40]!r} is neither ON nor OFF; check the topic",
        )
    state = State(message.received_us, {"relay": closed}, _relay(found), message.retained)
    return Decoded(message.address, states=[state])


def _relay(found: re.Match[str]) -> str:
    return f"relay:{int(found[1] or 1)}"


def _about(about: _Fields, message: Message) -> Decoded:
    fields = state_fields(about)
    states = [State(message.received_us, fields, retained=message.retained)] if fields else []
    return Decoded(message.address, states=states)


def _with_time(said: _Fields) -> _Fields:
    """`Time` under the name that `instant_in` looks for, and no other."""
    return {**said, "ts": said.get("Time"), "timestamp": None}
