"""Tasmota: `cmnd/<topic>/<command>` with a bare word, the default FullTopic.

Relays are numbered from 1. `stat/<topic>/RESULT` repeats the command without saying whose it was,
so only the state answers, and nothing at all says that a restart or a reset was done.
Source: tasmota/docs, Commands.
"""

import re

from ingest.encoders.outgoing import (
    AnsweredBy,
    NotForThisFamily,
    Outgoing,
    cannot,
    relay_number,
    require_settings,
    sound_topic,
)
from schemas.command import SWITCHING, CommandRequest, Kind

_CALIBRATIONS = {
    "power_w": ("PowerSet", 1),
    "voltage_v": ("VoltageSet", 1),
    "current_a": ("CurrentSet", 1000),  # in mA
}
_SETTING = re.compile(r"[A-Za-z]{2,32}\d{0,3}", re.ASCII)
_NOT_BY_CONFIG = re.compile(
    r"power|backlog|rule|restart|reset|upgrade|ota|event|publish|br|webquery|websend|pulsetime",
    re.IGNORECASE,
)
"""Commands that switch, that run others, or that have a kind of their own."""
_LONGEST_VALUE = 100
_MOST_SETTINGS = 30


def encode(request: CommandRequest) -> Outgoing:
    answered_by = AnsweredBy.NOTHING
    match request.kind:
        case kind if kind in SWITCHING:
            command = f"POWER{relay_number(request, first=1)}"
            payload, answered_by = kind.value.upper(), AnsweredBy.STATE
        case Kind.REBOOT:
            command, payload = "Restart", "1"
        case Kind.RESET_ENERGY:
            command, payload = "EnergyTotal", "0"
        case Kind.CONFIG:
            command, payload = "Backlog0", _backlog(require_settings(request))
        case Kind.CALIBRATE:
            command, payload = "Backlog0", _calibration(require_settings(request))
        case _:
            raise cannot(request, "Tasmota")
    topic = request.address.partition(":")[2]
    return Outgoing(sound_topic(f"cmnd/{topic}/{command}"), payload.encode(), answered_by)


def _backlog(settings: dict[str, object]) -> str:
    if len(settings) > _MOST_SETTINGS:
        raise NotForThisFamily(f"Tasmota takes {_MOST_SETTINGS} settings at once")
    for name in settings:
        if not _SETTING.fullmatch(name) or _NOT_BY_CONFIG.match(name):
            raise NotForThisFamily(f"{name!r:.60} is no setting of Tasmota that can be sent")
    return ";".join(f"{name} {_value(value)}" for name, value in settings.items())


def _calibration(said: dict[str, object]) -> str:
    unknown = said.keys() - _CALIBRATIONS.keys()
    if unknown:
        raise NotForThisFamily(f"Tasmota is calibrated by {', '.join(_CALIBRATIONS)}")
    words = []
    for name, value in said.items():
        command, factor = _CALIBRATIONS[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise NotForThisFamily(f"{name} is {value!r:.40}; send the true value, above 0")
        words.append(f"{command} {value * factor:g}")
    return ";".join(words)


def _value(value: object) -> str:
    text = str(int(value)) if isinstance(value, bool) else str(value)
    sound = isinstance(value, bool | int | float | str) and len(text) <= _LONGEST_VALUE
    if not sound or ";" in text or not text.isprintable():
        raise NotForThisFamily(f"{value!r:.60} is no value of a Tasmota setting")
    return text
