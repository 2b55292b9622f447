"""What is to be sent to whom, and when: all commands that are not settled, device by device.

Pure: it is told what came and what the clock says, and tells what to say and what to send.

A command is said to be `sent` before it is published. A message that a device would run again is
published once: whatever happens then, it is not published again, unless the broker said that
nobody listened. A repeatable one is published until its answer is heard, or it has expired.
Of one device at most one message waits for the broker's word, and nothing overtakes a command that
nobody listened to.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from ingest.encoders.family_table import encode
from ingest.encoders.outgoing import NotForThisFamily, Outgoing
from schemas.command import CommandEvent, CommandRequest, CommandState
from schemas.units import SECOND_US

REPEAT_US = (SECOND_US, 2 * SECOND_US, 4 * SECOND_US, 5 * SECOND_US)
"""From one sending to the next; the last one on and on."""
OVERTAKE_US = SECOND_US
"""A command unanswered for so long is sent again before the device's next one."""
LEAST_LEFT_US = 2 * SECOND_US
"""MQTT counts expiry in whole seconds, Mosquitto to the end of the last one."""
KNOWN_US = 600 * SECOND_US
"""How long a command is remembered after its expiry: Kafka may bring it twice."""


class Stage(Enum):
    NEW = "new"
    IN_FLIGHT = "in flight"  # the broker has not said anything yet
    UNHEARD = "unheard"  # nobody listened
    UNANSWERED = "unanswered"  # repeatable, taken by the broker
    SETTLED = "settled"


class Entry:
    """One command. `due_us`: when it is sent again; `woken_us`: for when its device is noted."""

    __slots__ = ("due_us", "event_offset", "offset", "outgoing", "request", "said", "sent_us",
                 "stage", "taken_us", "times", "woken_us")  # fmt: skip

    def __init__(self, request: CommandRequest, outgoing: Outgoing, taken_us: int) -> None:
        self.taken_us = taken_us
        self.request = request
        self.outgoing = outgoing
        self.stage = Stage.NEW
        self.said = False
        self.times = 0
        self.sent_us = self.due_us = self.woken_us = 0
        self.offset = self.event_offset = 0

    def sent_before(self) -> None:
        """Somebody else has said so; perhaps it was published, and nothing tells."""
        self.said = True
        self.stage = Stage.UNANSWERED

    def left_us(self, now_us: int) -> int:
        """How long it may still be sent; 0 or less: not any more."""
        margin = 0 if self.outgoing.repeatable else LEAST_LEFT_US
        return self.request.expires_us - margin - now_us

    def expiry_s(self, now_us: int) -> int:
        """MQTT's message expiry: a device that does not look itself gets nothing too late."""
        if self.outgoing.repeatable:
            return max(1, -((now_us - self.request.expires_us) // SECOND_US))
        return max(1, (self.request.expires_us - now_us) // SECOND_US - 1)


class Position(NamedTuple):
    """Where to begin after a restart: the first request and the first event that are needed."""

    partition: int
    request_offset: int
    event_offset: int


class Book:
    def __init__(self) -> None:
        self._devices: dict[int, deque[Entry]] = {}
        self._entries: dict[str, Entry] = {}
        self._known: dict[str, int] = {}  # settled: command id to when it may be forgotten
        self._said: dict[str, int] = {}  # said to be sent by nobody here; the same
        self._due: list[tuple[int, int]] = []  # (µs, device id), a heap
        self._look: dict[int, None] = {}  # devices, a set that keeps its order
        self._verdicts: list[CommandEvent] = []
        self._open: dict[int, deque[Entry]] = {}  # by partition, in the order of the log
        self._request_end: dict[int, int] = {}
        self._event_end: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # ---- what comes from Kafka

    def begin(self, event_offsets: Mapping[int, int]) -> None:
        """Where the events begin that will be heard, by partition."""
        self._event_end = dict(event_offsets)

    def take(self, request: CommandRequest, partition: int, offset: int, now_us: int) -> None:
        """A request, in the order of its partition; the same one may come twice."""
        self._request_end[partition] = offset + 1
        command_id = request.command_id
        if command_id in self._entries or command_id in self._known:
            return
        forget_us = request.expires_us + KNOWN_US
        try:
            outgoing = encode(request)
        except NotForThisFamily as error:
            if command_id not in self._said:
                self._verdict(request, CommandState.FAILED, str(error), now_us)
            self._known[command_id] = forget_us
            return
        said = self._said.pop(command_id, None) is not None
        if said and not outgoing.repeatable:
            self._known[command_id] = forget_us
            return
        entry = Entry(request, outgoing, now_us)
        if said:
            entry.sent_before()
        entry.offset, entry.event_offset = offset, self._event_end.get(partition, 0)
        self._entries[command_id] = entry
        self._devices.setdefault(request.device_id, deque()).append(entry)
        self._open.setdefault(partition, deque()).append(entry)
        self._look[request.device_id] = None

    def pass_over(self, partition: int, offset: int) -> None:
        """A record that is no request."""
        self._request_end[partition] = offset + 1

    def heard(self, event: CommandEvent, partition: int, offset: int) -> None:
        """A step of a command's life, whoever told it."""
        self.heard_nothing(partition, offset)
        entry = self._entries.get(event.command_id)
        if entry is None:
            if event.state is CommandState.SENT:
                if event.command_id not in self._known:
                    self._said.setdefault(event.command_id, event.at_us + KNOWN_US)
            elif event.state is not CommandState.ACCEPTED:
                self._said.pop(event.command_id, None)
                self._known.setdefault(event.command_id, event.at_us + KNOWN_US)
        elif event.state is CommandState.SENT:
            if entry.said:
                return  # our own word
            if entry.outgoing.repeatable:
                entry.sent_before()
                self._look[entry.request.device_id] = None
            else:
                self._settle(entry)
        elif event.state is CommandState.RECEIVED and entry.outgoing.repeatable:
            entry.times = len(REPEAT_US)  # it may be killed before it is done: ask again, slowly
        elif event.state is not CommandState.ACCEPTED:
            self._settle(entry)

    def heard_nothing(self, partition: int, offset: int) -> None:
        """A record of the event topic that tells nothing."""
        self._event_end[partition] = offset + 1

    # ---- what is to be done

    def verdicts(self, now_us: int) -> list[CommandEvent]:
        """What became of commands that are not sent: to be said, once."""
        for device_id in self._due_devices(now_us):
            self._look[device_id] = None
        for device_id in list(self._look):
            self._expire(device_id, now_us)
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def say_later(self, verdicts: Sequence[CommandEvent]) -> None:
        """They could not be said."""
        self._verdicts[:0] = verdicts

    def next(self, now_us: int, room: int) -> list[Entry]:
        """At most `room` commands that may be published now, one a device."""
        chosen: list[Entry] = []
        for device_id in list(self._look):
            if len(chosen) == room:
                break
            del self._look[device_id]
            entry = self._choose(device_id, now_us)
            if entry is not None:
                chosen.append(entry)
        return chosen

    def sent_event(self, entry: Entry, now_us: int) -> CommandEvent:
        """`confirmed_by` is how it will be known that the command ran: an `AnsweredBy`."""
        event = _event(entry.request, CommandState.SENT, None, now_us)
        event.confirmed_by = entry.outgoing.answered_by.value
        return event

    def wait(self, entry: Entry) -> None:
        """It could not be published just now: look at it again, in its turn."""
        self._look[entry.request.device_id] = None

    def published(self, entry: Entry, now_us: int) -> None:
        entry.stage = Stage.IN_FLIGHT
        entry.sent_us = now_us
        entry.due_us = now_us + REPEAT_US[min(entry.times, len(REPEAT_US) - 1)]
        entry.times += 1

    # ---- what the broker says

    def taken(self, entry: Entry) -> None:
        """The broker has it, and somebody listens."""
        if entry.outgoing.repeatable:
            self._later(entry, Stage.UNANSWERED)
        else:
            self._settle(entry)

    def unheard(self, entry: Entry) -> None:
        """The broker had nobody to give it to: it can be sent again, whatever the family."""
        self._later(entry, Stage.UNHEARD)

    def refused(self, entry: Entry, reason: str, now_us: int) -> None:
        if entry.stage is not Stage.SETTLED:
            self._verdict(entry.request, CommandState.FAILED, reason, now_us)
            self._settle(entry)

    def doubtful(self, entry: Entry) -> None:
        """The connection was lost before the broker said anything."""
        entry.due_us = entry.sent_us
        self.taken(entry)

    # ---- where to begin next time

    def positions(self) -> list[Position]:
        """By partition: before this, all is settled."""
        found = []
        for partition in self._request_end.keys() | self._event_end.keys():
            waiting = self._open.get(partition, deque())
            while waiting and waiting[0].stage is Stage.SETTLED:
                waiting.popleft()
            request_end = self._request_end.get(partition, -1)
            event_end = self._event_end.get(partition, -1)
            if waiting:
                request_end = waiting[0].offset
                event_end = min(entry.event_offset for entry in waiting)
            found.append(Position(partition, request_end, event_end))
        return found

    def forget(self, now_us: int) -> None:
        """Drop what cannot come again."""
        for remembered in (self._known, self._said):
            for command_id in [key for key, until in remembered.items() if until < now_us]:
                del remembered[command_id]

    # ---- inside

    def _choose(self, device_id: int, now_us: int) -> Entry | None:
        """The device's next command, if one may go now; else when to look again."""
        queue = self._devices.get(device_id)
        if queue is None:
            return None
        awaits_new = any(entry.stage is Stage.NEW for entry in queue)
        for entry in _unsettled(queue):
            if entry.stage is Stage.IN_FLIGHT:
                return None
            if entry.stage is Stage.NEW:
                return entry
            overtaken = awaits_new and now_us - entry.sent_us >= OVERTAKE_US
            if entry.due_us <= now_us or (overtaken and entry.stage is Stage.UNANSWERED):
                return entry
            self._wake(entry, entry.due_us)
            if entry.stage is Stage.UNHEARD:
                return None
        return None

    def _expire(self, device_id: int, now_us: int) -> None:
        queue = self._devices.get(device_id)
        if queue is None:
            return
        for entry in list(queue):
            if entry.stage is Stage.SETTLED:
                queue.remove(entry)
            elif entry.stage is not Stage.IN_FLIGHT and entry.left_us(now_us) <= 0:
                if entry.stage is not Stage.UNANSWERED:
                    self._verdict(entry.request, CommandState.EXPIRED, _why_late(entry), now_us)
                self._settle(entry)
                queue.remove(entry)
            elif not entry.woken_us:
                self._wake(entry, now_us + max(1, entry.left_us(now_us)))
        if not queue:
            del self._devices[device_id]

    def _wake(self, entry: Entry, at_us: int) -> None:
        if entry.woken_us != at_us:
            entry.woken_us = at_us
            heapq.heappush(self._due, (at_us, entry.request.device_id))

    def _due_devices(self, now_us: int) -> Iterator[int]:
        while self._due and self._due[0][0] <= now_us:
            yield heapq.heappop(self._due)[1]

    def _later(self, entry: Entry, stage: Stage) -> None:
        if entry.stage is not Stage.SETTLED:
            entry.stage = stage
            self._look[entry.request.device_id] = None

    def _settle(self, entry: Entry) -> None:
        entry.stage = Stage.SETTLED
        self._entries.pop(entry.request.command_id, None)
        self._known[entry.request.command_id] = entry.request.expires_us + KNOWN_US
        self._look[entry.request.device_id] = None

    def _verdict(
        self, request: CommandRequest, state: CommandState, reason: str, now_us: int
    ) -> None:
        self._verdicts.append(_event(request, state, reason, now_us))


def _unsettled(queue: deque[Entry]) -> Iterator[Entry]:
    return (entry for entry in queue if entry.stage is not Stage.SETTLED)


def _why_late(entry: Entry) -> str:
    if entry.stage is Stage.UNHEARD:
        return f"no device listened on {entry.outgoing.topic:.200} until it expired"
    return "it expired before it could be sent"


def _event(
    request: CommandRequest, state: CommandState, reason: str | None, now_us: int
) -> CommandEvent:
    return CommandEvent(
        command_id=request.command_id,
        device_id=request.device_id,
        address=request.address,
        state=state,
        at_us=now_us,
        kind=request.kind,
        channel=request.channel,
        reason=reason,
        issued_by=request.issued_by,
    )
