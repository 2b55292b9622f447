"""What the stream announces of a transaction after its commit, beside `schemas.usage`."""

import msgspec
from msgspec import field

from schemas.device import State
from schemas.reading import Reading


class PackedReadings(msgspec.Struct, gc=False):
    """The readings of one device in one transaction, as on `energy.reading.v1`."""

    device_id: int
    address: str
    readings: list[Reading]
    home_id: str | None = None


class DeviceSaid(msgspec.Struct, gc=False):
    """A device's whole last known state, as on `energy.device.v1`.

    The topic is compacted, so each record has every field that is known, with the instant of each:
    a `State` for each channel and instant.
    """

    device_id: int
    address: str
    states: list[State]
    home_id: str | None = None


class RefusedHeaders(msgspec.Struct, gc=False, omit_defaults=True):
    """Headers of a refused record on `energy.raw.dlq.v1`, as text; its value is the original bytes.

    The names are those of KIP-298. The stream refuses at the stage `decode` and says the record's
    place in the raw topic; the connector refuses at `KAFKA_PRODUCE` what Kafka would not take.
    `reason` is one of `schemas.decoded.Reason`.
    """

    topic: str = field(name="__connect.errors.topic")
    stage: str = field(name="__connect.errors.stage")
    class_name: str = field(name="__connect.errors.class.name")
    message: str = field(name="__connect.errors.exception.message")
    mqtt_topic: str
    received_at: str
    source: str
    part: str | None = field(name="__connect.errors.partition", default=None)
    offset: str | None = field(name="__connect.errors.offset", default=None)
    reason: str | None = field(name="__connect.errors.exception.class.name", default=None)
