"""What really ran, and when: one line a switching, on disk before anybody is told of it."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from infra.switches.device import Ran


class Journal:
    """Append-only and fsynced. Raises FileExistsError if there is one already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb", buffering=0)

    def write(self, ran: Sequence[Ran]) -> None:
        """When this returns, all of them are on disk."""
        if not ran:
            return
        left = memoryview(b"".join(msgspec.json.encode(one) + b"\n" for one in ran))
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> list[Ran]:
    with path.open("rb") as lines:
        return [msgspec.json.decode(line, type=Ran) for line in lines]


def by_relay(ran: Iterable[Ran]) -> dict[tuple[str, int], list[Ran]]:
    """In the order in which they ran."""
    found: dict[tuple[str, int], list[Ran]] = {}
    for one in ran:
        found.setdefault((one.address, one.relay), []).append(one)
    return found
