"""How long to wait before trying again: at random up to a doubling bound (full jitter). Pure."""


class Backoff:
    """`random(n)` gives a whole number in [0, n)."""

    def __init__(self, random, base_ms=1_000, most_ms=60_000):
        self._random = random
        self._base_ms = base_ms
        self._most_ms = most_ms
        self._bound_ms = base_ms

    def next_ms(self):
        bound_ms = self._bound_ms
        self._bound_ms = min(self._most_ms, bound_ms * 2)
        return self._random(bound_ms)

    def reset(self):
        self._bound_ms = self._base_ms
