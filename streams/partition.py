"""What a worker remembers of one partition of the raw log: stream time and its channels. Pure."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from schemas.families import Family
from schemas.units import MW_PER_W, SECOND_US
from streams.energy import GapEnergy, Limits, Minute
from streams.registers import Repair
from streams.windows import NEVER, ChannelWindows, Span

SHARD_SILENT_US = 30 * SECOND_US
"""A connector shard whose ticks are this far behind the newest is left out of stream time."""

TICK_AHEAD_US = 60 * SECOND_US
"""A tick further ahead of the broker's append time is a broken clock and is ignored."""

MOST_REDONE_A_TICK = 200
REMEMBERED_PACKETS = 100_000
REMEMBERED_TOPICS = 100_000


class Channel:
    """One channel of a device, its open windows, and when to look at them again."""

    __slots__ = (
        "changed",
        "channel_id",
        "colons",
        "device",
        "due_us",
        "name",
        "stored_changes",
        "wake_us",
        "windows",
    )

    def __init__(
        self, channel_id: int, name: str, device: "Device", windows: ChannelWindows | None
    ) -> None:
        self.channel_id, self.name, self.device = channel_id, name, device
        self.colons = 1 + name.count(":")  # that it adds to a payload
        self.windows = windows
        self.due_us = NEVER
        self.wake_us = -1  # a reading at or after this instant asks for a new due time
        self.changed: list[Span] = []
        self.stored_changes = 0  # how many of them the table `window_dirty` knows


Homes = tuple[tuple[int, str | None], ...]
"""Since when a device is whose, the oldest first; None: nobody's, as it was before the first."""


@dataclass(slots=True)
class Device:
    """A device whose messages lie in this partition."""

    device_id: int
    address: str
    homes: Homes
    limits: Limits
    channels: dict[str, Channel] = field(default_factory=dict)
    is_full: bool = False  # it has asked for more channels than a device may have

    def home_at(self, at_us: int) -> str | None:
        """Whose the device was at an instant; a window is of the home that had it at its start."""
        for since_us, home_id in reversed(self.homes):
            if since_us <= at_us:
                return home_id
        return None


def limits_of(family: Family, gap_limit_s: int | None, max_power_w: int | None) -> Limits:
    """The device's own limits where its row sets them, else its family's."""
    gap_limit_us = family.gap_limit_us if gap_limit_s is None else gap_limit_s * SECOND_US
    most_w = family.max_power_w if max_power_w is None else max_power_w
    return Limits(gap_limit_us, MW_PER_W * most_w, family.register_span_uwh, family.register_age_us)


@dataclass(slots=True)
class Completed:
    """What one tick gave: complete windows, gaps and repairs, and spans to be redone."""

    minutes: list[tuple[Channel, Minute]] = field(default_factory=list)
    gaps: list[tuple[Channel, GapEnergy]] = field(default_factory=list)
    repairs: list[tuple[Channel, Repair]] = field(default_factory=list)
    redo: list[tuple[Channel, Span, int]] = field(default_factory=list)  # with complete_until_us
    touched: list[tuple[Channel, int]] = field(default_factory=list)  # with complete_until before


class Partition:
    """The memory of one partition. `next_offset` is the first record not folded yet."""

    def __init__(
        self,
        part: int,
        epoch: int,
        next_offset: int,
        published_offset: int,
        stream_us: int,
        ticks: dict[str, int],
    ) -> None:
        self.part, self.epoch = part, epoch
        self.next_offset, self.published_offset = next_offset, published_offset
        self.stream_us, self.ticks = stream_us, ticks
        self.devices: dict[str, Device] = {}
        self.by_topic: dict[bytes, Device | None] = {}  # whose envelopes come on a topic, if any
        self.changed: list[Channel] = []
        self.new_limits: dict[Channel, int | None] = {}  # from when on; to be stored
        self.has_stored_changes = False  # rows of `window_dirty` that the next tick settles
        self._due: list[tuple[int, int, Channel]] = []
        self._packets: dict[tuple[str, str], int] = {}

    def seen_before(self, shard: str, packet_id: str, content: int, *, redelivered: bool) -> bool:
        """Whether a redelivered message equals the one last seen with its packet id.

        Asked only of messages without a clock of their own: the others have a key.
        """
        key = (shard, packet_id)
        if redelivered and self._packets.get(key) == content:
            return True
        self._packets.pop(key, None)
        self._packets[key] = content
        if len(self._packets) > REMEMBERED_PACKETS:
            del self._packets[next(iter(self._packets))]
        return False

    def mark_changed(self, channel: Channel, span: Span) -> None:
        """Complete windows of a channel have to be computed anew at the next tick."""
        spans = channel.changed
        if not spans:
            self.changed.append(channel)
        elif len(spans) > channel.stored_changes and spans[-1].near(span):
            spans[-1] = spans[-1].joined(span)
            return
        spans.append(span)

    def schedule(self, channel: Channel) -> None:
        """Note when a channel's next window may be complete."""
        windows = channel.windows
        assert windows is not None
        due = windows.due()
        if due is None:
            channel.due_us, channel.wake_us = NEVER, -1
            return
        due_us, channel.wake_us = due
        if due_us != channel.due_us:
            channel.due_us = due_us
            heappush(self._due, (due_us, channel.channel_id, channel))

    def tick(self, shard: str, tick_us: int, appended_us: int) -> Completed | None:
        """Take a tick; None where it is refused for a clock too far ahead."""
        if tick_us > appended_us + TICK_AHEAD_US:
            return None
        ticks = self.ticks
        ticks[shard] = max(tick_us, ticks.get(shard, 0))
        newest = max(ticks.values())
        live = [at for at in ticks.values() if at >= newest - SHARD_SILENT_US]
        self.stream_us = max(self.stream_us, min(live))
        return self._complete()

    def _complete(self) -> Completed:
        done = Completed()
        due, stream_us = self._due, self.stream_us
        while due and due[0][0] <= stream_us:
            due_us, _, channel = heappop(due)
            if channel.due_us != due_us or channel.windows is None:
                continue
            channel.due_us = NEVER
            before = channel.windows.complete_until_us
            minutes, gaps, repairs = channel.windows.complete(stream_us)
            done.minutes += [(channel, minute) for minute in minutes]
            done.gaps += [(channel, gap) for gap in gaps]
            done.repairs += [(channel, repair) for repair in repairs]
            if channel.windows.complete_until_us != before:
                done.touched.append((channel, before))
            self.schedule(channel)
        self._redo(done)
        return done

    def _redo(self, done: Completed) -> None:
        """Hand out the changed spans, so many at a tick; the others wait for the next one."""
        for n, channel in enumerate(self.changed):
            if len(done.redo) >= MOST_REDONE_A_TICK:
                self.changed = self.changed[n:]
                for waiting in self.changed:
                    waiting.stored_changes = 0  # the table forgets all at each tick
                return
            assert channel.windows is not None
            until = channel.windows.complete_until_us
            done.redo += [(channel, span, until) for span in _disjoint(channel.changed)]
            channel.changed, channel.stored_changes = [], 0
        self.changed = []


def _disjoint(spans: list[Span]) -> list[Span]:
    """The same spans, those close to each other joined."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and joined[-1].near(span):
            joined[-1] = joined[-1].joined(span)
        else:
            joined.append(span)
    return joined
