"""The windows of a device: stored ones, and those after the last complete one, computed now.

Minutes that are not complete come from stored readings by `streams.energy.minutes_of`, the rule
that will complete them. Buckets of 15 minutes and more are taken from the ledger as far as it is
complete; the bucket after that adds up complete quarters, complete minutes and open minutes.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from api.buckets import Buckets
from schemas.families import FAMILIES
from schemas.reading import Values
from schemas.units import MINUTE_US, MW_PER_W, QUARTER_US
from schemas.usage import Quality, Why
from sinks import queries
from sinks.queries import EPOCH, ChannelProgress, CivilTable, Connection, GapRow, Span, UsageRow
from sinks.registry import DeviceRow
from streams.energy import Limits, Minute, minutes_of, point_of
from streams.partition import limits_of

MOST_OPEN_READINGS = 10_000
"""More than gap limit and grace can leave open; a stalled stream shows in `provisional_until`."""

_CIVIL: dict[str, CivilTable] = {"1d": "usage_1d", "1w": "usage_1w", "1mo": "usage_1mo"}
_MICROSECOND = timedelta(microseconds=1)
_QUALITY_NAMES = [one.name.lower() for one in Quality]
_WHY_NAMES = [one.name.lower() for one in Why]


class Window(NamedTuple):
    """A window and, in it, what comes of minutes that are not complete."""

    row: UsageRow
    provisional_uwh: int = 0
    provisional_export_uwh: int = 0


@dataclass
class ChannelUsage:
    """The windows of one channel, by time; before `materialized_until` they are complete."""

    windows: list[Window]
    materialized_until: datetime | None
    provisional_until: datetime | None = None
    gaps: list[GapRow] = field(default_factory=list)


async def channel_usage(
    conn: Connection, device: DeviceRow, channel: ChannelProgress, buckets: Buckets, span: Span
) -> ChannelUsage:
    """The windows of a channel in `span`, whose ends are ends of buckets."""
    limits = limits_of(FAMILIES[device.family], device.gap_limit_s, device.max_power_w)
    opened = await _open_minutes(conn, channel, limits, span)
    if buckets.bucket == "1m":
        stored = await queries.usage_minutes(conn, channel.channel_id, span)
        return ChannelUsage(
            [Window(row) for row in stored] + opened,
            channel.complete_until,
            _end_of(opened),
            await queries.gap_energy(conn, channel.channel_id, span),
        )
    complete, tail_from = await _ledger(conn, channel, buckets, span)
    tail = await _tail(conn, channel, Span(max(span.start, tail_from), span.end))
    return ChannelUsage(
        list(_folded(complete, [*tail, *opened], buckets, tail_from)),
        None if channel.ledger_until is None else buckets.start(channel.ledger_until),
        _end_of(opened),
    )


async def _ledger(
    conn: Connection, channel: ChannelProgress, buckets: Buckets, span: Span
) -> tuple[list[UsageRow], datetime]:
    """Stored rows of buckets that are complete, then complete quarters of the next one.

    The second value is where the ledger ends.
    """
    tail_from = channel.ledger_until or EPOCH
    open_from = buckets.start(tail_from)
    whole = Span(span.start, min(span.end, open_from))
    part = Span(max(span.start, open_from), min(span.end, tail_from))
    number = channel.channel_id
    rows: list[UsageRow] = []
    if whole.start < whole.end:
        if buckets.bucket == "15m":
            rows = await queries.usage_quarters(conn, number, whole)
        elif buckets.bucket == "1h":
            rows = await queries.usage_hours(conn, number, whole)
        else:
            table, zone = _CIVIL[buckets.bucket], buckets.zone.key
            first, end = buckets.first_day(whole.start), buckets.first_day(whole.end)
            rows = await queries.usage_civil(conn, table, number, zone, first, end)
    if part.start < part.end:
        rows += await queries.usage_quarters(conn, number, part)
    return rows, tail_from


async def _tail(conn: Connection, channel: ChannelProgress, span: Span) -> list[Window]:
    """What is complete but not in the ledger yet: minutes, and silences' energy, by quarter."""
    if span.start >= span.end:
        return []
    quarters = await queries.tail_quarters(conn, channel.channel_id, span)
    gaps = await queries.gap_energy(conn, channel.channel_id, span)
    spread = (part for gap in gaps for part in _spread(gap, span))
    return [Window(row) for row in [*quarters, *spread]]


def _spread(gap: GapRow, span: Span) -> Iterator[UsageRow]:
    """The quarters of a silence within `span`, by cumulative rounding."""
    start_us, end_us = _us(gap.start), _us(gap.end)
    width, before_us = end_us - start_us, start_us
    while before_us < end_us:
        until_us = min(before_us - before_us % QUARTER_US + QUARTER_US, end_us)
        quarter = _at(before_us - before_us % QUARTER_US)
        if span.start <= quarter < span.end:
            energy, export = (
                total * (until_us - start_us) // width - total * (before_us - start_us) // width
                for total in (gap.energy_uwh, gap.export_uwh)
            )
            yield UsageRow(
                quarter,
                energy,
                export,
                None,
                None,
                None,
                0,
                Quality.INTERPOLATED,
                gap.why,
                0,
                False,
            )
        before_us = until_us


# ---------------------------------------------------------------- minutes that are still open


async def _open_minutes(
    conn: Connection, channel: ChannelProgress, limits: Limits, span: Span
) -> list[Window]:
    if channel.complete_until is not None and span.end <= channel.complete_until:
        return []
    held = await queries.open_readings(
        conn, channel.channel_id, channel.context_from, MOST_OPEN_READINGS
    )
    if not held:
        return []
    return await asyncio.to_thread(_computed, held, channel.complete_until, limits, span)


def _computed(
    held: list[tuple[datetime, Values]],
    complete_until: datetime | None,
    limits: Limits,
    span: Span,
) -> list[Window]:
    points = [point_of(_us(at), values) for at, values in held]
    first, last = points[0], points[-1]
    begin_us = first.at_us - (first.interval_us or 0)
    if complete_until is not None:
        begin_us = _us(complete_until)
    begin_us -= begin_us % MINUTE_US
    end_us = last.at_us - last.at_us % MINUTE_US + MINUTE_US
    begin_us, end_us = max(begin_us, _us(span.start)), min(end_us, _us(span.end))
    if begin_us >= end_us:
        return []
    return [_window(one) for one in minutes_of(points, begin_us, end_us, limits).minutes]


def _window(minute: Minute) -> Window:
    low, high, mean = minute.power_min_mw, minute.power_max_mw, None
    if minute.power_readings:
        mean = minute.power_sum_mw / minute.power_readings / MW_PER_W
    row = UsageRow(
        _at(minute.start_us),
        minute.energy_uwh,
        minute.export_uwh,
        None if low is None else low / MW_PER_W,
        mean,
        None if high is None else high / MW_PER_W,
        minute.readings,
        Quality.PROVISIONAL,
        Why.NOT_COMPLETE,
        0,
        False,
    )
    return Window(row, minute.energy_uwh, minute.export_uwh)


def _end_of(opened: list[Window]) -> datetime | None:
    return opened[-1].row.start + timedelta(minutes=1) if opened else None


# ---------------------------------------------------------------- adding up


def _folded(
    complete: list[UsageRow], tail: list[Window], buckets: Buckets, tail_from: datetime
) -> Iterator[Window]:
    """One window a bucket, by time; one that ends after `tail_from` is not complete."""
    parts: dict[datetime, list[Window]] = {}
    for window in [*map(Window, complete), *tail]:
        start = buckets.start(window.row.start)
        parts.setdefault(start, []).append(window)
    for start in sorted(parts):
        windows = parts[start]
        if buckets.end(start) <= tail_from:
            yield from windows  # stored as it is
            continue
        kept = _added(start, windows)
        row = kept.row._replace(
            quality=Quality.PROVISIONAL,
            why=Why.NOT_COMPLETE,
            revision=0 if buckets.bucket == "15m" else None,
            complete=False,
        )
        yield kept._replace(row=row)


def _added(start: datetime, windows: list[Window]) -> Window:
    """The parts of a bucket as one, each taking its own time."""
    rows = [window.row for window in windows]
    worst = max(rows, key=lambda row: (row.quality, row.why or 0))
    means = [(row.power_avg_w, row.readings) for row in rows if row.power_avg_w is not None]
    weight = sum(count for _, count in means)
    return Window(
        UsageRow(
            start,
            sum(row.energy_uwh for row in rows),
            sum(row.export_uwh for row in rows),
            min((row.power_min_w for row in rows if row.power_min_w is not None), default=None),
            sum(mean * count for mean, count in means) / weight if weight else None,
            max((row.power_max_w for row in rows if row.power_max_w is not None), default=None),
            sum(row.readings for row in rows),
            worst.quality,
            worst.why,
            max((row.revision for row in rows if row.revision is not None), default=None),
            all(row.complete for row in rows),
        ),
        sum(window.provisional_uwh for window in windows),
        sum(window.provisional_export_uwh for window in windows),
    )


def across(channels: Iterable[ChannelUsage]) -> ChannelUsage:
    """Channels side by side, added up.

    Their mean powers add up; the least and the greatest do not, and are left out.
    """
    every = list(channels)
    if len(every) == 1:
        return every[0]
    by_start: dict[datetime, list[Window]] = {}
    for channel in every:
        for window in channel.windows:
            by_start.setdefault(window.row.start, []).append(window)
    untils = [channel.materialized_until for channel in every]
    known = [until for until in untils if until is not None]
    opened = [one.provisional_until for one in every if one.provisional_until is not None]
    return ChannelUsage(
        [_beside(start, by_start[start]) for start in sorted(by_start)],
        min(known) if known and len(known) == len(untils) else None,
        max(opened, default=None),
        sorted(gap for channel in every for gap in channel.gaps),
    )


def _beside(start: datetime, windows: list[Window]) -> Window:
    if len(windows) == 1:
        return windows[0]
    added = _added(start, windows)
    means = [one.row.power_avg_w for one in windows if one.row.power_avg_w is not None]
    row = added.row._replace(
        power_min_w=None, power_max_w=None, power_avg_w=sum(means) if means else None
    )
    return added._replace(row=row)


# ---------------------------------------------------------------- as JSON shows it


class Usage(msgspec.Struct, gc=False):
    """Encodes as `api.models.Usage`."""

    start: datetime
    end: datetime
    energy_wh: float
    export_wh: float
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    readings: int
    quality: str
    why: str | None
    revision: int | None
    complete: bool
    provisional_wh: float
    provisional_export_wh: float


class Gap(msgspec.Struct, gc=False):
    """Encodes as `api.models.Gap`."""

    start: datetime
    end: datetime
    energy_wh: float
    export_wh: float
    why: str


def usage_item(window: Window, buckets: Buckets) -> Usage:
    row = window.row
    return Usage(
        row.start,
        buckets.end(row.start),
        _wh(row.energy_uwh),
        _wh(row.export_uwh),
        row.power_min_w,
        row.power_avg_w,
        row.power_max_w,
        row.readings,
        _QUALITY_NAMES[row.quality],
        None if row.why is None else _WHY_NAMES[row.why],
        row.revision,
        row.complete,
        _wh(window.provisional_uwh),
        _wh(window.provisional_export_uwh),
    )


def gap_item(gap: GapRow) -> Gap:
    return Gap(gap.start, gap.end, _wh(gap.energy_uwh), _wh(gap.export_uwh), _WHY_NAMES[gap.why])


def _wh(energy_uwh: int) -> float:
    """Wh with three decimals, half up."""
    return (energy_uwh + 500) // 1000 / 1000


def _us(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


def _at(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)
