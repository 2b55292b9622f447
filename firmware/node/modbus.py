"""Modbus-RTU frames: the checksum, and telling a sound reply from anything else. Pure."""


class BadFrame(Exception):
    """What came over the wire is no reply to what was asked; the text says why."""


_EXCEPTIONS = {1: "illegal function", 2: "illegal address", 3: "illegal value", 4: "slave error"}


def crc16(data, length=None):
    """CRC-16/Modbus (polynomial 0xA001, start 0xFFFF) of the first `length` bytes."""
    crc = 0xFFFF
    for index in range(len(data) if length is None else length):
        crc ^= data[index]
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def framed(body):
    """`body` with its checksum, low byte first."""
    crc = crc16(body)
    return bytes(body) + bytes((crc & 0xFF, crc >> 8))


def request(address, function, *words):
    """A request of 16-bit `words`, high byte first, with its checksum."""
    body = bytearray((address, function))
    for word in words:
        body.append(word >> 8)
        body.append(word & 0xFF)
    return framed(body)


def refuse_unsound(frame, address, function):
    """Raise BadFrame unless `frame` is a whole reply of `address` to `function`.

    A device's exception is a BadFrame too, by its name.
    """
    size = len(frame)
    if size < 4:
        raise BadFrame("%d bytes are no frame" % size)
    crc = crc16(frame, size - 2)
    if frame[size - 2] != crc & 0xFF or frame[size - 1] != crc >> 8:
        raise BadFrame("checksum of %d bytes is wrong" % size)
    if frame[0] != address:
        raise BadFrame("address 0x%02x answered for 0x%02x" % (frame[0], address))
    if frame[1] == function | 0x80:
        raise BadFrame("exception %d, %s" % (frame[2], _EXCEPTIONS.get(frame[2], "unknown")))
    if frame[1] != function:
        raise BadFrame("function 0x%02x answered for 0x%02x" % (frame[1], function))
