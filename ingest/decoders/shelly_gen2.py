"""Shelly Gen2, Gen3 and Pro: notifications, component status and RPC replies.

Channels are the component keys (`switch:0`, `em1:2`, `pm1:0`, `temperature:0`); the three-phase
meter's are `total`, `l1`, `l2`, `l3`, and the neutral `n`. Registers of `emdata:0` and `em1data:N`
belong to the channels of `em:0` and `em1:N`. Power + is import, - export.

Energies are Wh, but `by_minute` mWh. Where `ret_aenergy` is said, `aenergy` holds both directions.
Notifications are overlays: only what they say is decoded. A switch's own temperature goes with its
electrical values, and alone makes no reading: a relay that does not meter has none.
Source: Shelly Gen2 API, General/Notifications and ComponentsAndServices.
"""

import re
from collections.abc import Callable

from ingest.decoders.answers import answer_of, is_seq
from ingest.decoders.clock import instant_of
from ingest.decoders.config_report import config_report
from ingest.decoders.device_state import (
    attributes_of,
    require_online,
    rssi_of,
    state_fields,
)
from ingest.decoders.json_bounds import (
    read_object,
    require_name,
    require_number,
    require_object,
    require_text,
)
from ingest.decoders.message import Message
from ingest.decoders.quantities import NOTHING, values_of
from ingest.decoders.shelly_config import settings_in
from ingest.decoders.shelly_records import asks_for_records, readings_in
from schemas.decoded import Decoded, Reason, Undecodable
from schemas.device import Event, State, StateValue
from schemas.reading import Clock, Reading
from schemas.units import MINUTE_US, SECOND_US

_DEVICE_ID = re.compile(r"shelly[a-z0-9]+-[0-9a-f]{12}", re.ASCII)
_ELECTRICAL = frozenset({"power_w", "voltage_v", "current_a", "import_total_wh", "export_total_wh"})
_PHASES = {"a": "l1", "b": "l2", "c": "l3"}
_EVENT_KEYS = frozenset({"component", "event", "id", "ts"})


class _Said:
    """What a message says, gathered by channel while its components are gone through."""

    def __init__(self, measured_us: int, clock: Clock) -> None:
        self.measured_us = measured_us
        self.clock = clock
        self.values: dict[str, dict[str, object]] = {}
        self.states: dict[str | None, dict[str, StateValue]] = {}

    def add_values(self, channel: str, **fields: object) -> None:
        said = {name: value for name, value in fields.items() if value is not None}
        self.values.setdefault(channel, {}).update(said)

    def add_state(self, channel: str | None, **fields: StateValue) -> None:
        self.states.setdefault(channel, {}).update(fields)

    def decoded(self, message: Message) -> Decoded:
        readings = []
        for channel, fields in self.values.items():
            values = values_of(fields)
            if values != NOTHING:
                readings.append(Reading(channel, self.measured_us, values, self.clock))
        states = [
            State(self.measured_us, fields, channel, message.retained)
            for channel, fields in self.states.items()
            if fields
        ]
        return Decoded(message.address, readings, states)


def decode_notification(message: Message) -> Decoded:
    """Decode `<prefix>/events/rpc`: NotifyStatus, NotifyFullStatus, NotifyEvent."""
    frame = read_object(message.payload)
    _require_own(frame, message)
    method = frame.get("method")
    params = require_object(frame.get("params"), "params")
    if method in ("NotifyStatus", "NotifyFullStatus"):
        return _decode_components(params, params.get("ts"), message)
    if method == "NotifyEvent":
        return _decode_events(params, message)
    raise Undecodable(
        Reason.MISSING_VALUE,
        f"method is {method!r:.60}; known are NotifyStatus, NotifyFullStatus and NotifyEvent",
    )


def decode_component(message: Message) -> Decoded:
    """Decode `<prefix>/status/<component>`: all of one component, without a clock."""
    return _decode_components({message.words[-1]: read_object(message.payload)}, None, message)


def decode_online(message: Message) -> Decoded:
    online = require_online(message.payload)
    state = State(message.received_us, {"online": online}, retained=message.retained)
    return Decoded(message.address, states=[state])


def decode_reply(message: Message) -> Decoded:
    """Decode an RPC reply: a device's full status like a notification, others as events.

    An `id` that can be a command's number makes it the answer to that command, any other id an
    `rpc_reply`: whoever asks for something else than a command asks with a text as id. What
    `Shelly.GetConfig` and `Sys.GetConfig` answer is a report of the device's configuration, too.
    """
    frame = read_object(message.payload)
    _require_own(frame, message)
    request_id = frame.get("id")
    said: dict[str, object] = {}
    config = None
    if frame.get("error") is not None:
        error = require_object(frame["error"], "error")
        said = {"error": True, "code": error.get("code"), "message": error.get("message")}
    result = frame.get("result")
    if isinstance(result, dict):
        if asks_for_records(request_id):
            return Decoded(message.address, readings_in(result, str(request_id), message))
        config = settings_in(result)
        if config is None and any(key.partition(":")[0] in _COMPONENTS for key in result):
            return _decode_components(result, _clock_of(result), message)
        said |= {} if config else result
    if is_seq(request_id):
        event = answer_of(
            {**said, "command_seq": request_id}, message.received_us, frozenset({"id", "error"})
        )
    else:
        attributes = attributes_of(said, frozenset({"error"})) | attributes_of({"id": request_id})
        event = Event("rpc_reply", message.received_us, attributes=attributes)
    reply = Decoded(message.address, events=[event])
    if config is not None:
        reply.events.append(config_report(config, message.received_us))
    if not isinstance(result, dict):
        return reply
    about = {key: result[key] for key in ("model", "mac", "ver") if key in result}
    if about:
        state = State(message.received_us, state_fields(about), retained=message.retained)
        reply.states.append(state)
    return reply


def decode_polled(message: Message) -> Decoded:
    """Decode the bare result of `Shelly.GetStatus`, asked over HTTP."""
    status = read_object(message.payload)
    return _decode_components(status, _clock_of(status), message)


def _clock_of(status: dict[str, object]) -> object:
    """A full status has no `ts`: the device's clock, in whole seconds, null until it is set."""
    return require_object(status.get("sys") or {}, "sys").get("unixtime")


def _decode_components(components: dict[str, object], ts: object, message: Message) -> Decoded:
    measured_us, clock = _instant(ts, message)
    said = _Said(measured_us, clock)
    for key, status in components.items():
        component, _, number = key.partition(":")
        read = _COMPONENTS.get(component)
        if read is None:
            continue
        require_name(key, "a component")
        status = require_object(status, key)
        try:
            read(said, key, number or "0", status)
        except Undecodable as error:
            raise Undecodable(error.reason, f"{key}: {error}") from error
    try:
        return said.decoded(message)
    except Undecodable as error:
        raise Undecodable(error.reason, f"{', '.join(components)[:200]}: {error}") from error


def _decode_events(params: dict[str, object], message: Message) -> Decoded:
    measured_us, _ = _instant(params.get("ts"), message)
    said = params.get("events")
    if not isinstance(said, list):
        raise Undecodable(Reason.WRONG_TYPE, "params.events is no array; check the firmware")
    events = []
    for each in said:
        event = require_object(each, "an event")
        name = require_name(require_text(event.get("event"), "event"), "event")
        component = require_name(require_text(event.get("component"), "component"), "component")
        attributes = attributes_of(event, _EVENT_KEYS)
        events.append(Event(name, measured_us, component, attributes))
        if name == "config_changed" and "cfg_rev" in event:
            events.append(config_report({"sys": {"cfg_rev": event["cfg_rev"]}}, measured_us))
    return Decoded(message.address, events=events)


def _instant(ts: object, message: Message) -> tuple[int, Clock]:
    return instant_of(require_number(ts, "ts"), message.received_us, message.oldest_us_back)


def _require_own(frame: dict[str, object], message: Message) -> None:
    """Refuse another device's frame; a custom prefix is no id, and tells nothing."""
    src = frame.get("src")
    if src is None:
        return
    prefix = message.address.partition(":")[2]
    if require_text(src, "src") != prefix and _DEVICE_ID.fullmatch(prefix):
        raise Undecodable(
            Reason.WRONG_IDENTITY,
            f"src is {src!r:.60} on the topic of {prefix}; give the device its own prefix",
        )


def _read_meter(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    """`switch`, `pm1`, `cover`, `light`."""
    fields: dict[str, object] = {
        "power_w": status.get("apower"),
        "voltage_v": status.get("voltage"),
        "current_a": status.get("current"),
        "power_factor": status.get("pf"),
        "frequency_hz": status.get("freq"),
    }
    fields |= _registers(status, said)
    fields = {name: value for name, value in fields.items() if value is not None}
    if not _ELECTRICAL.isdisjoint(fields):
        said.add_values(key, temperature_c=_degrees(status), **fields)
    output, source = status.get("output"), status.get("source")
    if isinstance(output, bool):
        said.add_state(key, relay=output)
    elif output is not None:
        raise Undecodable(Reason.WRONG_TYPE, "output is no boolean; check the firmware")
    if source is not None:
        said.add_state(key, switched_by=require_text(source, "source"))
    _read_errors(said, key, status.get("errors"))


def _registers(status: dict[str, object], said: _Said) -> dict[str, object]:
    if status.get("aenergy") is None:
        return {}
    both = require_object(status["aenergy"], "aenergy")
    back = require_object(status.get("ret_aenergy") or {}, "ret_aenergy")
    both_wh = require_number(both.get("total"), "aenergy.total")
    export_wh = require_number(back.get("total"), "ret_aenergy.total")
    import_wh = both_wh
    if both_wh is not None and export_wh is not None:
        import_wh = round(both_wh - export_wh, 6)
    minute = {} if both_wh is None else _minute(both, back, said)
    return {"import_total_wh": import_wh, "export_total_wh": export_wh} | minute


def _minute(both: dict[str, object], back: dict[str, object], said: _Said) -> dict[str, object]:
    """The energy of the minute that ends at this message's very instant, else nothing.

    `by_minute[0]` is the complete minute before `minute_ts`. Firmware up to 1.1 does not align
    `minute_ts` to whole minutes, and means another minute by it.
    """
    ends_s = require_number(both.get("minute_ts"), "aenergy.minute_ts")
    if ends_s is None or said.clock is not Clock.DEVICE or said.measured_us % MINUTE_US:
        return {}
    if ends_s * SECOND_US != said.measured_us:
        return {}
    both_mwh, back_mwh = _last_minute(both, "aenergy"), _last_minute(back, "ret_aenergy")
    if both_mwh is None or (back_mwh or 0) > both_mwh:
        return {}
    import_wh = round((both_mwh - (back_mwh or 0)) / 1000, 9)
    return {"interval_s": 60, "interval_import_wh": import_wh}


def _last_minute(counter: dict[str, object], what: str) -> float | None:
    minutes = counter.get("by_minute")
    if minutes is None or minutes == []:
        return None
    if not isinstance(minutes, list):
        raise Undecodable(Reason.WRONG_TYPE, f"{what}.by_minute is no array; check the firmware")
    return require_number(minutes[0], f"{what}.by_minute")


def _read_em(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    for letter, phase in _PHASES.items():
        said.add_values(
            _phase(number, phase),
            power_w=status.get(f"{letter}_act_power"),
            voltage_v=status.get(f"{letter}_voltage"),
            current_a=status.get(f"{letter}_current"),
            apparent_va=status.get(f"{letter}_aprt_power"),
            power_factor=status.get(f"{letter}_pf"),
            frequency_hz=status.get(f"{letter}_freq"),
        )
        _read_errors(said, _phase(number, phase), status.get(f"{letter}_errors"))
    said.add_values(_phase(number, "n"), current_a=status.get("n_current"))
    said.add_values(
        _phase(number, "total"),
        power_w=status.get("total_act_power"),
        current_a=status.get("total_current"),
        apparent_va=status.get("total_aprt_power"),
    )
    _read_errors(said, _phase(number, "total"), status.get("errors"))


def _read_emdata(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    for letter, phase in _PHASES.items():
        said.add_values(
            _phase(number, phase),
            import_total_wh=status.get(f"{letter}_total_act_energy"),
            export_total_wh=status.get(f"{letter}_total_act_ret_energy"),
        )
    said.add_values(
        _phase(number, "total"),
        import_total_wh=status.get("total_act"),
        export_total_wh=status.get("total_act_ret"),
    )


def _read_em1(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    said.add_values(
        key,
        power_w=status.get("act_power"),
        voltage_v=status.get("voltage"),
        current_a=status.get("current"),
        apparent_va=status.get("aprt_power"),
        power_factor=status.get("pf"),
        frequency_hz=status.get("freq"),
    )
    _read_errors(said, key, status.get("errors"))


def _read_em1data(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    said.add_values(
        f"em1:{number}",
        import_total_wh=status.get("total_act_energy"),
        export_total_wh=status.get("total_act_ret_energy"),
    )


def _read_temperature(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    said.add_values(key, temperature_c=status.get("tC"))


def _read_humidity(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    said.add_values(key, humidity_percent=status.get("rh"))


def _read_sys(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    said.add_state(None, **state_fields({name: status.get(name) for name in ("mac", "uptime")}))


def _read_wifi(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    """A station that is not connected says rssi 0 and no address."""
    if status.get("rssi"):
        said.add_state(None, rssi_dbm=rssi_of(status["rssi"], "rssi"))
    _read_ip(said, status.get("sta_ip"))


def _read_eth(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    _read_ip(said, status.get("ip"))


def _read_mqtt(said: _Said, key: str, number: str, status: dict[str, object]) -> None:
    """A message over MQTT that says MQTT is not connected tells only its own age."""
    if status.get("connected") is True:
        said.add_state(None, online=True)


def _read_ip(said: _Said, ip: object) -> None:
    if ip is not None:
        said.add_state(None, ip=require_text(ip, "ip"))


def _read_errors(said: _Said, channel: str, errors: object) -> None:
    """The alarms that hold now, joined by commas; empty when the device says there is none."""
    if errors is None:
        return
    if not isinstance(errors, list):
        raise Undecodable(Reason.WRONG_TYPE, "errors is no array; check the firmware")
    alarms = ",".join(require_text(each, "an error") for each in errors)
    said.add_state(channel, alarm=require_text(alarms, "errors"))


def _degrees(status: dict[str, object]) -> object:
    temperature = status.get("temperature")
    return None if temperature is None else require_object(temperature, "temperature").get("tC")


def _phase(number: str, phase: str) -> str:
    return phase if number == "0" else f"em:{number}:{phase}"


_COMPONENTS: dict[str, Callable[[_Said, str, str, dict[str, object]], None]] = {
    "switch": _read_meter,
    "pm1": _read_meter,
    "cover": _read_meter,
    "light": _read_meter,
    "em": _read_em,
    "emdata": _read_emdata,
    "em1": _read_em1,
    "em1data": _read_em1data,
    "temperature": _read_temperature,
    "humidity": _read_humidity,
    "sys": _read_sys,
    "wifi": _read_wifi,
    "eth": _read_eth,
    "mqtt": _read_mqtt,
}
