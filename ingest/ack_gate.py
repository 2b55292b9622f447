"""The gate between Kafka's delivery reports and MQTT's PUBACKs.

A PUBACK leaves only after Kafka has the message, in the order of the PUBLISH packets
[MQTT-4.6.0-2], and only on the connection that brought the message: packet ids are used again
after a reconnect.
One entry per batch of messages keeps this cheap; one thread uses it.
"""

from collections import deque
from collections.abc import Sequence


class Batch:
    """Messages that came with one read. `open` of them are not in Kafka yet."""

    __slots__ = ("open", "packet_ids")

    def __init__(self, packet_ids: Sequence[int], size: int) -> None:
        self.packet_ids = packet_ids  # of those that want a PUBACK, in the order they came
        self.open = size


class AckGate:
    def __init__(self) -> None:
        self._waiting: deque[Batch] = deque()  # of the present connection only

    def new_connection(self) -> None:
        """On connect and on disconnect: what was not acknowledged so far comes again.

        Batches of the old connection may still be settled; they release nothing any more.
        """
        self._waiting.clear()

    def received(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def release(self) -> list[int]:
        """The packet ids that may be acknowledged now on the present connection, in order."""
        waiting = self._waiting
        released: list[int] = []
        while waiting and not waiting[0].open:
            released += waiting.popleft().packet_ids
        return released

    @property
    def waiting(self) -> int:
        """Messages that this connection brought and that are not acknowledged yet."""
        return sum(len(batch.packet_ids) for batch in self._waiting)
