"""Our own nodes: `homesync/<home>/nodes/<node>/command/relay`, and `…/command/<kind>` else.

    {"command_id": "0193…", "command_seq": 17, "issued_at": 1763706000, "expires_at": 1763706030,
     "action": "on", "relay": "relay:0"}
    {"command_id": "0193…", "command_seq": 18, "issued_at": …, "expires_at": …, "parameters": {…}}

`relay` is the channel's name, null where none was named: the node's only, or first, relay. Instants
are whole Unix seconds. The node runs an id at most once, refuses what has expired and what is
older than the last that it ran, and answers on `…/response/command` with the id. `parameters` come
after the rest: a node reads those of an update later, when it has the memory.
"""

from ingest.encoders.outgoing import (
    AnsweredBy,
    NotForThisFamily,
    Outgoing,
    json_payload,
    names_in,
    sound_topic,
    whole_seconds,
)
from schemas.command import SWITCHING, CommandRequest


def encode(request: CommandRequest) -> Outgoing:
    names = names_in(request)
    if len(names) != 2:
        raise NotForThisFamily(f"{request.address!r:.80} names no node; <home>/<node> does")
    home, node = names
    said: dict[str, object] = {
        "command_id": request.command_id,
        "command_seq": request.command_seq,
        "issued_at": whole_seconds(request.issued_us),
        "expires_at": whole_seconds(request.expires_us),
    }
    if request.kind in SWITCHING:
        last_level = "relay"
        said |= {"action": request.kind.value, "relay": request.channel}
    else:
        last_level = request.kind.value
        said |= {"parameters": request.parameters}
        if request.channel is not None:
            said["channel"] = request.channel
    topic = sound_topic(f"homesync/{home}/nodes/{node}/command/{last_level}")
    return Outgoing(topic, json_payload(said), AnsweredBy.ID, repeatable=True)
