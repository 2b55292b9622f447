"""Readings as columns, and as one block of PostgreSQL's binary COPY format.

What most of the log is becomes no row in Python: decoded into one array a column, packed a whole
transaction at a time. Format: PostgreSQL documentation, COPY, "Binary Format".
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schemas.reading import VALUE_NAMES, Clock, Source
from sinks.copy_block import COLUMNS, PG_EPOCH_US, SIGNATURE, TRAILER, ReadingRow

Whole = NDArray[np.int64]

_BITS = 1 << np.arange(len(VALUE_NAMES), dtype=np.int64)


@dataclass(slots=True)
class ReadingColumns:
    """Readings that came over MQTT, each with its device's clock and a `seq`.

    Instants in µs since the Unix epoch. `values` has a column for each of `VALUE_NAMES`, NaN where
    a message did not say it. Only the rows whose `new` is 1 are stored.
    """

    channel_id: Whole
    measured_us: Whole
    received_us: Whole
    log_offset: Whole
    seq: Whole
    values: NDArray[np.float64]
    new: bytearray

    def block(self) -> tuple[int, bytes]:
        """How many rows are new, and a complete COPY stream of them in the order of `COLUMNS`."""
        new = np.frombuffer(self.new, np.uint8).nonzero()[0]
        whole = {
            "channel_id": self.channel_id[new],
            "measured_at": self.measured_us[new] - PG_EPOCH_US,
            "received_at": self.received_us[new] - PG_EPOCH_US,
            "log_offset": self.log_offset[new],
            "seq": self.seq[new],
        }
        values = self.values[new]
        absent = np.isnan(values) @ _BITS
        parts = [SIGNATURE]
        for pattern in np.unique(absent).tolist():
            some = absent == pattern
            if some.all():
                parts.append(_rows(pattern, whole, values))
            else:
                picked = {name: column[some] for name, column in whole.items()}
                parts.append(_rows(pattern, picked, values[some]))
        parts.append(TRAILER)
        return len(new), b"".join(parts)

    def rows(self) -> list[ReadingRow]:
        """The new ones as rows."""
        found: list[ReadingRow] = []
        for i in np.frombuffer(self.new, np.uint8).nonzero()[0].tolist():
            values = tuple(None if value != value else value for value in self.values[i].tolist())
            head = (self.channel_id, self.measured_us, self.received_us, self.log_offset, self.seq)
            channel_id, measured, received, offset, seq = (int(column[i]) for column in head)
            found.append(
                (channel_id, measured, received, offset, seq, Clock.DEVICE, Source.MQTT, values)
            )
        return found


def _rows(pattern: int, whole: dict[str, Whole], values: NDArray[np.float64]) -> bytes:
    """Rows that lack the same values: bit n of `pattern` stands for the nth of `VALUE_NAMES`."""
    rows = np.repeat(_empty_row(pattern), len(values))
    for name, column in whole.items():
        rows[name] = column
    for n, name in enumerate(VALUE_NAMES):
        if not pattern >> n & 1:
            rows[name] = values[:, n]
    return rows.tobytes()


@lru_cache(maxsize=4096)
def _empty_row(pattern: int) -> NDArray[np.void]:
    """One row in which all is there but the instants, the numbers and the values."""
    kinds = {"channel_id": ">i4", "clock": ">i2", "source": ">i2"}
    absent = {name for n, name in enumerate(VALUE_NAMES) if pattern >> n & 1}
    layout = [("fields", ">i2")]
    for name in COLUMNS:
        layout.append((f"{name} length", ">i4"))
        if name not in absent:
            layout.append((name, ">f8" if name in VALUE_NAMES else kinds.get(name, ">i8")))
    row = np.zeros(1, layout)
    row["fields"] = len(COLUMNS)
    row["clock"], row["source"] = int(Clock.DEVICE), int(Source.MQTT)
    for name in COLUMNS:
        row[f"{name} length"] = -1 if name in absent else row.dtype[name].itemsize
    return row
