"""The values of a reading as few bytes, for as long as a worker holds it. Pure.

Held as objects, a float for each value and the row, they are more than half of a held reading.
"""

from struct import unpack

import numpy as np
from numpy.typing import NDArray

from schemas.reading import VALUE_NAMES, ValueRow

_DOUBLE_BYTES = 8


def pack_rows(values: NDArray[np.float64], absent: NDArray[np.bool_]) -> list[bytes]:
    """Rows of all columns, (rows, columns): each in turn. `absent` says which values are not there.

    A row is doubles: a number whose bits name the columns, and the values of these. A column is
    left out that no row has, and is NaN where only others have it.
    """
    columns = np.flatnonzero(~absent.all(axis=0))
    packed = np.empty((len(values), 1 + len(columns)))
    packed[:, 0] = np.sum(1 << columns)
    packed[:, 1:] = values[:, columns]
    rows: list[bytes] = packed.view((np.void, packed.shape[1] * _DOUBLE_BYTES)).ravel().tolist()
    return rows


def unpack_row(packed: bytes) -> ValueRow:
    """A row as it was, None where a value was absent."""
    columns, *numbers = unpack(f"<{len(packed) // _DOUBLE_BYTES}d", packed)
    said = iter(numbers)
    row = (next(said) if int(columns) >> column & 1 else None for column in range(len(VALUE_NAMES)))
    return tuple(None if value != value else value for value in row)
