"""Two messages that speak of the same channel at the same instant: one reading comes of them."""

from typing import NamedTuple

import msgspec

from schemas.reading import VALUE_NAMES, Values


class Merged(NamedTuple):
    """The reading that stays, and what had to give way to it (None where nothing did)."""

    seq: int | None
    values: Values
    loser_seq: int | None = None
    loser: Values | None = None


def merge(old_seq: int | None, old: Values, new_seq: int | None, new: Values) -> Merged:
    """Join two readings with the same key, with the same result in either order.

    Absent fields are filled from the other. Where both say different things, the one with the
    greater (seq, canonical bytes) is kept whole before the other fills its gaps, and the other is
    the loser, to be kept aside.
    """
    contradicts = any(
        a is not None and b is not None and a != b
        for a, b in zip(msgspec.structs.astuple(old), msgspec.structs.astuple(new), strict=True)
    )
    first_seq, first, second_seq, second = old_seq, old, new_seq, new
    if _rank(new_seq, new) > _rank(old_seq, old):
        first_seq, first, second_seq, second = new_seq, new, old_seq, old
    filled = Values(
        **{
            name: mine if (mine := getattr(first, name)) is not None else getattr(second, name)
            for name in VALUE_NAMES
        }
    )
    seq = first_seq if first_seq is not None else second_seq
    if contradicts:
        return Merged(seq, filled, second_seq, second)
    return Merged(seq, filled)


def _rank(seq: int | None, values: Values) -> tuple[int, bytes]:
    return -1 if seq is None else seq, msgspec.json.encode(values)
