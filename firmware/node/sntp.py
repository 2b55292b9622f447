"""One question to a time server and its answer (SNTP, RFC 4330). Pure."""

import struct

from micropython import const

PORT = 123
_PACKET_BYTES = const(48)
_SECONDS_1900_TO_1970 = const(2_208_988_800)


class BadTime(Exception):
    """The answer is not to be believed; the text says why."""


def question(nonce):
    """A client's packet. `nonce` (8 bytes) comes back, so that nobody else can answer."""
    return b"\x23" + bytes(39) + nonce


def unix_ms(answer, nonce, waited_ms):
    """Unix time now, in ms, of an answer that took `waited_ms`. Raises BadTime."""
    if len(answer) < _PACKET_BYTES:
        raise BadTime("%d bytes are no answer" % len(answer))
    if answer[0] & 7 != 4:
        raise BadTime("mode %d is no server's" % (answer[0] & 7))
    if answer[0] >> 6 == 3 or not 1 <= answer[1] <= 15:
        raise BadTime("the server's own clock is not set")
    if answer[24:32] != nonce:
        raise BadTime("an answer to another question")
    seconds, fraction = struct.unpack_from(">II", answer, 40)
    if seconds == 0:
        raise BadTime("no time in it")
    if seconds < 0x80000000:
        seconds += 1 << 32  # from 2036 on
    return (seconds - _SECONDS_1900_TO_1970) * 1000 + (fraction * 1000 >> 32) + waited_ms // 2
