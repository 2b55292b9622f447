"""Two messages that speak of the same channel at the same instant: one reading comes of them."""

from typing import NamedTuple

from schemas.reading import ValueRow


class Merged(NamedTuple):
    """The reading that stays, and the values that had to give way to it (None where none did)."""

    seq: int | None
    values: ValueRow
    loser_seq: int | None = None
    loser: ValueRow | None = None


def merge(old_seq: int | None, old: ValueRow, new_seq: int | None, new: ValueRow) -> Merged:
    """Join two readings with the same key, with the same result in either order.

    Absent fields are filled from the other. Where both say different things, the one with the
    greater seq is believed, and of equal seqs, or none, the greater value. That is decided field
    by field: a reading put together from two would otherwise lose against one of its own parts,
    when that is delivered again. Three that differ in their seqs and in what they say can end
    differently in different orders: of a field that the last one lacks, its seq is not kept.
    """
    kept: list[float | None] = []
    lost: list[float | None] = []
    old_rank, new_rank = _rank(old_seq), _rank(new_seq)
    for before, after in zip(old, new, strict=True):
        if before is None or after is None or before == after:
            kept.append(after if before is None else before)
            lost.append(None)
        elif new_rank > old_rank or (new_rank == old_rank and after > before):
            kept.append(after)
            lost.append(before)
        else:
            kept.append(before)
            lost.append(after)
    lower, higher = (old_seq, new_seq) if new_rank > old_rank else (new_seq, old_seq)
    if any(value is not None for value in lost):
        return Merged(higher, tuple(kept), lower, tuple(lost))
    return Merged(higher, tuple(kept))


def _rank(seq: int | None) -> int:
    return -1 if seq is None else seq
