"""WattAway's smart sockets: `devices/<id>/commands`, acknowledged on `devices/<id>/status`.

    {"command": "set_relay_state", "timestamp": "2026-02-06T14:30:00Z", "channel": 1, "state": "on",
     "command_id": "0193…", "expires_at": 1763706030}

Sockets are numbered from 1. Source: github.com/Dyjuen/wattaway, MqttPublishService; `command_id`
and `expires_at` are ours, a firmware that does not know them passes over them.
"""

from datetime import UTC, datetime

from ingest.encoders.outgoing import (
    AnsweredBy,
    NotForThisFamily,
    Outgoing,
    cannot,
    json_payload,
    names_in,
    relay_number,
    require_settings,
    sound_topic,
    whole_seconds,
)
from schemas.command import CommandRequest, Kind

_OURS = frozenset({"command", "command_id", "timestamp", "expires_at", "channel", "state"})


def encode(request: CommandRequest) -> Outgoing:
    said: dict[str, object]
    match request.kind:
        case Kind.ON | Kind.OFF:
            channel = relay_number(request, first=1)
            said = {"command": "set_relay_state", "channel": channel, "state": request.kind.value}
        case Kind.CONFIG:
            said = {**_settings(request), "command": "update_config"}
        case Kind.REBOOT:
            said = {"command": "reboot"}
        case Kind.OTA:
            said = {"command": "check_for_update"}
        case _:
            raise cannot(request, "a WattAway socket")
    issued_at = datetime.fromtimestamp(whole_seconds(request.issued_us), UTC)
    said |= {
        "timestamp": issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command_id": request.command_id,
        "expires_at": whole_seconds(request.expires_us),
    }
    (device,) = names_in(request)[:1]
    topic = sound_topic(f"devices/{device}/commands")
    return Outgoing(topic, json_payload(said), AnsweredBy.ID)


def _settings(request: CommandRequest) -> dict[str, object]:
    settings = require_settings(request)
    taken = _OURS & settings.keys()
    if taken:
        raise NotForThisFamily(f"a setting cannot be named {sorted(taken)[0]}; WattAway's JSON has")
    return settings
