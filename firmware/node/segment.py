"""One file of the outbox: a header, then records, each with a checksum. Pure but for the file.

A cut at any byte leaves a sound beginning: reading ends at the first record that is not whole.
"""

import struct
from binascii import crc32

from micropython import const

UNIX = 0  # `at_ms` is Unix time
UPTIME = 1  # `at_ms` counts from the start of the power cycle `cycle`
CLOCK = 2  # no message: the power cycle `cycle` started at the Unix time `at_ms`
TIMELESS = 3  # a message that needs no time

_MAX_BODY_BYTES = const(1024)
HEADER_BYTES = 20
OVERHEAD_BYTES = 17  # of a record, beside its body

_MAGIC = const(b"MSO1")
_HEADER = const(">4s4sII")  # magic, boot, base_seq, dropped
_RECORD = const(">HBHq")  # length of the body, kind, cycle, at_ms
_RECORD_BYTES = const(13)


class Header:
    def __init__(self, boot, base_seq, dropped):
        self.boot = boot  # 4 bytes: new only when the outbox was lost
        self.base_seq = base_seq
        self.dropped = dropped  # unacknowledged messages given up so far, over the node's life


def packed_header(header):
    head = struct.pack(_HEADER, _MAGIC, header.boot, header.base_seq, header.dropped)
    return head + struct.pack(">I", crc32(head))


def packed_record(kind, cycle, at_ms, body):
    """Raises ValueError for a body that is too long."""
    if len(body) > _MAX_BODY_BYTES:
        raise ValueError("a body of %d bytes; at most %d" % (len(body), _MAX_BODY_BYTES))
    head = struct.pack(_RECORD, len(body), kind, cycle, at_ms)
    return head + body + struct.pack(">I", crc32(body, crc32(head)))


def read_header(file):
    """The header at the file's begin; None if it is not whole."""
    data = file.read(HEADER_BYTES)
    if len(data) < HEADER_BYTES:
        return None
    magic, boot, base_seq, dropped = struct.unpack_from(_HEADER, data)
    (crc,) = struct.unpack_from(">I", data, HEADER_BYTES - 4)
    if magic != _MAGIC or crc != crc32(data[: HEADER_BYTES - 4]):
        return None
    return Header(boot, base_seq, dropped)


def read_record(file):
    """The next record: (kind, cycle, at_ms, body); None at the end or where it is not whole."""
    head = file.read(_RECORD_BYTES)
    if len(head) < _RECORD_BYTES:
        return None
    length, kind, cycle, at_ms = struct.unpack(_RECORD, head)
    if length > _MAX_BODY_BYTES:
        return None
    rest = file.read(length + 4)
    if len(rest) < length + 4:
        return None
    body = rest[:length]
    (crc,) = struct.unpack_from(">I", rest, length)
    if crc != crc32(body, crc32(head)):
        return None
    return kind, cycle, at_ms, body


def bytes_behind(file, offset):
    """What lies behind the last sound record at `offset`: None nothing, 0 a record cut short.

    More is the number of bytes behind a damaged record: there may have been messages.
    """
    file.seek(0, 2)
    end = file.tell()
    if offset == end:
        return None
    file.seek(offset)
    head = file.read(_RECORD_BYTES)
    if len(head) < _RECORD_BYTES:
        return 0
    whole = offset + OVERHEAD_BYTES + struct.unpack(_RECORD, head)[0]
    return end - offset if whole <= end else 0


def is_message(kind):
    """Whether a record of this kind has a `seq`."""
    return kind != CLOCK
