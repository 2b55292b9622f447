"""Zigbee2MQTT: JSON on `zigbee2mqtt/<name>/set`; the state it publishes then is the answer.

A relay of several is an endpoint: `state_l1`. `config` sends attributes that the device exposes
(`power_on_behavior`, …). Source: zigbee2mqtt.io, usage/mqtt_topics_and_messages.
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


def encode(request: CommandRequest) -> Outgoing:
    said: dict[str, object]
    answered_by = AnsweredBy.STATE
    if request.kind in SWITCHING:
        number = relay_number(request, first=0)
        said = {f"state_l{number}" if number else "state": request.kind.value.upper()}
    elif request.kind is Kind.CONFIG:
        said, answered_by = _settings(request), AnsweredBy.NOTHING
    else:
        raise cannot(request, "a device behind Zigbee2MQTT")
    topic = sound_topic(f"zigbee2mqtt/{request.address.partition(':')[2]}/set")
    return Outgoing(topic, json_payload(said), answered_by)


def _settings(request: CommandRequest) -> dict[str, object]:
    settings = require_settings(request)
    for name in settings:
        if name == "state" or name.startswith("state_"):
            raise NotForThisFamily(f"{name} switches: send on or off, so that it is known whose")
    return settings
