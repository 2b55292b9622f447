"""`trace_bucket`: one quarter hour of the ledger, and all that it was made of.

bucket → minutes and gaps → segments between register readings, and repairs → readings → partition,
offset and bytes in the raw log. Each step is checked: the bucket is the sum of its minutes and its
share of gaps, the minutes are what the readings say now, and the bytes still decode to the reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from msgspec.structs import astuple

from infra.tracing.raw_records import Held, RawRecord, fetch
from ingest.decoders.topic_table import decode
from schemas.decoded import Undecodable
from schemas.families import FAMILIES
from schemas.reading import VALUE_NAMES, Values
from schemas.topics import RawHeader
from schemas.units import DAY_US, QUARTER_US
from sinks.queries import EPOCH
from sinks.registry import DeviceRow, RegistryError, summed_channels
from sinks.trace_rows import QUARTER, QuarterRows, StoredReading, quarter_rows
from streams.energy import Point, minutes_of, point_of
from streams.partition import limits_of
from streams.registers import Limits, Segment, register_segments

_ANY_AGE_US = 100 * 366 * DAY_US  # what was believed when it came is believed now


class NothingStored(RegistryError):
    """The ledger has no row there."""


class ManyChannels(RegistryError):
    """A trace follows one channel, and the device has several."""


@dataclass(frozen=True)
class TracedSegment:
    """Two readings of a register that the bucket's energy was taken from, and their difference."""

    is_export: bool
    segment: Segment
    before_uwh: int
    after_uwh: int


@dataclass(frozen=True)
class TracedReading:
    """A reading with its record of the raw log, or why there is none.

    `agrees`: the bytes still decode to what is stored; None without a record.
    """

    reading: StoredReading
    record: RawRecord | None
    missing: str | None
    agrees: bool | None


@dataclass(frozen=True)
class BucketTrace:
    """All that one quarter hour of the ledger was made of. Energies in µWh."""

    device: DeviceRow
    channel: str
    rows: QuarterRows
    segments: list[TracedSegment]
    readings: list[TracedReading]
    conflicts: list[TracedReading]
    gap_shares: list[tuple[int, int]]  # import and export of each gap within the bucket
    recomputed_uwh: tuple[int, int]  # minutes from the readings of now: import, export

    @property
    def minutes_uwh(self) -> tuple[int, int]:
        minutes = [minute for minute, _ in self.rows.minutes]
        return sum(m.energy_uwh for m in minutes), sum(m.export_uwh for m in minutes)

    @property
    def adds_up(self) -> bool:
        """Whether the bucket is the sum of its minutes and its share of the gaps."""
        quarter = self.rows.quarter
        assert quarter is not None
        energy, export = self.minutes_uwh
        energy += sum(share for share, _ in self.gap_shares)
        export += sum(share for _, share in self.gap_shares)
        return (energy, export) == (quarter.energy_uwh, quarter.export_uwh)

    @property
    def minutes_follow(self) -> bool:
        """Whether the minutes are what the readings say now."""
        return self.minutes_uwh == self.recomputed_uwh


def trace_bucket(
    conn: psycopg.Connection[tuple[object, ...]],
    kafka_bootstrap: str,
    device: DeviceRow,
    channel: str | None,
    at: datetime,
) -> BucketTrace:
    """Trace the quarter hour that holds `at`; of the device's one whole where `channel` is None.

    Raises RegistryError for a channel or a quarter hour that is not there, LogUnreachable, and
    psycopg's errors.
    """
    name, channel_id = _channel(conn, device, channel)
    start = at - (at - EPOCH) % QUARTER
    start_us = (start - EPOCH) // QUARTER * QUARTER_US
    limits = limits_of(FAMILIES[device.family], device.gap_limit_s, device.max_power_w)
    rows = quarter_rows(conn, channel_id, start_us, limits.gap_limit_us)
    if rows is None or rows.quarter is None:
        raise NothingStored(
            f"{device.name or device.address}, channel {name}: the ledger has no quarter hour at "
            f"{start.isoformat()}; see `meterstream usage … --bucket 15m`"
        )
    points = [point_of(one.measured_us, Values(*one.values)) for one in rows.readings]
    segments = segments_of(points, rows.start_us, rows.end_us, limits)
    made = made_by(points, rows, segments, limits)
    readings = [one for one in rows.readings if one.measured_us in made]
    contested = {one.measured_us for one in rows.conflicts}
    offsets = [one.offset for one in (*readings, *rows.conflicts)]
    held = fetch(kafka_bootstrap, rows.part, offsets)
    until_us = min(rows.end_us, max(rows.start_us, rows.complete_until_us))
    minutes = minutes_of(points, rows.start_us, until_us, limits).minutes
    return BucketTrace(
        device,
        name,
        rows,
        segments,
        [_traced(name, one, held, contested) for one in readings],
        [_traced(name, one, held, None) for one in rows.conflicts],
        [gap_share(*gap[1:5], rows.start_us, rows.end_us) for gap, _ in rows.gaps],
        (sum(m.energy_uwh for m in minutes), sum(m.export_uwh for m in minutes)),
    )


def _channel(
    conn: psycopg.Connection[tuple[object, ...]], device: DeviceRow, wanted: str | None
) -> tuple[str, int]:
    rows = conn.execute(
        "SELECT name, channel_id FROM channel WHERE device_id = %s ORDER BY name",
        [device.device_id],
    )
    known: dict[str, int] = dict(rows.fetchall())  # type: ignore[arg-type]
    called, names = device.name or device.address, ", ".join(known) or "none yet"
    if wanted is not None and wanted not in known:
        raise RegistryError(f"{called} has no channel {wanted!r}; it has {names}")
    chosen = summed_channels(known) if wanted is None else [wanted]
    if len(chosen) != 1:
        raise ManyChannels(f"{called} is not one channel; give --channel, one of {names}")
    return chosen[0], known[chosen[0]]


def segments_of(
    points: Sequence[Point], start_us: int, end_us: int, limits: Limits
) -> list[TracedSegment]:
    """The segments of both registers that touch [start_us, end_us)."""
    found = []
    for column, is_export in ((2, False), (3, True)):
        register = {p.at_us: p[column] for p in points if p[column] is not None}
        told = register_segments(list(register.items()), limits, is_export=is_export)  # type: ignore[arg-type]
        for segment in told.segments:
            if segment.start_us < end_us and segment.end_us > start_us:
                ends = register[segment.start_us], register[segment.end_us]
                found.append(TracedSegment(is_export, segment, *ends))  # type: ignore[arg-type]
    return found


def made_by(
    points: Sequence[Point], rows: QuarterRows, segments: Sequence[TracedSegment], limits: Limits
) -> set[int]:
    """The instants of the readings that the bucket's energy came from.

    Those in it, those in the segments that cross its ends, the power readings next to it within
    the gap limit, and those whose own interval reaches into it.
    """
    start_us, end_us = rows.start_us, rows.end_us
    low = min([start_us, *(one.segment.start_us for one in segments)])
    high = max([end_us - 1, *(one.segment.end_us for one in segments)])
    low = min([low, *(repair.start_us for repair, _ in rows.repairs)])
    high = max([high, *(repair.end_us for repair, _ in rows.repairs)])
    power = [p.at_us for p in points if p.power_mw is not None]
    before = max((at for at in power if at < start_us), default=low)
    after = min((at for at in power if at >= end_us), default=high)
    if start_us - before <= limits.gap_limit_us:
        low = min(low, before)
    if after - end_us <= limits.gap_limit_us:
        high = max(high, after)
    reaching = {p.at_us for p in points if p.at_us >= end_us > p.at_us - (p.interval_us or 0)}
    return {p.at_us for p in points if low <= p.at_us <= high} | reaching


def gap_share(
    begins_us: int, ends_us: int, energy: int, export: int, start_us: int, end_us: int
) -> tuple[int, int]:
    """A gap's energy within the bucket, by the roll-up's cumulative rounding."""
    width = ends_us - begins_us
    upto, since = min(ends_us, end_us) - begins_us, max(begins_us, start_us) - begins_us
    return (
        energy * upto // width - energy * since // width,
        export * upto // width - export * since // width,
    )


def _traced(
    channel: str, reading: StoredReading, held: Held, contested: set[int] | None
) -> TracedReading:
    record = held.records.get(reading.offset)
    if record is None:
        return TracedReading(reading, None, held.missing(reading.offset), None)
    if contested is None:  # the message that contradicted, which may have won
        return TracedReading(reading, record, None, None)
    enough = any if reading.measured_us in contested else all
    return TracedReading(reading, record, None, enough(agreements(channel, reading, record)))


def agreements(channel: str, reading: StoredReading, record: RawRecord) -> list[bool]:
    """For each value that a record's bytes say of a channel at an instant: is it stored?

    More may be stored, where two messages of one instant were merged.
    """
    headers = record.headers
    try:
        said = decode(
            headers[RawHeader.TOPIC].decode(errors="replace"),
            record.value,
            int(headers[RawHeader.RECEIVED_AT]),
            retained=RawHeader.RETAINED in headers,
            oldest_us_back=_ANY_AGE_US,
        )
    except (Undecodable, KeyError, ValueError):
        return [False]
    stored = dict(zip(VALUE_NAMES, reading.values, strict=True))
    return [
        value == stored[name]
        for one in said.readings
        if one.channel == channel and one.measured_us == reading.measured_us
        for name, value in zip(VALUE_NAMES, astuple(one.values), strict=True)
        if value is not None
    ] or [False]
