"""End-to-end acknowledgements of homesync nodes: which `seq` may a node strike from its outbox?

Pure. The connector tells which positions Kafka holds, in any order; each (node, boot) has a run
without gaps that begins at the node's `first` (everything before it was acknowledged earlier, by
this connector or one before it, or was given up by the node itself). Only the end of the run is
ever acknowledged. Losing this state is harmless: the run begins again at `first`.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from schemas.homesync import Ack, Position

MAX_PENDING = 10_000  # positions behind a gap, per node; what is beyond comes again
MAX_PENDING_IN_ALL = 1_000_000
MAX_RUNS = 200_000
MAX_BOOT_LENGTH = 64
MAX_SEQ = 2**63 - 1
ACK_INTERVAL_S = 1.0

_TELEMETRY = re.compile(r"(homesync/[^/]+/nodes/[^/]+)/telemetry/.+", re.DOTALL)
_decode = msgspec.json.Decoder(Position).decode


def node_of(topic: str) -> str | None:
    """`homesync/<home>/nodes/<node>` of a telemetry topic; None: not one of our nodes."""
    match = _TELEMETRY.fullmatch(topic)
    return match[1] if match else None


def position_of(payload: bytes) -> Position | None:
    """Where the message stands in its node's outbox; None for a bare payload. Never raises."""
    try:
        position = _decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    sound = 0 <= position.first <= position.seq <= MAX_SEQ
    return position if sound and 0 < len(position.boot) <= MAX_BOOT_LENGTH else None


class _Run:
    __slots__ = ("begin", "end", "pending")

    def __init__(self, first: int) -> None:
        self.begin = first
        self.end = first - 1  # the last position of the run; before `first` there is nothing to ack
        self.pending: set[int] = set()


class EndToEnd:
    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()
        self._due: dict[tuple[str, str], None] = {}  # a set that keeps its order
        self._acked_at: dict[str, float] = {}  # nodes acknowledged within the last interval
        self.pending = 0

    def confirm(self, positions: Iterable[tuple[str, Position]]) -> None:
        """Kafka holds these messages: (node, position), in any order, as often as they like."""
        runs, due = self._runs, self._due
        for node, position in positions:
            key = (node, position.boot)
            seq = position.seq
            run = runs.get(key)
            if run is None:
                run = self._begin(key, position.first)
            elif position.first > run.end + 1:
                self._skip_to(run, position.first)
                if run.end >= run.begin:
                    due[key] = None
            if seq == run.end + 1:
                run.end = seq
                if run.pending:
                    self._join(run)
                due[key] = None
            elif seq <= run.end:
                if run.end >= run.begin:
                    due[key] = None  # sent again: our acknowledgement was lost
            elif len(run.pending) < MAX_PENDING and self.pending < MAX_PENDING_IN_ALL:
                before = len(run.pending)
                run.pending.add(seq)
                self.pending += len(run.pending) - before

    def due(self, now: float) -> list[tuple[str, Ack]]:
        """The acknowledgements to send now (monotonic seconds), each to `<node>/ack`."""
        recent = {node: at for node, at in self._acked_at.items() if now - at < ACK_INTERVAL_S}
        self._acked_at = recent
        acks: list[tuple[str, Ack]] = []
        for key in [key for key in self._due if key[0] not in recent]:
            node, boot = key
            if node not in recent:  # of two boots of a node the second waits
                recent[node] = now
                del self._due[key]
                acks.append((node, Ack(boot=boot, seq=self._runs[key].end)))
        return acks

    def _begin(self, key: tuple[str, str], first: int) -> _Run:
        if len(self._runs) >= MAX_RUNS:
            oldest, gone = self._runs.popitem(last=False)
            self._due.pop(oldest, None)
            self.pending -= len(gone.pending)
        run = self._runs[key] = _Run(first)
        return run

    def _skip_to(self, run: _Run, first: int) -> None:
        """The node holds nothing before `first` any more: a gap before it will never close."""
        run.begin = first
        run.end = first - 1
        kept = {seq for seq in run.pending if seq >= first}
        self.pending -= len(run.pending) - len(kept)
        run.pending = kept
        self._join(run)

    def _join(self, run: _Run) -> None:
        pending = run.pending
        before = len(pending)
        while run.end + 1 in pending:
            run.end += 1
            pending.remove(run.end)
        self.pending -= before - len(pending)
