"""The payload of our own nodes, published on `homesync/<home>/nodes/<node>/telemetry/<any>`.

    {"v": 1, "boot": "5f1c09ab", "seq": 812, "first": 790, "ts": 1763700000.25,
     "channels": {"total": {"power_w": 1250.5, "import_total_wh": 15234560.0}, "l1": {…}}}

`seq` counts the messages of a node over all its topics and lives in its outbox through reboots;
`boot` is new only when the outbox was lost; `first` is the oldest message not yet acknowledged.
`ts` is Unix time in seconds, null where the node does not know it. The connector answers on
`homesync/<home>/nodes/<node>/ack` with the cumulative, gapless `{"boot", "seq", "at_us"}`;
`at_us` is its own time, for nodes that have none.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.reading import Values

VERSION = 1

# A double holds every whole number up to 2^53, so any JSON reader sees the same one.
Boot = Annotated[str, Meta(min_length=1, max_length=64)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]


class Position(msgspec.Struct, gc=False):
    """What the connector needs of a payload: where the message stands in the node's outbox."""

    v: int
    boot: str
    seq: int
    first: int


class Ack(msgspec.Struct, gc=False, omit_defaults=True):
    """All messages of `boot` up to and with `seq` are in Kafka, as of `at_us` (Unix time)."""

    boot: str
    seq: int
    at_us: int | None = None


class Payload(msgspec.Struct, gc=False):
    """What a node measured at `ts`, channel by channel, and the message's place in its outbox.

    `ts` is Unix time in seconds, null where the node does not know it. `model` is the product and,
    after a slash, the hardware: what signed firmware is for. `switched_by` is what moved the relays
    told of here: `wall`, `command`, `init`, …
    """

    v: int
    boot: Boot
    seq: Seq
    first: Seq
    ts: float | None
    channels: dict[str, Values]
    relay: bool | dict[str, bool] | None = None
    rssi_dbm: int | None = None
    firmware: str | None = None
    model: str | None = None
    switched_by: str | None = None


def telemetry_topic(home: str, node: str) -> str:
    return f"homesync/{home}/nodes/{node}/telemetry/power"


def ack_topic(home: str, node: str) -> str:
    return f"homesync/{home}/nodes/{node}/ack"
