"""From the outbox to the broker, until Kafka has it: the order, the window, and sending again.

At most WINDOW messages are under way. The connector's acknowledgement, cumulative and gapless,
strikes them from the outbox; a PUBACK alone strikes nothing. Without progress all is sent again
from the oldest, at growing intervals.
"""

from micropython import const
from node.decimals import decimal

WINDOW = 200
PACKET_IDS = 60_000  # of the outbox: 1 to this, so that a message keeps its id
_READ_AT_ONCE = const(4)
RESEND_AFTER_MS = 10_000
_RESEND_AT_MOST_MS = const(160_000)


class Delivery:
    def __init__(self, outbox, client, topic):
        self._outbox = outbox
        self._client = client
        self._topic = topic
        self._connection = 0
        self._next = outbox.first  # the message to send next
        self._own_from = outbox.next_seq
        self._sent_until = 0  # messages below were sent since the start: again means DUP
        self._progress_ms = 0
        self._patience_ms = RESEND_AFTER_MS
        self.resent = 0
        self.waits_for_clock = False

    @property
    def idle(self):
        """Nothing is left to send or to wait for."""
        return self._outbox.waiting == 0

    def step(self, now_ms):
        """Send what the window and the connection have room for."""
        client, outbox = self._client, self._outbox
        self.waits_for_clock = False
        if not client.up:
            return
        if self._connection != client.connections:
            self._connection = client.connections
            self._again(now_ms)
        first = outbox.first
        if self._next < first:
            self._next = first
        if self._next == first:
            self._progress_ms = now_ms
        elif now_ms - self._progress_ms >= self._patience_ms:
            self._patience_ms = min(_RESEND_AT_MOST_MS, self._patience_ms * 2)
            self._again(now_ms)
        while self._next < first + WINDOW:
            messages = outbox.read(self._next, min(_READ_AT_ONCE, first + WINDOW - self._next))
            if not messages:
                self.waits_for_clock = self._next < outbox.next_seq
                return
            for message in messages:
                again = message.seq < self._sent_until
                packet_id = 1 + message.seq % PACKET_IDS
                payload = envelope(message, outbox.boot, first)
                if not client.publish(self._topic, payload, packet_id, again):
                    return
                self.resent += again
                self._next = message.seq + 1
                self._sent_until = max(self._sent_until, self._next)

    def acknowledged(self, boot, seq, now_ms):
        """The connector said so. False where it is not about this outbox."""
        before = self._outbox.first
        if not self._outbox.acknowledge(boot, seq):
            return False
        if self._outbox.first > before:
            self._progress_ms = now_ms
            self._patience_ms = RESEND_AFTER_MS
        return True

    def is_own(self, seq):
        """Whether a message up to `seq` was written since the start, not by the firmware before."""
        return seq >= self._own_from

    def _again(self, now_ms):
        self._next = self._outbox.first
        self._progress_ms = now_ms


def envelope(message, boot, first):
    """The payload of `schemas.homesync` around a body."""
    ts = "null" if message.at_ms is None else decimal(message.at_ms, 3)
    head = '{"v":1,"boot":"%s","seq":%d,"first":%d,"ts":%s,' % (boot, message.seq, first, ts)
    return head.encode() + message.body + b"}"
