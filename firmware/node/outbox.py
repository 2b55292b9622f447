"""Messages on flash until Kafka has them: a ring of small files that survives power loss.

Every message gets the next `seq` as it is written, and only what is written is sent. Files of
which all is acknowledged are removed, but never the newest: it carries `seq` on. When the ring
is full its oldest file goes, and what it held unacknowledged is counted in `dropped`, which is
kept on flash. `boot` names the outbox: it is new only when nothing readable was left.
A restart takes up to a file's length of acknowledged messages for unacknowledged and sends them
again; the database knows them by their time.
"""

import os

from micropython import const
from node import segment
from node.segment import CLOCK, TIMELESS, UNIX, UPTIME

SEGMENT_BYTES = 8192  # two blocks of the flash
_MAX_CYCLES = const(64)  # power cycles without a clock whose end is remembered
_POWER_OFF_MS = const(1000)  # how long a node is taken to be off between two cycles without a clock


class Message:
    """`at_ms` is Unix time; None: the server's clock has to do."""

    def __init__(self, seq, at_ms, body):
        self.seq = seq
        self.at_ms = at_ms
        self.body = body


class _Part:
    """What is known of a file without reading it: messages [base_seq, base_seq + count)."""

    def __init__(self, number, base_seq):
        self.number = number
        self.base_seq = base_seq
        self.count = 0
        self.size = segment.HEADER_BYTES


class Outbox:
    def __init__(self, folder, random_bytes, most_parts=64):
        """Open what the folder holds. `random_bytes(n)` makes the name of a new outbox.

        `most_parts` bounds the flash: so many files of SEGMENT_BYTES.
        """
        self._folder = folder
        self._most_parts = max(2, most_parts)
        self._parts = []
        self._file = None  # the newest part, open for writing
        self._place = None  # where reading goes on: (part, offset, seq)
        self._clocks = {}  # power cycle -> Unix time of its start, ms
        self._ends = {}  # power cycle without a clock -> its last uptime, ms
        self._boot = None
        self.cycle = 1
        self.dropped = 0
        self.damaged = 0  # parts with unreadable bytes, found at the start
        self.next_seq = 1
        self._behind = 0  # bytes behind a damaged record of the newest file
        self._scan()
        if self._boot is None:
            self._boot = random_bytes(4)
        self._acked = (self._parts[0].base_seq if self._parts else self.next_seq) - 1

    @property
    def boot(self):
        return "".join("%02x" % byte for byte in self._boot)

    @property
    def first(self):
        """The oldest message that is not acknowledged; `next_seq` when all are."""
        for part in self._parts:
            if self._acked < part.base_seq + part.count - 1:
                return max(self._acked + 1, part.base_seq)
        return self.next_seq

    @property
    def waiting(self):
        return self.next_seq - self.first

    # ---- writing ----

    def append(self, messages):
        """Write `(kind, at_ms, body)` at once: one write to the flash, then they have their `seq`.

        Of UPTIME ones `at_ms` counts from this start. Returns how many were written, the first
        ones: fewer when the flash refuses even after the oldest file went. Raises ValueError for
        a body that is too long; then nothing is written.
        """
        clock_ms = self._clocks.get(self.cycle)
        if clock_ms is not None:  # its record may be dropped before the message
            messages = [
                (UNIX, clock_ms + at_ms, body) if kind == UPTIME else (kind, at_ms, body)
                for kind, at_ms, body in messages
            ]
        records = [segment.packed_record(kind, self.cycle, at, body) for kind, at, body in messages]
        written = 0
        try:
            while written < len(records):
                written += self._append_some(records[written:])
        except OSError:
            pass
        for kind, at_ms, _ in messages[:written]:
            if kind == UPTIME:
                self._ends[self.cycle] = at_ms
        return written

    def _append_some(self, records):
        """Write as many as the newest file has room for."""
        if self._file is None or self._parts[-1].size + len(records[0]) > SEGMENT_BYTES:
            self._begin_part()
        part = self._parts[-1]
        size, taken = part.size, 0
        for record in records:
            size += len(record)
            if size > SEGMENT_BYTES:
                break
            taken += 1
        self._write(b"".join(records[:taken]))
        part.count += taken
        self.next_seq += taken
        return taken

    def clock_known(self, started_ms):
        """This power cycle began at that Unix time: stamp what waits for it.

        Earlier cycles that never had a clock are taken to have ended just before the next began.
        """
        for cycle in sorted(self._ends):
            if cycle not in self._clocks and cycle != self.cycle:
                later_ms = 0
                for other, end_ms in self._ends.items():
                    if cycle <= other < self.cycle:
                        later_ms += end_ms + _POWER_OFF_MS
                self._keep_clock(cycle, started_ms - later_ms)
        if self.cycle in self._ends:
            self._keep_clock(self.cycle, started_ms)
        self._clocks[self.cycle] = started_ms
        self._ends.clear()

    def _keep_clock(self, cycle, started_ms):
        record = segment.packed_record(CLOCK, cycle, started_ms, b"")
        if self._file is None or self._parts[-1].size + len(record) > SEGMENT_BYTES:
            self._begin_part()
        self._write(record)
        self._clocks[cycle] = started_ms

    def _write(self, data):
        try:
            _write_all(self._file, data)
        except OSError:
            self._close()  # a part of it may be there: the next message begins a new file
            raise
        self._parts[-1].size += len(data)

    def _begin_part(self):
        """Begin a new file; drop the oldest when the ring is full or the flash is."""
        self._close()
        dropped = self._unacked(self._parts[0]) if len(self._parts) >= self._most_parts else 0
        try:
            self._make_part(self.dropped + dropped)
        except OSError:
            if len(self._parts) < 2:
                raise
            dropped = self._unacked(self._parts[0])
            self._remove_oldest()
            self._make_part(self.dropped + dropped)
        self.dropped += dropped
        while len(self._parts) > self._most_parts:
            self._remove_oldest()

    def _make_part(self, dropped):
        number = self._parts[-1].number + 1 if self._parts else 1
        header = segment.Header(self._boot, self.next_seq, dropped)
        path = self._path(number)
        self._file = open(path, "wb")
        try:
            _write_all(self._file, segment.packed_header(header))
        except OSError:
            self._close()
            os.remove(path)
            raise
        self._parts.append(_Part(number, self.next_seq))

    def _close(self):
        if self._file is not None:
            self._file.close()
            self._file = None

    # ---- acknowledging ----

    def acknowledge(self, boot, seq):
        """All up to and with `seq` are safe. False for another outbox, or a `seq` never given."""
        if boot != self.boot or not 0 <= seq < self.next_seq:
            return False
        if seq > self._acked:
            self._acked = seq
            while len(self._parts) > 1 and not self._unacked(self._parts[0]):
                self._remove_oldest()
        return True

    def _unacked(self, part):
        return max(0, part.base_seq + part.count - 1 - max(self._acked, part.base_seq - 1))

    def _remove_oldest(self):
        part = self._parts.pop(0)
        os.remove(self._path(part.number))
        if self._place is not None and self._place[0] is part:
            self._place = None

    # ---- reading ----

    def read(self, seq, most):
        """Up to `most` messages from `seq` on, in order; fewer at the end of a file.

        None at all while the next one waits for a clock. Gaps of damaged files are passed over.
        """
        part, offset, at = self._find(seq)
        found = []
        if part is None:
            return found
        with open(self._path(part.number), "rb") as file:
            file.seek(offset)
            while len(found) < most and at < part.base_seq + part.count:
                record = segment.read_record(file)
                if record is None:
                    break
                kind, cycle, at_ms, body = record
                if segment.is_message(kind):
                    if at >= seq:
                        if kind == UPTIME and cycle not in self._clocks:
                            if cycle == self.cycle or cycle in self._ends:
                                break
                            at_ms = None
                        elif kind == UPTIME:
                            at_ms += self._clocks[cycle]
                        elif kind == TIMELESS:
                            at_ms = None
                        found.append(Message(at, at_ms, body))
                    at += 1
                offset += segment.OVERHEAD_BYTES + len(body)
        self._place = (part, offset, at)
        return found

    def _find(self, seq):
        """The part that holds `seq` or the next after it, and where to read on in it."""
        place = self._place
        if place is not None and place[2] == seq < place[0].base_seq + place[0].count:
            return place
        for part in self._parts:
            if seq < part.base_seq + part.count:
                return part, segment.HEADER_BYTES, part.base_seq
        return None, 0, 0

    # ---- at the start ----

    def _path(self, number):
        return "%s/%08x.seg" % (self._folder, number)

    def _scan(self):
        numbers = []
        for name in os.listdir(self._folder):
            if name.endswith(".seg"):
                numbers.append(int(name[:-4], 16))
        sound = False
        for number in sorted(numbers):
            sound = self._scan_part(number)
        while len(self._parts) > self._most_parts:
            self._remove_oldest()  # counted already, in the newest header
        if not sound:
            self.next_seq += self._behind // segment.OVERHEAD_BYTES  # as many may have been sent
        else:
            self._file = open(self._path(self._parts[-1].number), "ab")

    def _scan_part(self, number):
        """Note what a file holds. Returns whether more can be written behind it."""
        path = self._path(number)
        with open(path, "rb") as file:
            header = segment.read_header(file)
            if header is not None and not self._continues(header):
                header = None
            if header is not None:
                part = _Part(number, header.base_seq)
                record = segment.read_record(file)
                while record is not None:
                    self._note(part, record)
                    record = segment.read_record(file)
                behind = segment.bytes_behind(file, part.size)
        if header is None:
            self.damaged += 1
            os.remove(path)
            return False
        self._boot = header.boot
        self.dropped = max(self.dropped, header.dropped)
        self._parts.append(part)
        self.next_seq = part.base_seq + part.count
        self._behind = 0
        if behind is None:
            return True
        self.damaged += 1
        self._behind = behind
        return False

    def _continues(self, header):
        return self._boot in (None, header.boot) and self.next_seq <= header.base_seq

    def _note(self, part, record):
        kind, cycle, at_ms, body = record
        part.size += segment.OVERHEAD_BYTES + len(body)
        if segment.is_message(kind):
            part.count += 1
        if kind == CLOCK:
            self._clocks[cycle] = at_ms
            self._ends.pop(cycle, None)
            if len(self._clocks) > _MAX_CYCLES:
                del self._clocks[min(self._clocks)]
        elif kind == UPTIME and cycle not in self._clocks:
            self._ends[cycle] = at_ms
            if len(self._ends) > _MAX_CYCLES:
                del self._ends[min(self._ends)]
        self.cycle = max(self.cycle, cycle + 1)


def _write_all(file, data):
    """Write and sync. Raises OSError also for a short write: a full flash."""
    if file.write(data) != len(data):
        raise OSError(28)  # ENOSPC
    file.flush()


__all__ = ["CLOCK", "TIMELESS", "UNIX", "UPTIME", "Message", "Outbox"]
