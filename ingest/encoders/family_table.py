"""Which encoder a device's address asks for."""

from ingest.encoders import (
    homesync,
    shelly_gen1,
    shelly_gen2,
    tasmota,
    thai_monitor,
    wattaway,
    zigbee2mqtt,
)
from ingest.encoders.outgoing import Encoder, NotForThisFamily, Outgoing
from schemas.command import CommandRequest

ENCODERS: dict[str, Encoder] = {
    "homesync": homesync.encode,
    "shelly": shelly_gen2.encode,
    "shelly1": shelly_gen1.encode,
    "wattaway": wattaway.encode,
    "home": thai_monitor.encode,
    "tasmota": tasmota.encode,
    "z2m": zigbee2mqtt.encode,
}


def encode(request: CommandRequest) -> Outgoing:
    """The message that carries a command to its device. Raises NotForThisFamily."""
    family, colon, rest = request.address.partition(":")
    encoder = ENCODERS.get(family)
    if encoder is None or not colon or not rest:
        raise NotForThisFamily(
            f"{request.address!r:.80} cannot be commanded; families that can: {', '.join(ENCODERS)}"
        )
    return encoder(request)
