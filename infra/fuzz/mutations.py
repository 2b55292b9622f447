"""What may happen to a message between a sensor and a broker, and what a stranger may send. Pure.

A mutation takes the seed's chance and a payload, and returns another one.
"""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

ODD_VALUES = (
    b"null", b"true", b'"12"', b'""', b"[]", b"{}", b"[[[]]]", b'{"a":{"a":1}}', b"-0.0", b"-1",
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e308", b"1e-320", b"9" * 400,
    b"9" * 5000, b"0." + b"1" * 3000, b"01", b"0x1F", b"1_000", b"9223372036854775808",
    b"-9223372036854775809", b"18446744073709551616", b"4294967295", b"9007199254740993",
    b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'"\\x"',
    b'"\\u202e"', b'"' + b"x" * 300 + b'"', b'"1970-01-01T00:00:07Z"',
    b'"9999-12-31T23:59:59Z"', b'"0001-01-01T00:00:00+14:00"', "\"๑๒๓\"".encode(),
)  # fmt: skip
ODD_BYTES = (
    b"", b" ", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"[]", b"{}", b'""', b"on", b"NaN",
    b"-", b"1e", b"{", b"}", b'"', b"\\", b"[" * 9, b'{"a":' * 20,
)  # fmt: skip
ODD_TOPICS = (
    "home/{home}/sensor/moonlight", "homesync/{home}/nodes//telemetry/power", "{home}",
    "homesync/{home}/nodes/n/telemetry/ไฟ", "shellies//relay/0", "/status/x", "a/b/c/d/e/status/x",
    "{home}/events/rpc/events/rpc", "device/status/status", "device/status/telemetry",
    "devices/{home} \u200b/data", "homesync/{home}/nodes/😀/telemetry/power", "alerts/status/a",
    "home/{home}/device/status/status", "sensor/data", "shellies/{home}/emeter/99999/power",
    "status/online", "events/rpc", "meterstream/{home}/rpc/rpc", "{home}/" * 60 + "status/x",
    "devices/" + "d" * 190 + "/data", "devices/" + "d" * 600 + "/data",
)  # fmt: skip
_VALUE = re.compile(rb'(?<=[:\[,])\s*(?:-?\d[\d.eE+-]*|true|false|null|"(?:[^"\\]|\\.)*")')
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"(?=\s*:)')


def flip_bits(chance: Random, payload: bytes) -> bytes:
    changed = bytearray(payload or b"\0")
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def truncate(chance: Random, payload: bytes) -> bytes:
    return payload[: chance.randrange(len(payload) + 1)]


def repeat_a_part(chance: Random, payload: bytes) -> bytes:
    start, end = sorted(chance.randrange(len(payload) + 1) for _ in "12")
    return payload[:end] + payload[start:]


def leave_a_part_out(chance: Random, payload: bytes) -> bytes:
    start = chance.randrange(len(payload) + 1)
    return payload[:start] + payload[start + chance.randrange(1, 9) :]


def put_odd_bytes(chance: Random, payload: bytes) -> bytes:
    at = chance.choice((0, len(payload), chance.randrange(len(payload) + 1)))
    return payload[:at] + chance.choice(ODD_BYTES) + payload[at:]


def swap_a_value(chance: Random, payload: bytes) -> bytes:
    """Another type, a huge number, a text that is none: in place of one value of the JSON."""
    found = list(_VALUE.finditer(payload))
    if not found:
        return chance.choice(ODD_VALUES)
    start, end = chance.choice(found).span()
    return payload[:start] + chance.choice(ODD_VALUES) + payload[end:]


def swap_two_values(chance: Random, payload: bytes) -> bytes:
    found = [match.span() for match in _VALUE.finditer(payload)]
    if len(found) < 2:
        return payload[::-1]
    (a, b), (c, d) = sorted(chance.sample(found, 2))
    return payload[:a] + payload[c:d] + payload[b:c] + payload[a:b] + payload[d:]


def say_a_key_twice(chance: Random, payload: bytes) -> bytes:
    found = list(_KEY.finditer(payload))
    if not found:
        return b'{"a":1,"a":2}'
    match = chance.choice(found)
    again = match.group() + b":" + chance.choice(ODD_VALUES) + b","
    return payload[: match.start()] + again + payload[match.start() :]


def swap_a_key(chance: Random, payload: bytes) -> bytes:
    found = list(_KEY.finditer(payload))
    if len(found) < 2:
        return payload + payload
    one, other = chance.sample(found, 2)
    return payload[: one.start()] + other.group() + payload[one.end() :]


def nest(chance: Random, payload: bytes) -> bytes:
    depth = chance.choice((1, 2, 7, 8, 9, 100, 5000))
    if chance.random() < 0.5:
        return b"[" * depth + payload + b"]" * depth
    return b'{"a":' * depth + payload + b"}" * depth


def encode_otherwise(chance: Random, payload: bytes) -> bytes:
    text = payload.decode(errors="replace")
    coding = chance.choice(("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"))
    return text.encode(coding, errors="replace")


def blow_up(chance: Random, payload: bytes) -> bytes:
    """Around the 64 KiB that are read, and beyond; and what costs a parser most."""
    size = chance.choice((65_000, 65_536, 65_537, 70_000, 400_000))
    values = [match.span() for match in _VALUE.finditer(payload)]
    start, end = chance.choice(values or [(0, len(payload))])
    huge = (
        payload.ljust(size),
        payload.ljust(size, b"\0"),
        payload[:start] + b'"' + b"x" * size + b'"' + payload[end:],
        payload[:start] + b"9" * size + payload[end:],
        b"[" * (size - 9),
        b'"\\"' * (size // 3),
        b'{"a":' * (size // 5),
        b"[" + b"{}," * (size // 3 - 9) + b"0]",
        b"{" + b",".join(b'"%d":0' % n for n in range(size // 10)) + b"}",
    )
    return chance.choice(huge)


def reformat(chance: Random, payload: bytes) -> bytes:
    """The same JSON, said otherwise."""
    try:
        value: Any = json.loads(payload)
    except (ValueError, RecursionError):
        return payload
    if isinstance(value, dict) and chance.random() < 0.5:
        names = list(value)
        chance.shuffle(names)
        value = {name: value[name] for name in names}
    return json.dumps(value, indent=chance.choice((None, 3, "\t"))).encode()


def random_bytes(chance: Random, payload: bytes) -> bytes:
    return chance.randbytes(chance.choice((1, 2, 16, 300)))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, truncate, repeat_a_part, leave_a_part_out, put_odd_bytes, swap_a_value,
    swap_a_value, swap_a_value, swap_two_values, say_a_key_twice, swap_a_key, nest,
    encode_otherwise, reformat, random_bytes,
)  # fmt: skip
HUGE_SHARE = 0.004  # of all messages: Kafka and the table of refused records keep them
