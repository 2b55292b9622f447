"""Shelly Gen2, Gen3 and Pro: JSON-RPC on `<prefix>/rpc`, answered on `meterstream/<prefix>/rpc`.

    {"id": 17, "src": "meterstream/<prefix>", "method": "Switch.Set",
     "params": {"id": 0, "on": true}}

`id` is the command's number. `revert_after_s` of a switching command is the device's own timer
(`toggle_after`). With `via: control` in the parameters (a device whose RPC over MQTT is switched
off) the bare word goes to `<prefix>/command/switch:N`, and only the state answers.
Source: Shelly Gen2 API, ComponentsAndServices/{Mqtt,Switch,Shelly,Sys,EMData,EM1Data}.
"""

from ingest.encoders.outgoing import (
    AnsweredBy,
    NotForThisFamily,
    Outgoing,
    cannot,
    json_payload,
    relay_number,
    require_settings,
    sound_topic,
)
from schemas.command import SWITCHING, CommandRequest, Kind

VIA, CONTROL = "via", "control"
REVERT_AFTER_S = "revert_after_s"
REPLY_STEM = "meterstream"
_FAMILY = "a Shelly"
_LONGEST_REVERT_S = 86_400.0

_COUNTERS = {
    "switch": "Switch", "pm1": "PM1", "cover": "Cover", "light": "Light",
    "em": "EMData", "emdata": "EMData", "em1": "EM1Data", "em1data": "EM1Data",
}  # fmt: skip
_SETTINGS = {
    "switch": "Switch", "input": "Input", "pm1": "PM1", "cover": "Cover", "light": "Light",
    "em": "EM", "em1": "EM1",
}  # fmt: skip
_PHASES = frozenset({"total", "l1", "l2", "l3", "n"})


def encode(request: CommandRequest) -> Outgoing:
    prefix = request.address.partition(":")[2]
    if request.parameters.get(VIA) == CONTROL:
        return _encode_control(request, prefix)
    method, params = _call(request)
    source = f"{REPLY_STEM}/{prefix}"
    frame = {"id": request.command_seq, "src": source, "method": method, "params": params}
    return Outgoing(sound_topic(f"{prefix}/rpc"), json_payload(frame), AnsweredBy.SEQ)


def _call(request: CommandRequest) -> tuple[str, dict[str, object]]:
    match request.kind:
        case Kind.ON | Kind.OFF:
            number = _relay(request)
            params = {"id": number, "on": request.kind is Kind.ON, **_revert(request)}
            return "Switch.Set", params
        case Kind.TOGGLE:
            return "Switch.Toggle", {"id": _relay(request)}
        case Kind.REBOOT:
            return "Shelly.Reboot", {}
        case Kind.RESET_ENERGY:
            namespace, number = _component(request, _COUNTERS)
            return f"{namespace}.ResetCounters", {"id": number}
        case Kind.CONFIG if request.channel is None:
            return "Sys.SetConfig", {"config": require_settings(request)}
        case Kind.CONFIG:
            namespace, number = _component(request, _SETTINGS)
            return f"{namespace}.SetConfig", {"id": number, "config": require_settings(request)}
        case Kind.OTA if request.parameters.keys() == {"stage"}:
            return "Shelly.Update", {"stage": request.parameters["stage"]}
        case Kind.OTA:
            raise NotForThisFamily("a Shelly takes its maker's firmware only: send {stage: stable}")
    raise cannot(request, _FAMILY)


def _encode_control(request: CommandRequest, prefix: str) -> Outgoing:
    if request.kind not in SWITCHING:
        raise cannot(request, "a Shelly with RPC switched off")
    if request.parameters.get(REVERT_AFTER_S) is not None:
        raise NotForThisFamily("a Shelly with RPC switched off has no timer; revert it from here")
    topic = sound_topic(f"{prefix}/command/switch:{_relay(request)}")
    return Outgoing(topic, request.kind.value.encode(), AnsweredBy.STATE)


def _relay(request: CommandRequest) -> int:
    component, colon, _ = (request.channel or "").partition(":")
    if colon and component != "switch":
        raise NotForThisFamily(f"{request.channel!r:.60} does not switch; switch:0 and so on do")
    return relay_number(request, first=0)


def _revert(request: CommandRequest) -> dict[str, object]:
    after_s = request.parameters.get(REVERT_AFTER_S)
    if after_s is None:
        return {}
    sound = isinstance(after_s, int | float) and not isinstance(after_s, bool)
    if not sound or not 0 < after_s <= _LONGEST_REVERT_S:
        raise NotForThisFamily(
            f"{REVERT_AFTER_S} is {after_s!r:.40}; above 0 and up to {_LONGEST_REVERT_S:.0f} s"
        )
    return {"toggle_after": after_s}


def _component(request: CommandRequest, known: dict[str, str]) -> tuple[str, int]:
    """The RPC namespace and the number of the component that a channel belongs to."""
    if request.channel in _PHASES:
        return known["em"], 0
    component, _, number = (request.channel or "").partition(":")
    if component not in known or not (number.isascii() and number.isdigit()):
        raise NotForThisFamily(
            f"{request.kind} needs a component, like switch:0; {request.channel!r:.60} is none"
        )
    return known[component], int(number[:3])
