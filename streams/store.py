"""One transaction: the fence, the rows, the windows, the state; all of it or nothing."""

from collections.abc import Sequence
from typing import Any

import psycopg

from schemas.decoded import Reason
from schemas.device import StateValue
from schemas.topics import RAW
from schemas.units import QUARTER_US
from schemas.usage import Quality, Why
from sinks import device_registry, progress, readings_hypertable, register_repairs, usage_windows
from sinks.copy_block import BlockBuilder
from sinks.register_repairs import Redone, RepairRecord
from sinks.usage_windows import GapRecord, MinuteRecord
from streams.energy import Minute, minutes_of
from streams.late import point_of_stored as point_of_stored
from streams.late import points_of
from streams.merge import merge
from streams.recompute import affected
from streams.records import Message, Refused, refuse, refuse_sample
from streams.registers import Repair
from streams.work import Redo, Work

Changed = list[tuple[MinuteRecord, int]]
"""Windows with the log offset that changed them."""


def minute_record(channel_id: int, minute: Minute) -> MinuteRecord:
    low, high, mean = minute.power_min_mw, minute.power_max_mw, None
    if minute.power_readings:
        mean = minute.power_sum_mw / minute.power_readings / 1000
    return MinuteRecord(
        channel_id,
        minute.start_us,
        minute.energy_uwh,
        minute.export_uwh,
        None if low is None else low / 1000,
        mean,
        None if high is None else high / 1000,
        minute.readings,
        int(minute.quality),
        int(minute.why),
    )


def repair_record(channel_id: int, repair: Repair) -> RepairRecord:
    return RepairRecord(
        channel_id,
        repair.start_us,
        repair.at_us,
        repair.is_export,
        repair.end_us,
        int(repair.why),
        repair.energy_uwh,
        repair.before_uwh,
        repair.after_uwh,
    )


class Store:
    """Stores `Work` over one connection. `published` tells how far Kafka has confirmed."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._builder = BlockBuilder()

    def store(self, work: Work, published: dict[int, int]) -> None:
        """Run the transaction. Raises FencedOut, or a psycopg error with nothing stored."""
        while True:
            try:
                self._transaction(work, published)
                return
            except readings_hypertable.Unstorable as poison:
                _refuse_rows(work, poison)

    def _transaction(self, work: Work, published: dict[int, int]) -> None:
        conn = self.conn
        with conn.transaction():
            steps = [
                progress.Step(
                    a.part,
                    a.epoch,
                    a.expected,
                    a.next_offset,
                    published.get(a.part, 0),
                    a.stream_us,
                    a.ticks,
                )
                for a in work.advances
            ]
            if not progress.advance(conn, RAW.name, steps):
                work.stored_before = True
                return
            for part, start, end in work.gaps_in_log:
                progress.note_log_gap(conn, RAW.name, part, start, end)
            self._store_readings(work)
            self._store_said(work)
            changed = self._store_windows(work)
            self._store_announcements(work, changed)
        work.changed_minutes = changed

    def _store_readings(self, work: Work) -> None:
        conn, builder = self.conn, self._builder
        columns = work.samples.columns
        copied = readings_hypertable.copy_columns(conn, columns)
        if copied is None:  # some are known, or refused for what they hold: row by row
            work.rows += columns.rows()
            columns.new = bytearray(len(columns.new))
        stored = readings_hypertable.copy_new(conn, builder, work.rows, merge)
        late = readings_hypertable.merge_late(conn, builder, work.late_rows, merge)
        readings_hypertable.update_merged(conn, work.merged)
        readings_hypertable.store_conflicts(conn, work.conflicts)
        work.stored = (copied or 0) + stored.new + late.new
        work.stored_duplicates = stored.duplicates + late.duplicates

    def _store_said(self, work: Work) -> None:
        conn = self.conn
        device_registry.keep_refused(
            conn,
            (
                (
                    r.part,
                    r.offset,
                    r.address,
                    r.mqtt_topic,
                    int(r.source),
                    r.received_us,
                    r.reason.value,
                    r.error,
                    r.payload,
                )
                for r in work.refused
            ),
        )
        device_registry.keep_fields(
            conn,
            (
                (
                    c.device.device_id,
                    c.state.channel or "",
                    name,
                    value,
                    c.state.measured_us,
                    c.offset,
                )
                for c in work.states
                for name, value in sorted(c.state.fields.items(), key=_is_relay)
            ),
        )
        device_registry.keep_events(
            conn,
            (
                (
                    e.part,
                    e.offset,
                    e.number,
                    e.device.device_id,
                    e.event.channel,
                    e.event.name,
                    e.event.measured_us,
                    e.event.attributes,
                )
                for e in work.events
            ),
        )

    def _store_windows(self, work: Work) -> Changed:
        conn = self.conn
        new: Changed = [
            (minute_record(row.channel.channel_id, row.minute), row.offset) for row in work.minutes
        ]
        usage_windows.copy_new_minutes(conn, new)
        gaps = [(GapRecord(r.channel.channel_id, *r.gap), r.offset) for r in work.gaps]
        usage_windows.revise_gaps(conn, gaps)
        register_repairs.keep(
            conn, [(repair_record(r.channel.channel_id, r.repair), r.offset) for r in work.repairs]
        )
        # What is new is stored by now: a late reading of the same transaction may change it.
        redone, redone_gaps = self._redo(work.redo)
        usage_windows.revise_minutes(conn, redone)
        usage_windows.revise_gaps(conn, list({r[:3]: (r, o) for r, o in redone_gaps}.values()))
        gaps += redone_gaps
        usage_windows.settle_dirty(conn, work.settled)
        usage_windows.keep_dirty(
            conn,
            [(c.part, c.offset, c.channel.channel_id, *c.span) for c in work.changed],
        )
        usage_windows.keep_channel_states(conn, work.channel_states)
        usage_windows.keep_limits(conn, work.limits)
        changed = new + redone
        quarters = {(row.channel_id, row.start_us // QUARTER_US * QUARTER_US) for row, _ in changed}
        for gap, _ in gaps:
            first, last = gap.start_us // QUARTER_US, (gap.end_us - 1) // QUARTER_US
            quarters |= {(gap.channel_id, q * QUARTER_US) for q in range(first, last + 1)}
        usage_windows.mark_for_rollup(conn, sorted(quarters | work.left_quarters))
        return changed

    def _redo(self, redos: Sequence[Redo]) -> tuple[Changed, list[tuple[GapRecord, int]]]:
        """Compute complete windows anew from what is stored; give those that differ.

        The repairs that explain them are replaced.
        """
        if not redos:
            return [], []
        conn = self.conn
        ranges, minutes, gaps, repairs = [], [], [], []
        for redo, points in zip(redos, points_of(conn, redos), strict=True):
            limits = redo.channel.device.limits
            start, end = affected(points, redo.span, redo.complete_until_us, limits)
            done = minutes_of(points, start, end, limits)
            channel_id = redo.channel.channel_id
            ranges.append((channel_id, start, end))
            minutes.append({m.start_us: minute_record(channel_id, m) for m in done.minutes})
            gaps.append({g[:2]: GapRecord(channel_id, *g) for g in done.gaps})
            told = [repair_record(channel_id, repair) for repair in done.repairs]
            repairs.append(Redone(channel_id, start, end, redo.offset, told))
        register_repairs.replace(conn, repairs)
        stored = usage_windows.stored_windows(conn, ranges)
        # As stored, then as each span leaves it: a later one may take back what one changed.
        now: dict[int, tuple[dict[int, MinuteRecord], dict[tuple[int, int], GapRecord]]] = {}
        for (channel_id, _, _), (old, old_gaps) in zip(ranges, stored, strict=True):
            minutes_now, gaps_now = now.setdefault(channel_id, ({}, {}))
            minutes_now.update(old)
            gaps_now.update(old_gaps)
        changed_minutes: dict[tuple[int, int], tuple[MinuteRecord, int]] = {}
        changed_gaps: list[tuple[GapRecord, int]] = []
        for redo, one, new, new_gaps in zip(redos, ranges, minutes, gaps, strict=True):
            channel_id, start, end = one
            minutes_now, gaps_now = now[channel_id]
            for start_us in [at for at in minutes_now if start <= at < end and at not in new]:
                new[start_us] = _emptied(minutes_now[start_us])
            for key in [k for k in gaps_now if start <= k[0] < end and k not in new_gaps]:
                new_gaps[key] = gaps_now[key]._replace(energy_uwh=0, export_uwh=0)
            for start_us in sorted(new):
                if minutes_now.get(start_us) != new[start_us]:
                    minutes_now[start_us] = new[start_us]
                    changed_minutes[channel_id, start_us] = (new[start_us], redo.offset)
            for key, gap in new_gaps.items():
                if gaps_now.get(key) != gap:
                    gaps_now[key] = gap
                    changed_gaps.append((gap, redo.offset))
        return list(changed_minutes.values()), changed_gaps

    def _store_announcements(self, work: Work, changed: Changed) -> None:
        if not changed:
            return
        part_of = {row.channel.channel_id: row.part for row in work.minutes}
        part_of |= {redo.channel.channel_id: redo.part for redo in work.redo}
        by_part: dict[int, list[tuple[int, int]]] = {}
        for record, _ in changed:
            by_part.setdefault(part_of[record.channel_id], []).append(record[:2])
        ends = {a.part: a.next_offset - 1 for a in work.advances}
        for part, windows in by_part.items():
            usage_windows.keep_announcement(self.conn, part, ends[part], windows)


def _emptied(row: MinuteRecord) -> MinuteRecord:
    """A window that has lost all its energy to a correction keeps its row."""
    return MinuteRecord(
        row.channel_id, row.start_us, 0, 0, None, None, None, 0, int(Quality.GAP), int(Why.SILENCE)
    )


def _is_relay(field: tuple[str, StateValue]) -> bool:
    """Stored last: the trigger `note_relay` looks for what the same message named as its cause."""
    return field[0] == "relay"


def _refuse_rows(work: Work, poison: readings_hypertable.Unstorable) -> None:
    """Take rows that the database will not store out of the work and refuse their messages."""
    bad = {id(row) for row in poison.rows}
    work.rows = [row for row in work.rows if id(row) not in bad]
    work.late_rows = [row for row in work.late_rows if id(row) not in bad]
    for row in poison.rows:
        work.refused.append(_refusal(work, row[0], row[3], str(poison)))


def _refusal(work: Work, channel_id: int, offset: int, error: str) -> Refused:
    samples = work.samples
    for partition, parsed, _ in work.chunks:
        for item in parsed:
            if isinstance(item, range):
                for i in item:
                    place = (samples.records[i].offset, samples.channels[i].channel_id)
                    if place == (offset, channel_id):
                        return refuse_sample(partition.part, samples, i, Reason.UNSTORABLE, error)
            elif isinstance(item, Message) and item.offset == offset:
                device = partition.devices.get(item.decoded.address)
                channels = device.channels.values() if device else ()
                if any(channel.channel_id == channel_id for channel in channels):
                    return refuse(partition.part, item, Reason.UNSTORABLE, error)
    raise LookupError(f"channel {channel_id}: no message of offset {offset} is in this transaction")
