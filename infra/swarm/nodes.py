"""What a swarm is made of: its settings, its counts, and a node."""

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from infra.swarm import wire
from infra.swarm.meters import Meter
from infra.swarm.oddities import PLAIN, Behaviour, Prefix, Whims
from infra.swarm.outbox import Outbox
from infra.swarm.record import Header
from schemas.homesync import VERSION, ack_topic, telemetry_topic

if TYPE_CHECKING:
    from infra.swarm.link import Link

Believe = Literal["ack", "puback"]


@dataclass(frozen=True)
class SwarmSettings:
    """`rate` is in messages a second, of all nodes together."""

    home: str
    devices: int
    rate: float
    seed: int = 1
    phases: int = 1
    believe: Believe = "ack"
    host: str = "127.0.0.1"
    port: int = 1883
    sample_every: int = 0
    behaviour: Behaviour = PLAIN

    def header(self) -> Header:
        return Header(self.home, self.devices, self.phases, self.seed, self.believe)

    def address(self, node: int) -> str:
        return address(self.home, node)


@dataclass
class Counts:
    """`made` readings' messages exist; the others count what became of them."""

    made: int = 0
    published: int = 0  # packets, those sent again too
    sent_again: int = 0
    acked: int = 0
    refused_by_broker: int = 0
    false_acks: int = 0
    connections: int = 0
    connection_losses: int = 0
    silences: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    register_jumps: int = 0  # resets and rollovers
    run_s: float = 0.0
    cpu_s: float = 0.0


def node_name(index: int) -> str:
    return f"n{index:05d}"


def address(home: str, index: int) -> str:
    return f"homesync:{home}/{node_name(index)}"


class Node:
    """One device: its meter, its outbox, and the connection it has just now."""

    __slots__ = (
        "ack_topic",
        "attempts",
        "body_head",
        "boot",
        "index",
        "jumps",
        "link",
        "meter",
        "name",
        "outbox",
        "prefix",
        "topic",
        "whims",
        "written_at",
    )

    def __init__(self, settings: SwarmSettings, index: int, chance: Random) -> None:
        self.name = name = node_name(index)
        self.index = index
        self.boot = f"{chance.getrandbits(32):08x}"
        self.topic = wire.text(telemetry_topic(settings.home, name))
        self.ack_topic = ack_topic(settings.home, name)
        self.body_head = b'{"v":%d,"boot":"%b",' % (VERSION, self.boot.encode())
        self.meter = Meter(index, settings.phases, chance)
        self.outbox = Outbox()
        self.whims: Whims | None = None
        if behaviour := settings.behaviour:
            whim = Random(f"{settings.seed}/{index}/whims")
            self.whims = Whims(behaviour, whim, self.meter)
        self.prefix = Prefix()
        self.jumps = 0  # of the meter, as far as they are written down
        self.link: Link | None = None
        self.attempts = 0
        self.written_at = 0.0

    def packet(self, seq: int, body: bytes, packet_id: int) -> bytes:
        """The PUBLISH of a reading that the outbox still holds, or held."""
        payload = b'%b"seq":%d,"first":%d,%b' % (self.body_head, seq, self.outbox.first, body)
        return wire.publish(self.topic, packet_id, payload)
