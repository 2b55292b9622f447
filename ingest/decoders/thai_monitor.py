"""The Thai electricity monitor: `home/<home>/sensor/…`, `home/<home>/device/<id>/…` and kin.

Three payloads: a bare number (or {"value", "ts"}) whose quantity the topic names; the short
{w, v, a, pf, ts}; and the full one with `schema_version` "1.0". Power + is import, - export.

A home's sensor topics belong to the device `main`, the circuit being its channel: `total`, `l1`,
`l2`, `l3`, the circuit's own id, and `device:<id>` for what the panel measures of one device.
Counters of a day, a month or a year (`energy/kwh/…`, `today_kwh`) begin anew with each period,
so they are no register: they are checked, and leave no reading.
"""

import msgspec

from ingest.decoders.answers import answer_of
from ingest.decoders.device_state import attributes_of, online_word, state_fields
from ingest.decoders.json_bounds import (
    json_type,
    read_json,
    require_bounds,
    require_name,
    require_number,
    require_object,
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
from schemas.device import Event, State
from schemas.reading import Reading, Values

PHASES = ("l1", "l2", "l3")
_PERIODS = ("daily", "monthly", "yearly")
_METRICS = {
    "power": "power_w",
    "voltage": "voltage_v",
    "current": "current_a",
    "frequency": "frequency_hz",
    "power_factor": "power_factor",
    "temperature": "temperature_c",
    "humidity": "humidity_percent",
}


class Power(msgspec.Struct):
    active: float | None = None
    reactive: float | None = None
    apparent: float | None = None


class Phases(msgspec.Struct):
    l1: float | None = None
    l2: float | None = None
    l3: float | None = None
    avg: float | None = None


class Energy(msgspec.Struct):
    total_kwh: float | None = None


class Thd(msgspec.Struct):
    voltage: float | None = None
    current: float | None = None


class Data(msgspec.Struct):
    power: Power | None = None
    voltage: Phases | None = None
    current: Phases | None = None
    power_factor: float | None = None
    frequency: float | None = None
    energy: Energy | None = None
    thd: Thd | None = None


class Full(msgspec.Struct):
    schema_version: str
    data: Data
    status: dict[str, object] | None = None


def decode_sensor(message: Message) -> Decoded:
    """Decode `home/<home>/sensor/<quantity>[/…]`."""
    if len(message.words) == 3:
        raise _unknown(message)
    quantity, *rest = message.words[3:]
    if quantity == "energy":
        return _check_counter(message, rest)
    if quantity not in _METRICS:
        raise _unknown(message)
    return _decode_measured(message, _channel_of(quantity, rest, message), _METRICS[quantity])


def decode_device_telemetry(message: Message) -> Decoded:
    """Decode what a device measured: channel `total`, and `l1` to `l3` where it says phases."""
    return _decode_measured(message, "total", None)


def decode_device_status(message: Message) -> Decoded:
    """Decode `online`, `offline`, state fields, and the answer to a command that it may name."""
    online = online_word(message.payload)
    if online is not None:
        state = State(message.received_us, {"online": online}, retained=message.retained)
        return Decoded(message.address, states=[state])
    said = _read_own(message)
    if _is_full(said):
        return _decode_full(said, message, "total")
    measured_us, _ = instant_in(said, message)
    fields = state_fields(said)
    events = []
    if said.get("command_id") is not None:
        events = [answer_of(said, measured_us)]
    if not fields and not events:
        raise missing_value("the status", ("status", "online", "relay", "rssi", "firmware_version"))
    states = [State(measured_us, fields, retained=message.retained)] if fields else []
    return Decoded(message.address, states=states, events=events)


def decode_alert(message: Message) -> Decoded:
    """Decode an alert that the device raised: an event named by its `type`, else `alert`."""
    said = _said_in_alert(message)
    measured_us, _ = instant_in(said, message)
    name = said.get("type", said.get("alert_type", "alert"))
    event = Event(
        require_name(require_text(name, "type"), "type"),
        measured_us,
        attributes=attributes_of(said, frozenset({"type", "alert_type", "ts", "timestamp"})),
    )
    return Decoded(message.address, events=[event])


def _decode_measured(message: Message, channel: str, metric: str | None) -> Decoded:
    said = read_json(message.payload)
    if isinstance(said, int | float) and not isinstance(said, bool) and metric is not None:
        said = {"value": said}
    said = require_object(said, "the payload")
    _require_own(said, message)
    if _is_full(said):
        return _decode_full(said, message, channel)
    values = values_of(flat_fields(said, metric))
    if not says_something(values):
        raise missing_value("the payload", ("value", *FLAT_NAMES))
    measured_us, clock = instant_in(said, message)
    return Decoded(message.address, [Reading(channel, measured_us, values, clock)])


def _is_full(said: dict[str, object]) -> bool:
    return "schema_version" in said or "data" in said


def _decode_full(said: dict[str, object], message: Message, channel: str) -> Decoded:
    version = said.get("schema_version")
    if isinstance(version, str) and version.split(".")[0] != "1":
        raise Undecodable(
            Reason.WRONG_VERSION,
            f"schema_version is {version!r:.20}, this decoder knows 1; replay it after the upgrade",
        )
    try:
        full = msgspec.convert(said, Full)
    except msgspec.ValidationError as error:
        raise undecodable(error, b"") from error
    measured_us, clock = instant_in(said, message)
    readings = [
        Reading(name, measured_us, values, clock)
        for name, values in _full_values(full.data, channel).items()
        if says_something(values)
    ]
    fields = state_fields(full.status or {})
    states = [State(measured_us, fields, retained=message.retained)] if fields else []
    if not readings and not states:
        raise missing_value("data", ("power", "voltage", "current", "frequency", "energy"))
    return Decoded(message.address, readings, states)


def _full_values(data: Data, channel: str) -> dict[str, Values]:
    power, energy, thd = data.power or Power(), data.energy or Energy(), data.thd or Thd()
    voltage, current = data.voltage or Phases(), data.current or Phases()
    total = values_of(
        {
            "power_w": power.active,
            "reactive_var": power.reactive,
            "apparent_va": power.apparent,
            "voltage_v": voltage.avg,
            "power_factor": data.power_factor,
            "frequency_hz": data.frequency,
            "import_total_kwh": energy.total_kwh,
            "thd_voltage_percent": thd.voltage,
            "thd_current_percent": thd.current,
        }
    )
    prefix = "" if channel == "total" else f"{channel}:"
    phases = {
        prefix + phase: values_of(
            {"voltage_v": getattr(voltage, phase), "current_a": getattr(current, phase)}
        )
        for phase in PHASES
    }
    return {channel: total} | phases


def _channel_of(quantity: str, rest: list[str], message: Message) -> str:
    match rest:
        case []:
            return "total"
        case [("total" | "l1" | "l2" | "l3") as channel]:
            return channel
        case ["circuit", circuit]:
            return require_name(circuit, "the circuit")
        case ["device", device]:
            return require_name(f"device:{device}", "the device's channel")
        case [place] if quantity in ("temperature", "humidity"):
            return require_name(place, "the place")
    raise _unknown(message)


def _check_counter(message: Message, rest: list[str]) -> Decoded:
    """Refuse what is no counter of a period; a good one leaves no reading."""
    if len(rest) != 2 or rest[0] != "kwh" or rest[1] not in _PERIODS:
        raise _unknown(message)
    said = read_json(message.payload)
    if isinstance(said, dict):
        _require_own(said, message)
        said = said.get("value", said.get("kwh", said.get("energy")))
    if require_number(said, "the counter") is None:
        raise missing_value("the payload", ("value", "kwh", "energy"))
    values_of({"import_total_kwh": said})
    return Decoded(message.address)


def _said_in_alert(message: Message) -> dict[str, object]:
    if message.payload.lstrip()[:1] in (b"{", b"[", b'"'):
        said = read_json(message.payload)
        if not isinstance(said, str):
            said = require_object(said, "the alert")
            _require_own(said, message)
            return said
        return {"message": said}
    require_bounds(message.payload)
    text = message.payload.decode().strip()
    if not text:
        raise missing_value("the alert", ("type", "message"))
    return {"message": text}


def _read_own(message: Message) -> dict[str, object]:
    said = require_object(read_json(message.payload), "the payload")
    _require_own(said, message)
    return said


def _require_own(said: dict[str, object], message: Message) -> None:
    """Refuse a payload that names another home or device than the address does.

    The panel's sensor topics (`home:<home>/main`) name no device, so any may stand in there.
    """
    home, device = message.address.removeprefix("home:").split("/")
    for key, ours in (("home_id", home), ("device_id", device)):
        theirs = said.get(key)
        if theirs is None or theirs == ours or (key == "device_id" and ours == "main"):
            continue
        raise Undecodable(
            Reason.WRONG_IDENTITY,
            f"{key} is {theirs!r:.60} where the topic says {ours!r:.60}; "
            f"publish a JSON string on the topics of its own ({json_type(theirs)} came)",
        )


def _unknown(message: Message) -> Undecodable:
    return Undecodable(
        Reason.UNKNOWN_TOPIC,
        "no sensor topic; known are power, voltage, current, frequency, power_factor, "
        "temperature, humidity and energy/kwh, with /total, /l1…/l3, /circuit/<id>, /device/<id>",
    )
