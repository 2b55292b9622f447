"""Rows of `readings` as one block of PostgreSQL's binary COPY format.

One `struct` call a row: the fields that a channel's messages have hardly ever change, so the
packer of its last row is tried first. Format: PostgreSQL documentation, COPY, "Binary Format".
"""

import struct
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from schemas.reading import VALUE_NAMES, ValueRow

ReadingRow = tuple[int, int, int, int, int | None, int, int, ValueRow]
"""`channel_id, measured_us, received_us, log_offset, seq, clock, source, values`."""

COLUMNS = (
    "channel_id", "measured_at", "received_at", "log_offset", "seq", "clock", "source",
    *VALUE_NAMES,
)  # fmt: skip

PG_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, from which PostgreSQL counts."""

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = struct.pack(">h", -1)
_FIXED = ">hiiiqiqiq"  # field count, channel_id, measured_at, received_at, log_offset


class _Packer:
    """Packs rows whose absent values are the same ones."""

    def __init__(self, values: tuple[Any, ...], seq: int | None) -> None:
        self.nulls = values.count(None)
        layout = _FIXED + ("i" if seq is None else "iq") + "ihih"
        picks = []
        for i, value in enumerate(values[2:], start=2):  # the two constants come first
            layout += "i" if value is None else "id"
            picks += [1] if value is None else [0, i]
        self.pick = itemgetter(*picks)
        self.pack = struct.Struct(layout).pack


class BlockBuilder:
    """Builds COPY blocks; keeps the packers of the channels it has seen."""

    def __init__(self) -> None:
        self._by_channel: dict[int, _Packer] = {}
        self._by_nulls: dict[tuple[bool, ...], _Packer] = {}

    def block(self, rows: Iterable[ReadingRow]) -> bytes:
        """One complete COPY stream. Time is µs since the Unix epoch in `rows`."""
        parts = [SIGNATURE]
        append, packers, epoch = parts.append, self._by_channel, PG_EPOCH_US
        count = len(COLUMNS)
        for channel, measured, received, offset, seq, clock, source, values in rows:
            told = (8, -1, *values)  # a value's length, a null's length
            head = (count, 4, channel, 8, measured - epoch, 8, received - epoch, 8, offset)
            number = (-1,) if seq is None else (8, seq)
            packer = packers.get(channel)
            if packer is None or told.count(None) != packer.nulls:
                packer = self._packer(channel, told, seq)
            try:
                row = packer.pack(*head, *number, 2, clock, 2, source, *packer.pick(told))
            except struct.error:  # as many absent as before, but other ones
                packer = self._packer(channel, told, seq)
                row = packer.pack(*head, *number, 2, clock, 2, source, *packer.pick(told))
            append(row)
        append(TRAILER)
        return b"".join(parts)

    def _packer(self, channel: int, told: tuple[Any, ...], seq: int | None) -> _Packer:
        nulls = (seq is None, *(value is None for value in told))
        packer = self._by_nulls.get(nulls)
        if packer is None:
            packer = self._by_nulls[nulls] = _Packer(told, seq)
        self._by_channel[channel] = packer
        return packer
