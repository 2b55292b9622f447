"""Ed25519 signatures (RFC 8032, 5.1), verified only: a node signs nothing and holds no secret.

Strict: S below the group's order, coordinates below the field's prime, and neither key nor R of
small order. Whatever is wrong is False; no input raises.

Not `pow(x, -1, p)`: MicroPython 1.25 answers 0 to it without a word.
"""

from ota.sha512 import sha512

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, P - 2, P) % P
_ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
_BASE = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)


def verify(public_key, message, signature, tick=None):
    """Whether `signature` (64 bytes) of `message` was made with the secret of `public_key` (32).

    `tick` is called some 250 times on the way, so that a watchdog can be fed.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    key, r = _decode(public_key), _decode(signature[:32])
    if key is None or r is None or _is_small(key) or _is_small(r):
        return False
    digest = sha512(signature[:32] + public_key + message)
    k = int.from_bytes(digest, "little") % L
    # R = S·B − k·A, compared as bytes
    base, minus_key = _extend(_BASE), _extend((P - key[0], key[1]))
    sums = (None, base, minus_key, _add(base, minus_key))
    point = (0, 1, 1, 0)
    for bit in range(252, -1, -1):
        point = _double(point)
        chosen = sums[(s >> bit & 1) | (k >> bit & 1) << 1]
        if chosen is not None:
            point = _add(point, chosen)
        if tick is not None:
            tick()
    return _encode(point) == bytes(signature[:32])


def _decode(text):
    """The point (x, y) that 32 bytes stand for, None if they stand for none."""
    y = int.from_bytes(text, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    # x² = u / v
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    v3 = v * v * v % P
    x = u * v3 * pow(u * v3 * v3 * v % P, (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * _ROOT_OF_MINUS_1 % P
        if v * x * x % P != u:
            return None
    if x == 0 and sign:
        return None
    return (P - x if x & 1 != sign else x, y)


def _encode(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _is_small(point):
    """Whether eight times the point is the neutral element."""
    eight = _double(_double(_double(_extend(point))))
    return eight[0] == 0 and eight[1] == eight[2]


def _extend(point):
    """Extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, T = XY/Z."""
    x, y = point
    return (x, y, 1, x * y % P)


def _add(one, other):
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = 2 * t1 * _D % P * t2 % P
    d = 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _double(point):
    x, y, z, _ = point
    a, b = x * x % P, y * y % P
    h = a + b
    e = h - (x + y) * (x + y) % P
    g = a - b
    f = 2 * z * z % P + g
    return (e * f % P, g * h % P, f * g % P, e * h % P)
