"""Every Kafka topic: its name, partitions, key and how long it is kept.

`meterstream up` makes them.
Partition counts never change: a new count would move devices and break their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DAY_MS = 86_400_000
RAW_MAX_BYTES = 3 * 1024 * 1024

# Of every producer: the partition of a device must not depend on who writes. Java's and aiokafka's
# default is the same function; librdkafka's default is another.
PARTITIONER = "murmur2_random"


@dataclass(frozen=True)
class Topic:
    name: str
    key: str
    summary: str
    partitions: int = 12
    config: Mapping[str, str] = field(default_factory=dict)


def _kept(days: int, **config: str) -> dict[str, str]:
    settings = {"retention.ms": str(days * DAY_MS)}
    return settings | {name.replace("_", "."): value for name, value in config.items()}


RAW = Topic(
    "energy.raw.v1",
    key="device address",
    summary="Original bytes of every message, and the ticks that carry time.",
    config=_kept(7, max_message_bytes=str(RAW_MAX_BYTES), message_timestamp_type="LogAppendTime"),
)
RAW_DLQ = Topic(
    "energy.raw.dlq.v1",
    key="device address",
    summary="Refused records: original bytes, the reason in the headers.",
    config=_kept(30, max_message_bytes=str(RAW_MAX_BYTES + 64 * 1024)),
)
READING = Topic(
    "energy.reading.v1",
    key="device id",
    summary="Canonical readings, packed: those of one device in one transaction.",
    config=_kept(2),
)
USAGE_1M = Topic(
    "energy.usage.1m.v1",
    key="home id, or address while unclaimed",
    summary="Complete one-minute windows with revision and quality.",
    config=_kept(7),
)
USAGE_15M = Topic(
    "energy.usage.15m.v1",
    key="home id, or address while unclaimed",
    summary="Complete quarter hours of the ledger with revision and quality.",
    config=_kept(90),
)
COST = Topic(
    "energy.cost.v1",
    key="home id",
    summary="Running cost of homes and how their budgets stand; issued bills, each version.",
    config=_kept(90),
)
ALERT = Topic(
    "energy.alert.v1",
    key="home id",
    summary="Alerts raised and cleared.",
    config=_kept(30),
)
DEVICE = Topic(
    "energy.device.v1",
    key="device id",
    summary="Last known state of a device, field by field.",
    config={"cleanup.policy": "compact"},
)
COMMAND_REQUEST = Topic(
    "energy.command.request.v1",
    key="device id",
    summary="Commands on their way to devices.",
    config=_kept(7),
)
COMMAND_EVENT = Topic(
    "energy.command.event.v1",
    key="device id",
    summary="The life cycle of commands.",
    config=_kept(7),
)

TOPICS = (
    RAW, RAW_DLQ, READING, USAGE_1M, USAGE_15M, COST, ALERT, DEVICE, COMMAND_REQUEST, COMMAND_EVENT,
)  # fmt: skip


class RawHeader:
    """Header names of `energy.raw.v1`. Values are ASCII text, but for the topic: UTF-8.

    A message has `mqtt_topic received_at source shard` in this order, then `mid`, or `dup` in its
    place when MQTT says redelivered (both hold the packet id; neither without QoS), then, for a
    retained message, `retained`. A tick has only `shard` and `tick`, and no key and no value.
    """

    TOPIC = "mqtt_topic"
    RECEIVED_AT = "received_at"  # µs since the epoch, UTC, strictly increasing per connector
    SOURCE = "source"  # a name of `schemas.reading.SOURCES`
    SHARD = "shard"
    PACKET_ID = "mid"
    DUP = "dup"
    RETAINED = "retained"
    TICK = "tick"  # µs since the epoch, UTC
