"""SHA-512 (FIPS 180-4), which MicroPython does not bring. Small messages only: it is slow."""

_BITS = 0xFFFFFFFFFFFFFFFF
_START = (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip


def _root_fraction(prime):
    """The first 64 bits of the fraction of the cube root of `prime`."""
    cube = prime << 192
    low, high = 0, 1 << 67
    while high - low > 1:
        middle = (low + high) >> 1
        if middle * middle * middle <= cube:
            low = middle
        else:
            high = middle
    return low & _BITS


def _round_constants():
    """The 80 constants, packed: they take a few KB as numbers."""
    primes, number = [], 2
    while len(primes) < 80:
        if all(number % prime for prime in primes):
            primes.append(number)
        number += 1
    return b"".join([_root_fraction(prime).to_bytes(8, "big") for prime in primes])


_CONSTANTS = _round_constants()


def sha512(message):
    """The digest of `message`, 64 bytes."""
    state = list(_START)
    end = b"\x80" + bytes((111 - len(message)) % 128) + (8 * len(message)).to_bytes(16, "big")
    whole = len(message) - len(message) % 128
    for start in range(0, whole, 128):
        _compress(state, message[start : start + 128])
    tail = bytes(message[whole:]) + end
    for start in range(0, len(tail), 128):
        _compress(state, tail[start : start + 128])
    return b"".join([word.to_bytes(8, "big") for word in state])


def _compress(state, block):
    w = [int.from_bytes(block[i : i + 8], "big") for i in range(0, 128, 8)]
    a, b, c, d, e, f, g, h = state
    for t in range(80):
        if t >= 16:
            x, y = w[(t + 1) % 16], w[(t + 14) % 16]
            s0 = _turn(x, 1) ^ _turn(x, 8) ^ (x >> 7)
            s1 = _turn(y, 19) ^ _turn(y, 61) ^ (y >> 6)
            w[t % 16] = (w[t % 16] + s0 + w[(t + 9) % 16] + s1) & _BITS
        choice = (e & f) ^ (~e & _BITS & g)
        constant = int.from_bytes(_CONSTANTS[8 * t : 8 * t + 8], "big")
        t1 = h + (_turn(e, 14) ^ _turn(e, 18) ^ _turn(e, 41)) + choice + constant + w[t % 16]
        t2 = (_turn(a, 28) ^ _turn(a, 34) ^ _turn(a, 39)) + ((a & b) ^ (a & c) ^ (b & c))
        h, g, f, e = g, f, e, (d + t1) & _BITS
        d, c, b, a = c, b, a, (t1 + t2) & _BITS
    for i, word in enumerate((a, b, c, d, e, f, g, h)):
        state[i] = (state[i] + word) & _BITS


def _turn(word, places):
    return (word >> places) | (word << (64 - places)) & _BITS
