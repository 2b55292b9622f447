"""Topic filters: which overlap, and which are needless beside others. Pure."""

from collections.abc import Iterable, Sequence
from itertools import combinations


class OverlappingShards(ValueError):
    """Two shards would receive the same message."""


def covers(wide: str, narrow: str) -> bool:
    """Does `wide` match every topic that `narrow` matches?"""
    left, right = wide.split("/"), narrow.split("/")
    if left[0][:1] in "+#" and right[0][:1] == "$":
        return False
    for at, level in enumerate(left):
        if level == "#":
            return True
        if at >= len(right) or right[at] == "#" or (level != "+" and level != right[at]):
            return False
    return len(left) == len(right)


def overlap(one: str, other: str) -> bool:
    """Is there a topic that both match?"""
    left, right = one.split("/"), other.split("/")
    if {left[0][:1], right[0][:1]} in ({"$", "+"}, {"$", "#"}):
        return False  # wildcards do not match $SYS
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    longer = max(left, right, key=len)
    shorter = min(left, right, key=len)
    # `a/#` matches `a` too
    return len(longer) == len(shorter) or longer[len(shorter) :] == ["#"]


def without_needless(filters: Iterable[str]) -> list[str]:
    """The filters that no other one covers.

    A broker may deliver a message once per matching subscription; Mosquitto 2.1 does.
    """
    distinct = list(dict.fromkeys(filters))
    return [
        narrow
        for narrow in distinct
        if not any(wide != narrow and covers(wide, narrow) for wide in distinct)
    ]


def check_shards(shards: Sequence[Sequence[str]]) -> None:
    """Raises OverlappingShards, naming the first two filters that meet in two shards."""
    for (i, one), (j, other) in combinations(enumerate(shards), 2):
        for a in one:
            for b in other:
                if overlap(a, b):
                    raise OverlappingShards(
                        f'shard {i} has "{a}" and shard {j} has "{b}": one topic can match both, '
                        f"its messages would be stored twice; make the filters disjoint"
                    )
