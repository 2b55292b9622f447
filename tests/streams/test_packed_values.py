"""What a worker holds of a reading's values is what came."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.reading import VALUE_NAMES
from streams.packed_values import pack_rows, unpack_row

ROWS = st.lists(
    st.tuples(*[st.none() | st.floats(allow_nan=False) for _ in VALUE_NAMES]), max_size=5
)


@given(ROWS)
def test_rows_come_back_as_they_were(rows: list[tuple[float | None, ...]]):
    values = np.array([[math.nan if v is None else v for v in row] for row in rows])
    values = values.reshape(len(rows), len(VALUE_NAMES))
    assert [unpack_row(packed) for packed in pack_rows(values, np.isnan(values))] == rows


def test_only_columns_that_some_row_has_take_room():
    values = np.full((2, len(VALUE_NAMES)), math.nan)
    values[0, 3], values[1, 7] = 5.0, 6.0
    assert [len(packed) for packed in pack_rows(values, np.isnan(values))] == [24, 24]
