"""The quarter hours of some channels as arrays: what a year of a home takes a few milliseconds for.

The database sends each column of a channel as the bytes of an array, in place of a row a quarter
hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from schemas.units import QUARTER_US
from schemas.usage import Quality
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.month import QUARTER

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = [np.dtype(kind) for kind in (">i8", ">i8", ">i8", ">i2", "?", ">i8")]


class Counted(NamedTuple):
    """A channel that counts in `[low, high)`."""

    device_id: int
    channel: str
    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True)
class ChannelColumns:
    """Dense over the quarter hours of the interval asked for; outside `[low, high)` nothing.

    `quality` is `GAP` where the channel has no row. A quarter hour is `complete` when its row is;
    one without a row once the stream has passed it: it was silent. None is while a mark waits to
    be rolled up.
    """

    counted: Counted
    energy_uwh: Energies
    export_uwh: Energies
    quality: NDArray[np.int8]
    complete: NDArray[np.bool_]
    changed_at: datetime | None


def meter_columns(
    conn: psycopg.Connection[Any], home_id: str, role: str, start: datetime, end: datetime
) -> list[ChannelColumns]:
    """Of the channels that count for the home in `[start, end)`; one query, one snapshot."""
    source = """
        SELECT c.device_id, c.name, h.channel_id, greatest(h.valid_from, %(start)s) AS low,
               least(coalesce(h.valid_to, 'infinity'), %(end)s) AS high
        FROM home_meter h JOIN channel c USING (channel_id)
        WHERE h.home_id = %(home_id)s AND h.role = %(role)s
          AND h.valid_from < %(end)s AND coalesce(h.valid_to, 'infinity') > %(start)s"""
    return list(_read(conn, source, start, end, {"home_id": home_id, "role": role}))


def circuit_columns(
    conn: psycopg.Connection[Any], home_id: str, start: datetime, end: datetime
) -> list[ChannelColumns]:
    """Of all channels of the home's devices, and of others that ever counted for it."""
    source = """
        SELECT c.device_id, c.name, c.channel_id, %(start)s::timestamptz AS low,
               %(end)s::timestamptz AS high
        FROM channel c JOIN device d USING (device_id)
        WHERE d.home_id = %(home_id)s
           OR c.channel_id IN (SELECT channel_id FROM home_meter WHERE home_id = %(home_id)s)"""
    return list(_read(conn, source, start, end, {"home_id": home_id}))


def ledger_from(start: datetime, end: datetime, energy: Energies, export: Energies) -> Ledger:
    """Of dense columns. Raises BadUsage for energy below zero."""
    starts = (start - _EPOCH) // timedelta(microseconds=1) + np.arange(len(energy)) * QUARTER_US
    return Ledger.of_columns(start, end, starts, energy, export)


_QUERY = """
    SELECT w.device_id, w.name, w.low, w.high, s.complete_until,
           u.starts, u.energies, u.exports, u.qualities, u.completes, d.marks, u.changed_at
    FROM ({source}) AS w
    LEFT JOIN channel_state s USING (channel_id)
    CROSS JOIN LATERAL (
        SELECT string_agg(timestamptz_send(window_start), ''::bytea) AS starts,
               string_agg(int8send(energy_uwh), ''::bytea) AS energies,
               string_agg(int8send(export_uwh), ''::bytea) AS exports,
               string_agg(int2send(quality), ''::bytea) AS qualities,
               string_agg(boolsend(complete), ''::bytea) AS completes,
               max(changed_at) AS changed_at
        FROM usage_15m
        WHERE channel_id = w.channel_id AND window_start >= w.low AND window_start < w.high
          AND window_start >= %(start)s AND window_start < %(end)s
    ) AS u
    CROSS JOIN LATERAL (
        SELECT string_agg(timestamptz_send(quarter_hour), ''::bytea) AS marks FROM rollup_dirty
        WHERE channel_id = w.channel_id AND quarter_hour >= w.low AND quarter_hour < w.high
    ) AS d
    ORDER BY w.channel_id"""


def _read(
    conn: psycopg.Connection[Any],
    source: str,
    start: datetime,
    end: datetime,
    parameters: dict[str, object],
) -> Iterator[ChannelColumns]:
    query = _QUERY.replace("{source}", source).encode()
    with conn.cursor(binary=True) as cursor:
        cursor.execute(query, parameters | {"start": start, "end": end})
        for (
            *counted,
            complete_until,
            starts,
            energy,
            export,
            quality,
            done,
            marks,
            changed_at,
        ) in cursor.fetchall():
            sent = (starts, energy, export, quality, done, marks)
            yield _dense(start, end, Counted(*counted), complete_until, sent, changed_at)


def _dense(
    start: datetime,
    end: datetime,
    counted: Counted,
    complete_until: datetime | None,
    sent: tuple[bytes | None, ...],
    changed_at: datetime | None,
) -> ChannelColumns:
    starts, energies, exports, qualities, completes, marks = (
        np.frombuffer(column or b"", kind) for column, kind in zip(sent, _COLUMNS, strict=True)
    )
    quarters = (end - start) // QUARTER
    low, high = (counted.low - start) // QUARTER, (counted.high - start) // QUARTER
    at = _indices(starts, start)
    energy, export = np.zeros(quarters, np.int64), np.zeros(quarters, np.int64)
    energy[at], export[at] = energies, exports
    quality = np.zeros(quarters, np.int8)
    quality[low:high] = Quality.GAP
    quality[at] = qualities
    complete = np.ones(quarters, np.bool_)
    passed = low if complete_until is None else (complete_until - start) // QUARTER
    complete[max(low, passed) : high] = False
    complete[at] = completes
    complete[_indices(marks, start)] = False
    return ChannelColumns(counted, energy, export, quality, complete, changed_at)


def _indices(sent_us: NDArray[np.int64], start: datetime) -> NDArray[np.int64]:
    """Which quarter hours PostgreSQL's instants, in µs since 2000, are."""
    start_us = (start - _POSTGRES_EPOCH) // timedelta(microseconds=1)
    indices: NDArray[np.int64] = (sent_us - start_us) // QUARTER_US
    return indices
