"""Which messages a seed sends: sound ones, mutated ones, on the right topics and on others. Pure.

Devices and channels are bounded: every address and every channel that a fuzzed message would
bring into being counts, and beyond the bounds another mutation is tried. (A node that goes on
inventing addresses is refused by the worker, `too_many_new_devices`; that has a test of its own.)
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from infra.fuzz.corpus import Sound, simulated, sound_messages
from infra.fuzz.mutations import HUGE_SHARE, MUTATIONS, ODD_TOPICS, blow_up
from ingest.decoders.topic_table import decode
from schemas.decoded import Decoded, Undecodable

SOUND_SHARE = 0.1
OTHER_TOPIC_SHARE, ODD_TOPIC_SHARE = 0.06, 0.03
RETAINED_SHARE, QOS_2_SHARE = 0.03, 0.02
MOST_ADDRESSES, MOST_CHANNELS = 300, 3_000
MOST_OF_A_DEVICE = 200
TRIES = 20


class Shot(NamedTuple):
    """One publish."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Plan:
    """The messages of a seed. The same seed and the same instants give the same bytes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.addresses: set[str] = set()
        self.retained: set[str] = set()
        self._channels: set[tuple[str, str]] = set()
        self._devices = simulated(seed)
        self._chance = Random(f"fuzz {seed}")

    def batch(self, count: int, now_us: int) -> Iterator[Shot]:
        sound = sound_messages(self._devices, self.seed, now_us, count // 4)
        for _ in range(count):
            yield self._shot(sound, now_us)

    def clear_retained(self) -> Iterator[Shot]:
        """Take out of the broker what it retains of ours."""
        for topic in sorted(self.retained):
            yield Shot(topic, b"", 1, True)
        self.retained.clear()

    def _shot(self, sound: list[Sound], now_us: int) -> Shot:
        chance = self._chance
        for _ in range(TRIES):
            topic, payload = self._message(sound)
            if self._is_within_bounds(topic, payload, now_us):
                break
        else:
            topic, payload = chance.choice(sound)
            self._is_within_bounds(topic, payload, now_us)
        retain = chance.random() < RETAINED_SHARE
        if retain:
            self.retained.add(topic)
        return Shot(topic, payload, 2 if chance.random() < QOS_2_SHARE else 1, retain)

    def _message(self, sound: list[Sound]) -> Sound:
        chance = self._chance
        topic, payload = chance.choice(sound)
        kind = chance.random()
        if kind < SOUND_SHARE:
            return Sound(topic, payload)
        kind -= SOUND_SHARE
        if kind < HUGE_SHARE:
            return Sound(topic, blow_up(chance, payload))
        kind -= HUGE_SHARE
        if kind < OTHER_TOPIC_SHARE:
            return Sound(chance.choice(sound).topic, payload)
        kind -= OTHER_TOPIC_SHARE
        if kind < ODD_TOPIC_SHARE:
            topic = chance.choice(ODD_TOPICS).replace("{home}", f"fuzz-{self.seed}")
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            payload = chance.choice(MUTATIONS)(chance, payload)
        return Sound(topic, payload)

    def _is_within_bounds(self, topic: str, payload: bytes, now_us: int) -> bool:
        """Whether a message brings no device or channel too many; what it brings is counted."""
        try:
            said: Decoded = decode(topic, payload, now_us)
        except Undecodable:
            return True
        if said.address not in self.addresses and len(self.addresses) >= MOST_ADDRESSES:
            return False
        new = {(said.address, reading.channel) for reading in said.readings} - self._channels
        if new and len(self._channels) + len(new) > MOST_CHANNELS:
            return False
        own = sum(address == said.address for address, _ in self._channels)
        if new and own + len(new) > MOST_OF_A_DEVICE:
            return False
        self.addresses.add(said.address)
        self._channels |= new
        return True
