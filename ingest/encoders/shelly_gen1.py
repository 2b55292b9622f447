"""Shelly Gen1: the bare words `on`, `off`, `toggle` on `shellies/<id>/relay/<n>/command`.

The relay's state on `shellies/<id>/relay/<n>` is the only answer.
Source: Shelly Gen1 API, MQTT.
"""

from ingest.encoders.outgoing import (
    AnsweredBy,
    Outgoing,
    cannot,
    names_in,
    relay_number,
    sound_topic,
)
from schemas.command import SWITCHING, CommandRequest


def encode(request: CommandRequest) -> Outgoing:
    if request.kind not in SWITCHING:
        raise cannot(request, "a Shelly of the first generation, over MQTT,")
    number = relay_number(request, first=0)
    topic = sound_topic(f"shellies/{names_in(request)[0]}/relay/{number}/command")
    return Outgoing(topic, request.kind.value.encode(), AnsweredBy.STATE)
