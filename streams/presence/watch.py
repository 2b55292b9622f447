"""One partition of the raw log, watched: who speaks, who says farewell, who falls silent. Pure.

Time is that of the partition's ticks, so the same log gives the same changes whenever it is read.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from schemas.models import Model
from schemas.presence import Presence, PresenceReason
from schemas.units import SECOND_US
from streams.partition import Partition

DEAF_US = 30 * SECOND_US
"""Ticks further apart than this: nobody listened meanwhile, and silence is counted anew."""

NEVER = 1 << 62


class Heard(NamedTuple):
    """A message of a device. `says_online` is what it states; None: nothing, but it spoke."""

    at_us: int
    says_online: bool | None = None
    retained: bool = False


class Change(NamedTuple):
    """A device's presence from `since_us` on; `heard_us` is when it was last heard before."""

    device: "Watched"
    state: Presence
    since_us: int
    reason: PresenceReason
    heard_us: int | None
    offset: int


@dataclass(slots=True, eq=False)
class Watched:
    """A device and how it stands. `folded_us` is the newest message that was taken of it."""

    device_id: int
    address: str
    home_id: str | None
    contract: Model
    deleted_us: int | None = None
    part: int | None = None
    state: Presence | None = None
    since_us: int = 0
    heard_us: int | None = None
    folded_us: int = 0
    alert_us: int | None = None  # the alert that its home was told
    due_us: int = NEVER

    def forget(self) -> None:
        self.state, self.heard_us, self.alert_us, self.due_us = None, None, None, NEVER


class Watch:
    """The memory of one partition. `next_offset` is the first record not taken yet."""

    def __init__(
        self, part: int, next_offset: int, stream_us: int, resumed_us: int, ticks: dict[str, int]
    ) -> None:
        self.part, self.next_offset, self.resumed_us = part, next_offset, resumed_us
        self._clock = Partition(part, 0, next_offset, 0, stream_us, ticks)
        self._due: list[tuple[int, int, Watched]] = []
        self.unsaved: set[Watched] = set()

    @property
    def stream_us(self) -> int:
        return self._clock.stream_us

    @property
    def ticks(self) -> dict[str, int]:
        return self._clock.ticks

    def hear(self, device: Watched, heard: Heard, offset: int) -> list[Change]:
        """Take a message. One that is not newer than the newest taken says nothing."""
        if heard.at_us <= device.folded_us:
            return []
        device.folded_us, device.part = heard.at_us, self.part
        self.unsaved.add(device)
        if heard.says_online is False:
            if device.state is Presence.OFFLINE:
                return []
            return [
                _changed(device, Presence.OFFLINE, heard.at_us, PresenceReason.SAID, offset),
            ]
        if heard.retained:
            return []
        if device.state is Presence.ONLINE:
            device.heard_us = heard.at_us
            return []
        reason = PresenceReason.FIRST if device.state is None else PresenceReason.HEARD
        change = _changed(device, Presence.ONLINE, heard.at_us, reason, offset)
        device.heard_us = heard.at_us
        self.schedule(device)
        return [change]

    def tick(self, shard: str, tick_us: int, appended_us: int, offset: int) -> list[Change]:
        """Take a tick: who has been silent for too long by now?"""
        before_us = self.stream_us
        if self._clock.tick(shard, tick_us, appended_us) is None:
            return []
        stream_us = self.stream_us
        if stream_us - before_us > DEAF_US:
            self.resumed_us = stream_us
        changes: list[Change] = []
        due = self._due
        while due and due[0][0] <= stream_us:
            due_us, _, device = heappop(due)
            if device.due_us != due_us:
                continue
            while (silent_us := self._silent_at(device)) <= stream_us:
                state = Presence.OFFLINE if device.state is Presence.LATE else Presence.LATE
                reason = PresenceReason.SILENCE
                changes.append(_changed(device, state, silent_us, reason, offset))
                self.unsaved.add(device)
            self.schedule(device)
        return changes

    def schedule(self, device: Watched) -> None:
        """Note when to look at a device again; to be called when its contract changes, too."""
        due_us = self._silent_at(device)
        if due_us != device.due_us:
            device.due_us = due_us
            if due_us != NEVER:
                heappush(self._due, (due_us, device.device_id, device))

    def _silent_at(self, device: Watched) -> int:
        """When the next state begins if it stays silent."""
        if device.heard_us is None:
            return NEVER
        base_us = max(device.heard_us, self.resumed_us)
        if device.state is Presence.ONLINE:
            return base_us + device.contract.late_after_us
        if device.state is Presence.LATE:
            return max(base_us + device.contract.offline_after_us, device.since_us + 1)
        return NEVER


def _changed(
    device: Watched, state: Presence, since_us: int, reason: PresenceReason, offset: int
) -> Change:
    device.state, device.since_us = state, since_us
    return Change(device, state, since_us, reason, device.heard_us, offset)
