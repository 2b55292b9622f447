"""The Thai electricity monitor: `cmd/<device>/on|off|reboot|config|calibrate`.

    {"command_id": "0193…", "command_seq": 17, "timestamp": "2026-02-06T14:30:00Z",
     "expires_at": 1763706030, "channel": "relay:0", "parameters": {…}}

The topic says what is to be done. The device confirms on `device/<device>/status`: by the command's
id, or by its relay alone (`{"relay": "closed"}`).
"""

from datetime import UTC, datetime

from ingest.encoders.outgoing import (
    AnsweredBy,
    NotForThisFamily,
    Outgoing,
    cannot,
    json_payload,
    names_in,
    require_settings,
    sound_topic,
    whole_seconds,
)
from schemas.command import SWITCHING, CommandRequest, Kind

_PANEL = "main"
_KINDS = frozenset({Kind.ON, Kind.OFF, Kind.REBOOT, Kind.CONFIG, Kind.CALIBRATE})


def encode(request: CommandRequest) -> Outgoing:
    if request.kind not in _KINDS:
        raise cannot(request, "a Thai monitor")
    device = names_in(request)[-1]
    if device == _PANEL:
        raise NotForThisFamily("a home's panel has no command topic; name one of its devices")
    issued_at = datetime.fromtimestamp(whole_seconds(request.issued_us), UTC)
    said: dict[str, object] = {
        "command_id": request.command_id,
        "command_seq": request.command_seq,
        "timestamp": issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires_at": whole_seconds(request.expires_us),
    }
    if request.channel is not None:
        said["channel"] = request.channel
    if request.kind in (Kind.CONFIG, Kind.CALIBRATE):
        said["parameters"] = require_settings(request)
    answered_by = AnsweredBy.STATE if request.kind in SWITCHING else AnsweredBy.ID
    topic = sound_topic(f"cmd/{device}/{request.kind.value}")
    return Outgoing(topic, json_payload(said), answered_by)
