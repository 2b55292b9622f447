"""Windows through `decode_chunks` and `fold`: late and doubled records, ticks, cuts, crashes.

The model is the database as `streams.store` leaves it, in dictionaries. However records came,
wherever chunks were cut, and whatever a crash threw away, the windows that are stored in the end
are those of `minutes_of` over all readings in order of time, and their energy is the register's.
"""

import json
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from schemas.reading import ValueRow, Values
from schemas.units import MINUTE_US, SECOND_US
from sinks.usage_windows import ChannelStateRow
from streams.energy import GapEnergy, Limits, Minute, Point, minutes_of, point_of
from streams.fold import fold, missing_channels
from streams.partition import Channel, Device, Partition
from streams.recompute import affected, fetch_bounds
from streams.records import decode_chunks, meet, strangers
from streams.windows import ChannelWindows, Span, held_of
from streams.work import Work
from tests.examples import examples

PART = 3
T0 = 1_700_000_040 * SECOND_US  # a whole minute
LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)
NODES = ("steady", "power", "wild", "stored", "healed")  # what each says: `said_of`
CHANNEL_OF = {node: number for number, node in enumerate(NODES, start=1)}
LATE_S = st.sampled_from([0, 0, 0, 0, 3, 5, 31, 61.5, 118, 290, 420, 3700, 7300])
STEP_S = st.sampled_from([1, 5, 5, 5, 30, 60, 61.5, 290, 301, 900])
PAUSE_S = st.sampled_from([0, 1, 10, 60, 70, 310, 3700, 7400])


@dataclass
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass
class Database:
    """The tables that a transaction changes, and what of them a new owner is told."""

    readings: dict[int, dict[int, tuple[int, int | None, ValueRow]]] = field(default_factory=dict)
    minutes: dict[tuple[int, int], Minute] = field(default_factory=dict)
    gaps: dict[tuple[int, int, int], GapEnergy] = field(default_factory=dict)
    states: dict[int, ChannelStateRow] = field(default_factory=dict)
    dirty: list[tuple[int, int, Span]] = field(default_factory=list)  # offset, channel, span
    next_offset: int = 0
    stream_us: int = 0
    ticks: dict[str, int] = field(default_factory=dict)

    def store(self, work: Work) -> None:
        for advance in work.advances:
            assert advance.expected == self.next_offset, "the fence"
            self.next_offset = advance.next_offset
            assert advance.stream_us >= self.stream_us
            self.stream_us, self.ticks = advance.stream_us, advance.ticks
        for channel_id, at_us, _, offset, seq, _, _, values in [
            *work.rows,
            *work.late_rows,
            *work.samples.columns.rows(),
        ]:
            stored = self.readings.setdefault(channel_id, {})
            known = stored.setdefault(at_us, (offset, seq, values))
            assert known[2] == values, "the same key always says the same here"
        assert [*work.merged, *work.conflicts, *work.refused] == []
        for row in work.minutes:
            key = (row.channel.channel_id, row.minute.start_us)
            assert key not in self.minutes, "a window completes once"
            assert row.minute.start_us + MINUTE_US <= self.stream_us, "and not ahead of time"
            self.minutes[key] = row.minute
        for row in work.gaps:
            self.gaps[row.channel.channel_id, row.gap.start_us, row.gap.end_us] = row.gap
        for redo in work.redo:
            self._redo(redo.channel.channel_id, redo.span, redo.complete_until_us, redo.offset)
        for _, offset in work.settled.items():
            self.dirty = [row for row in self.dirty if row[0] >= offset]
        self.dirty += [(row.offset, row.channel.channel_id, row.span) for row in work.changed]
        self.states.update((row.channel_id, row) for row in work.channel_states)

    def _redo(self, channel: int, span: Span, complete_until_us: int, offset: int) -> None:
        points = self.points(channel, offset)
        low, high = fetch_bounds(points, span, LIMITS)
        near = [point for point in points if low <= point.at_us <= high]
        start, end = affected(near, span, complete_until_us, LIMITS)
        done = minutes_of(near, start, end, LIMITS)
        for key in [k for k in self.minutes if k[0] == channel and start <= k[1] < end]:
            del self.minutes[key]
        for gap in [k for k in self.gaps if k[0] == channel and start <= k[1] < end]:
            del self.gaps[gap]
        self.minutes.update(((channel, minute.start_us), minute) for minute in done.minutes)
        self.gaps.update(((channel, *gap[:2]), gap) for gap in done.gaps)

    def points(self, channel: int, until: int) -> list[Point]:
        stored = sorted(self.readings.get(channel, {}).items())
        return [point_of(at, Values(*row)) for at, (offset, _, row) in stored if offset <= until]


def taken_over(database: Database) -> Partition:
    """The memory of a new owner, as `streams.takeover` makes it from the tables."""
    partition = Partition(
        PART, 1, database.next_offset, 0, database.stream_us, dict(database.ticks)
    )
    channels: dict[int, Channel] = {}
    for node, channel_id in CHANNEL_OF.items():
        state = database.states.get(channel_id)
        if state is None:
            continue
        stored = database.readings.get(channel_id, {})
        held = [
            held_of(at, *stored[at][1:]) for at in sorted(stored) if at >= state.context_from_us
        ]
        windows = ChannelWindows(
            LIMITS, state.complete_until_us, held, context_full=state.context_full
        )
        windows.heard_us = partition.stream_us
        channel = _channel(partition, node, windows)
        channels[channel_id] = channel
    for _, channel_id, span in database.dirty:
        channel = channels[channel_id]
        partition.mark_changed(channel, span)
        channel.stored_changes = len(channel.changed)
        partition.has_stored_changes = True
    for channel in channels.values():
        partition.schedule(channel)
    return partition


def _channel(partition: Partition, node: str, windows: ChannelWindows | None) -> Channel:
    device = Device(CHANNEL_OF[node], f"homesync:h/{node}", (), LIMITS)
    partition.devices[device.address] = device
    channel = device.channels["total"] = Channel(CHANNEL_OF[node], "total", device, windows)
    return channel


def said_of(node: str, at_s: float, chance: Any) -> dict[str, float]:
    """What a node says at an instant. `steady` has a register that follows the time alone."""
    power = chance.randrange(-2000, 9000) / 4
    wild = chance.choice([at_s / 5, at_s / 5, at_s / 5, 0.5, at_s * 10, 1e9])
    match node:
        case "steady":
            return {"power_w": power, "import_total_wh": round(at_s / 5, 3)}
        case "power":
            return {"power_w": power}
        case "healed" if chance.random() < 0.5:  # a register, and what it stored of its silences
            return {"import_total_wh": round(at_s / 5, 3)}
        case "stored" | "healed":
            width = chance.choice([60, 60, 30, 90])
            return {"interval_s": width, "interval_import_wh": chance.randrange(1000) / 10}
    values = {"power_w": power, "import_total_wh": wild, "export_total_wh": round(at_s / 9, 3)}
    return {name: values[name] for name in values if chance.random() < 0.7} or {"power_w": power}


class Windows(RuleBasedStateMachine):
    @initialize(chance=st.randoms(use_true_random=False))
    def start(self, chance: Any) -> None:
        self.chance = chance
        self.log: list[Record] = []
        self.said: dict[tuple[str, float], bytes] = {}
        self.now_s = 8000.0
        self.database = Database()
        self.folded: deque[Work] = deque()
        self.partition = taken_over(self.database)
        self.read_at = 0

    # ---- the log

    @rule(node=st.sampled_from(NODES), steps=st.lists(st.tuples(STEP_S, LATE_S), max_size=12))
    def say(self, node: str, steps: list[tuple[float, float]]) -> None:
        """Readings in time, late ones between them; an instant said before is a duplicate."""
        for step_s, late_s in steps:
            self.now_s += step_s
            at_s = round(self.now_s - late_s, 3)
            payload = self.said.get((node, at_s))
            if payload is None:
                said = {
                    "v": 1, "boot": "b", "seq": 1, "first": 1, "ts": (T0 / SECOND_US) + at_s,
                    "channels": {"total": said_of(node, at_s, self.chance)},
                }  # fmt: skip
                payload = self.said[node, at_s] = json.dumps(said).encode()
            received_us = T0 + round(self.now_s * SECOND_US)
            self._append(
                f"homesync:h/{node}".encode(),
                payload,
                [
                    ("mqtt_topic", f"homesync/h/nodes/{node}/telemetry/power".encode()),
                    ("received_at", str(received_us).encode()),
                    ("source", b"mqtt"),
                    ("shard", b"s0"),
                ],
            )

    @rule(shards=st.sampled_from(["a", "a", "b", "ab"]), pause_s=PAUSE_S)
    def tick(self, shards: str, pause_s: float) -> None:
        self.now_s += pause_s
        at_us = T0 + round(self.now_s * SECOND_US)
        for shard in shards:
            headers = [("shard", shard.encode()), ("tick", str(at_us).encode())]
            self._append(None, None, headers)

    def _append(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> None:
        timestamp = (T0 + round(self.now_s * SECOND_US)) // 1000 + 1
        self.log.append(Record(len(self.log), timestamp, key, value, headers))

    # ---- the worker

    @rule(most=st.integers(1, 30), stores=st.booleans())
    def fold(self, most: int, stores: bool) -> None:
        """The next records into memory, at most one transaction ahead of the database."""
        records = self.log[self.read_at : self.read_at + most]
        if records:
            if len(self.folded) > 1:
                self.store()
            self.read_at += len(records)
            fetched = [(self.partition, records)]
            unknown = strangers(fetched)
            for missing in missing_channels(decode_chunks(unknown)[0]):
                _channel(self.partition, missing.address.rpartition("/")[2], None)
            meet(unknown)
            self.folded.append(fold(*decode_chunks(fetched)))
        if stores:
            self.store()

    def store(self) -> None:
        if self.folded:
            self.database.store(self.folded.popleft())

    @rule(again=st.integers(0, 8))
    def crash(self, again: int) -> None:
        """What was folded and not stored is gone; some of what is stored is read once more."""
        self.folded.clear()
        self.partition = taken_over(self.database)
        self.read_at = max(0, self.database.next_offset - again)

    # ---- in the end

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        for _ in range(3):
            self.tick("ab", 8000)
        while self.read_at < len(self.log):
            self.fold(17, False)
        while self.folded:
            self.store()
        assert self.database.next_offset == len(self.log)
        for node, channel in CHANNEL_OF.items():
            self._check(node, channel)

    def _check(self, node: str, channel: int) -> None:
        database = self.database
        points = database.points(channel, len(self.log))
        assert len(points) == sum(name == node for name, _ in self.said), "each reading, once"
        if not points:
            return
        start = min(point.at_us - (point.interval_us or 0) for point in points)
        end = points[-1].at_us - points[-1].at_us % MINUTE_US + MINUTE_US
        whole = minutes_of(points, start - start % MINUTE_US, end, LIMITS)
        minutes = [database.minutes[k] for k in sorted(database.minutes) if k[0] == channel]
        gaps = [database.gaps[k] for k in sorted(database.gaps) if k[0] == channel]
        assert minutes == whole.minutes
        assert gaps == whole.gaps
        if node == "steady":
            registers = [point.import_uwh or 0 for point in points]
            assert all(a < b for a, b in pairwise(registers))
            energy = sum(m.energy_uwh for m in minutes) + sum(g.energy_uwh for g in gaps)
            assert energy == registers[-1] - registers[0], "conserved to the µWh"


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=examples(60), deadline=None)
