"""Readings of the usual kind, decoded column by column: most of what the log holds.

A sample is one channel's reading in an envelope of a known node that came over MQTT, by a clock
that is believed. A transaction's samples are made together, so that what can be done by the column
is not done by the reading.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, repeat
from typing import Any

import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from ingest.decoders.clock import BELIEVED_AHEAD_US, MILLISECONDS_ABOVE, SINCE_BOOT_BELOW_S
from ingest.decoders.homesync import ENVELOPE_COLONS, Envelope, Quantities
from ingest.decoders.json_bounds import MAX_BYTES
from schemas.reading import VALUE_NAMES
from schemas.units import MW_PER_W, SECOND_US, UWH_PER_WH
from sinks.reading_columns import ReadingColumns
from streams.packed_values import pack_rows
from streams.partition import Channel
from streams.windows import Held

_POWER, _IMPORT, _EXPORT, _INTERVAL = map(
    VALUE_NAMES.index, ("power_w", "import_total_wh", "export_total_wh", "interval_s")
)
Whole = NDArray[np.int64]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

Usual = tuple[Envelope, dict[str, Channel], bytes, Any]
"""An envelope, the channels of its device, the header `received_at`, and the record."""


@dataclass(slots=True)
class Samples:
    """The samples of one transaction: the same place in all lists and columns is one sample."""

    columns: ReadingColumns
    channels: Sequence[Channel]
    held: Sequence[Held]
    said: Sequence[Quantities]
    records: Sequence[Any]
    told: bytearray  # 1: to be announced

    def of_told(self) -> Iterator[tuple[Channel, Held, Quantities]]:
        return compress(zip(self.channels, self.held, self.said, strict=True), self.told)


def samples_of(messages: Sequence[Usual], oldest_us_back: int) -> tuple[Samples, Whole, Flags]:
    """The samples of messages; where those of each message begin, and of the last end; and which
    messages are odd: what is there for them is nothing, they have to be read the long way.
    """
    envelopes, _, received, records = zip(*messages, strict=True)
    rows = [
        (number, channels.get(name), quantities)
        for number, (said, channels, _, _) in enumerate(messages)
        for name, quantities in said.channels.items()
    ]
    numbers, channels, said = zip(*rows, strict=True) if rows else ((), (), ())
    of = np.array(numbers, np.int64)
    begins = np.searchsorted(of, np.arange(len(messages) + 1))
    flat = chain.from_iterable(map(astuple, said))
    values = np.fromiter(flat, np.float64, len(rows) * len(VALUE_NAMES))
    values = values.reshape(len(rows), len(VALUE_NAMES))
    absent = np.isnan(values)

    seq = np.array([envelope.seq for envelope in envelopes], np.int64)
    received_us = _received_us(received)
    measured_us = _instants(np.array([envelope.ts for envelope in envelopes]))
    odd = (
        _not_believed(measured_us, received_us, oldest_us_back)
        | (np.array([envelope.first for envelope in envelopes], np.int64) > seq)
        | _ill_formed(records, channels, of, absent)
    )
    columns = ReadingColumns(
        channel_id=np.array([0 if c is None else c.channel_id for c in channels], np.int64),
        measured_us=measured_us[of],
        received_us=received_us[of],
        log_offset=np.array([record.offset for record in records], np.int64)[of],
        seq=seq[of],
        values=values,
        new=bytearray(len(rows)),
    )
    held = zip(
        columns.measured_us.tolist(),
        _whole(values[:, _POWER], absent[:, _POWER], MW_PER_W),
        _whole(values[:, _IMPORT], absent[:, _IMPORT], UWH_PER_WH),
        _whole(values[:, _EXPORT], absent[:, _EXPORT], UWH_PER_WH),
        repeat(None),
        repeat(None),
        columns.seq.tolist(),
        pack_rows(values, absent),
    )
    of_rows = [records[number] for number in numbers]
    return Samples(columns, channels, list(held), said, of_rows, bytearray(len(rows))), begins, odd


def _received_us(received: Sequence[bytes]) -> Whole:
    """The headers as instants; 0 for one that no connector wrote."""
    try:
        return np.array(list(map(int, received)), np.int64)
    except (ValueError, OverflowError):
        plain = [text if len(text) <= 18 and text.isdigit() else b"0" for text in received]
        return np.array(list(map(int, plain)), np.int64)


def _instants(clock_s: Numbers) -> Whole:
    """Unix µs; negative for a clock that does not say Unix seconds."""
    plain = (clock_s >= SINCE_BOOT_BELOW_S) & (clock_s <= MILLISECONDS_ABOVE)
    return (np.where(plain, clock_s, -1) * SECOND_US + 0.5).astype(np.int64)


def _not_believed(measured_us: Whole, received_us: Whole, oldest_us_back: int) -> Flags:
    """Whose clock needs a second look: `ingest.decoders.clock.instant_of`."""
    ahead_us = measured_us - received_us
    return (measured_us < 0) | (ahead_us < -oldest_us_back) | (ahead_us > BELIEVED_AHEAD_US)


def _ill_formed(
    records: Sequence[Any], channels: Sequence[Channel | None], of: Whole, absent: Flags
) -> Flags:
    """Which messages say nothing of a channel, or the energy of an interval, or name an unknown
    channel; or have more colons than the keys that were understood: one is there twice.
    """
    size = len(records)
    said = len(VALUE_NAMES) - np.count_nonzero(absent, axis=1)
    own = said + np.array([0 if c is None else c.colons for c in channels], np.int64)
    understood = ENVELOPE_COLONS + np.bincount(of, own, minlength=size)
    payloads = [record.value for record in records]
    colons = np.array([payload.count(b":") for payload in payloads])
    bad = (said == 0) | ~absent[:, _INTERVAL]
    if not all(channels):
        bad |= np.array([channel is None for channel in channels])
    ill: Flags = (
        (colons != understood)
        | (np.bincount(of, bad, minlength=size) > 0)
        | (np.bincount(of, minlength=size) == 0)
        | (np.array(list(map(len, payloads))) > MAX_BYTES)
    )
    return ill


def _whole(values: Numbers, absent: Flags, scale: int) -> list[int | None]:
    """`round(value * scale)`, None where there is none."""
    whole: list[int | None]
    whole = np.rint(np.where(absent, 0, values) * scale).astype(np.int64).tolist()
    for i in absent.nonzero()[0].tolist():
        whole[i] = None
    return whole


def no_samples() -> Samples:
    none = np.zeros(0, np.int64)
    values = np.zeros((0, len(VALUE_NAMES)))
    columns = ReadingColumns(none, none, none, none, none, values, bytearray())
    return Samples(columns, [], [], [], [], bytearray())
