"""What a node keeps until it is told that it is safe, and when it says it again. Pure.

Readings are numbered by `seq`; the outbox holds `[first, first + len)`. Of these, `[first,
next_seq)` have been sent on this connection. An acknowledgement is cumulative. Time arrives as an
argument, in monotonic seconds.
"""

from collections import deque
from random import Random

MOST_IN_FLIGHT = 200
PATIENCE_S = 10.0
LONGEST_PATIENCE_S = 120.0


class FalseAck(Exception):
    """Somebody acknowledged what this node never sent."""


class Outbox:
    __slots__ = ("_patience_s", "_since", "first", "held", "next_seq", "sent_until")

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.held: deque[bytes] = deque()
        self.next_seq = first
        self.sent_until = first  # before it, everything has been sent at least once
        self._since = 0.0  # when progress was last made
        self._patience_s = PATIENCE_S

    @property
    def end(self) -> int:
        return self.first + len(self.held)

    def add(self, body: bytes) -> int:
        """Keep a reading; returns its `seq`."""
        self.held.append(body)
        return self.first + len(self.held) - 1

    def take(self, now: float) -> list[tuple[int, bytes]]:
        """The readings to send now, in order, and count them as sent."""
        first, start = self.first, self.next_seq
        stop = min(first + len(self.held), first + MOST_IN_FLIGHT)
        if start >= stop:
            return []
        if start == first:
            self._since = now
        self.next_seq = stop
        if stop > self.sent_until:
            self.sent_until = stop
        held = self.held
        return [(seq, held[seq - first]) for seq in range(start, stop)]

    def take_newest(self, now: float) -> bool:
        """Whether the newest reading is the one to send now; then it counts as sent."""
        seq = self.first + len(self.held) - 1
        if self.next_seq != seq or seq - self.first >= MOST_IN_FLIGHT:
            return False
        if seq == self.first:
            self._since = now
        self.next_seq = seq + 1
        if seq >= self.sent_until:
            self.sent_until = seq + 1
        return True

    def acknowledged(self, seq: int, now: float) -> int:
        """Strike everything up to and with `seq`. Returns how many readings that were.

        Raises FalseAck if `seq` was never sent: nothing is struck.
        """
        if seq >= self.sent_until:
            raise FalseAck(f"seq {seq} was acknowledged, {self.sent_until - 1} is the last sent")
        struck = seq + 1 - self.first
        if struck <= 0:
            return 0
        for _ in range(struck):
            self.held.popleft()
        self.first = seq + 1
        if self.next_seq < self.first:
            self.next_seq = self.first
        self._since = now
        self._patience_s = PATIENCE_S
        return struck

    def is_overdue(self, now: float) -> bool:
        """Whether something is in flight and nobody has acknowledged anything for too long."""
        return self.next_seq > self.first and now - self._since >= self._patience_s

    def send_again(self, now: float, chance: Random) -> None:
        """Begin anew at `first`; wait up to twice as long before the next time."""
        self.rewind()
        self._since = now
        longest = min(2 * self._patience_s, LONGEST_PATIENCE_S)
        self._patience_s = chance.uniform(max(PATIENCE_S, 0.75 * longest), longest)

    def rewind(self) -> None:
        """A new connection: nothing is in flight on it."""
        self.next_seq = self.first
