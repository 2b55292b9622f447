"""What one transaction stores, and what is announced after it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.device import Event, State
from schemas.reading import Clock, Reading, ValueRow
from sinks.copy_block import ReadingRow
from sinks.usage_windows import ChannelStateRow, LimitsRow, MinuteRecord
from streams.energy import GapEnergy, Minute
from streams.partition import Channel, Device
from streams.records import Chunk, Refused
from streams.registers import Repair
from streams.samples import Samples, no_samples
from streams.windows import Span


class StateChange(NamedTuple):
    device: Device
    offset: int
    state: State


class EventRow(NamedTuple):
    device: Device
    part: int
    offset: int
    number: int
    event: Event


class MergedRow(NamedTuple):
    """A stored or just folded reading that a later message with the same key changed."""

    channel_id: int
    measured_us: int
    seq: int | None
    values: ValueRow


class Conflict(NamedTuple):
    """What had to give way to another reading with the same key."""

    channel_id: int
    measured_us: int
    offset: int
    seq: int | None
    values: ValueRow


class MinuteRow(NamedTuple):
    part: int
    offset: int
    channel: Channel
    minute: Minute


class GapRow(NamedTuple):
    part: int
    offset: int
    channel: Channel
    gap: GapEnergy


class RepairRow(NamedTuple):
    part: int
    offset: int
    channel: Channel
    repair: Repair


class Redo(NamedTuple):
    """Complete windows to compute anew from what is stored up to `offset`."""

    part: int
    offset: int
    channel: Channel
    span: Span
    complete_until_us: int


class ChangedRow(NamedTuple):
    """A span that waits for the next tick, stored so that a crash does not forget it."""

    part: int
    offset: int
    channel: Channel
    span: Span


class Advance(NamedTuple):
    """How far a transaction takes a partition."""

    part: int
    epoch: int
    expected: int
    next_offset: int
    stream_us: int
    ticks: dict[str, int]


@dataclass(slots=True)
class Work:
    """Everything that one transaction stores and that is announced after it."""

    advances: list[Advance] = field(default_factory=list)
    rows: list[ReadingRow] = field(default_factory=list)
    late_rows: list[ReadingRow] = field(default_factory=list)
    merged: list[MergedRow] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    states: list[StateChange] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    minutes: list[MinuteRow] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    repairs: list[RepairRow] = field(default_factory=list)
    redo: list[Redo] = field(default_factory=list)
    settled: dict[int, int] = field(default_factory=dict)  # part -> `window_dirty` done up to
    changed: list[ChangedRow] = field(default_factory=list)
    touched: dict[int, tuple[int, Channel]] = field(default_factory=dict)  # with its part
    channel_states: list[ChannelStateRow] = field(default_factory=list)  # of those, as folded
    limits: list[LimitsRow] = field(default_factory=list)
    left_quarters: set[tuple[int, int]] = field(default_factory=set)  # maybe complete only now
    told: dict[int, tuple[Device, list[Reading]]] = field(default_factory=dict)
    chunks: Sequence[Chunk] = ()
    samples: Samples = field(default_factory=no_samples)
    changed_minutes: list[tuple[MinuteRecord, int]] = field(default_factory=list)  # once stored
    stored_before: bool = False  # the answer to an earlier COMMIT was lost
    stored: int = 0
    stored_duplicates: int = 0
    records: int = 0
    duplicates: int = 0
    ticks_ahead: int = 0
    gaps_in_log: list[tuple[int, int, int]] = field(default_factory=list)  # part, from, to

    def told_of(self, device: Device) -> list[Reading]:
        """The readings of a device that are to be announced."""
        told = self.told.get(device.device_id)
        if told is None:
            told = self.told[device.device_id] = (device, [])
        return told[1]

    def announced(self) -> Iterable[tuple[Device, list[Reading]]]:
        """The readings to be announced, device by device."""
        found = {device_id: (device, [*told]) for device_id, (device, told) in self.told.items()}
        for channel, held, said in self.samples.of_told():
            device = channel.device
            told = found.get(device.device_id)
            if told is None:
                told = found[device.device_id] = (device, [])
            told[1].append(Reading(channel.name, held[0], said, Clock.DEVICE, held[6]))
        return found.values()
