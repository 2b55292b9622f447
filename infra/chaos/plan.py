"""Which faults hit what, and how long: everything follows from the seed. Pure.

A kind has its targets (processes, or hops between two of them), and a span of seconds. Kinds and
targets come from shuffled decks, so that after a while each has had its share.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MONEY = ("cost", "billing")
COMMANDS = ("commands", "downlink")
BESIDE = ("presence", "poller")
SERVERS = ("mosquitto", "timescale", "kafka")
PROCESSES = ("uplink", "worker", "rollup", *MONEY, *COMMANDS, *BESIDE, "api", *SERVERS)
IN_FLOW = ("uplink", "worker", *SERVERS)
STOPPED = (*IN_FLOW, *MONEY, *COMMANDS, *BESIDE)
HOPS: Mapping[str, tuple[str, ...]] = {
    "node-broker": ("mosquitto",),
    "broker-uplink": ("mosquitto", "uplink"),
    "uplink-kafka": ("uplink", "kafka"),
    "worker-kafka": ("worker", "kafka"),
    "worker-database": ("worker", "timescale"),
}
"""Each hop with the processes at its ends."""
CHECKED_HOPS = ("uplink-kafka", "worker-kafka")
"""Where a flipped bit is found: Kafka's batches have a CRC, MQTT and PostgreSQL have none."""

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.5


class BadPlan(ValueError):
    """No fault is possible with these kinds and targets; the text says what to change."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault. It lasts from `least_s` to `most_s`, mostly short; `share` of the deck."""

    name: str
    what: str
    targets: tuple[str, ...]
    least_s: float = 0.0
    most_s: float = 0.0
    share: int = 1
    together: int = 1  # so many targets at once


KINDS = {
    kind.name: kind
    for kind in (
        Kind("kill", "kill -9", PROCESSES, share=9),
        Kind("kill2", "kill -9 of two at once", PROCESSES, together=2),
        Kind("stop", "SIGSTOP, then SIGCONT", STOPPED, 1, 60),
        Kind("restart", "a clean stop and start", PROCESSES),
        Kind("wipe", "the broker's files deleted while it is stopped", ("mosquitto",)),
        Kind("down", "stopped for --down-s", ("kafka", "timescale")),
        Kind("immediate", "PostgreSQL's immediate shutdown", ("timescale",)),
        Kind("full", "the disk is full", ("mosquitto", "kafka", "timescale"), 5, 20),
        Kind("upgrade", "stopped under load, then a new process", ("uplink", "worker"), together=2),
        Kind("backup", "dumped, dropped and restored under load", ("timescale",)),
        Kind("zombie", "SIGSTOP inside a transaction, and a replacement", ("worker",)),
        Kind("latency", "50 to 400 ms more a chunk", tuple(HOPS), 2, 10),
        Kind("bandwidth", "10 to 80 kB/s a connection", tuple(HOPS), 2, 10),
        Kind("stall", "no byte passes", tuple(HOPS), 1, 20),
        Kind("reset", "connections reset, new ones too", tuple(HOPS), 0.1, 8),
        Kind("half-open", "the server is gone and nobody told the client", tuple(HOPS)),
        Kind("corrupt", "flipped bits", CHECKED_HOPS, 2, 6),
    )
}
GROUPS = {
    "all": tuple(KINDS),
    "net": ("latency", "bandwidth", "stall", "reset", "half-open", "corrupt"),
}


@dataclass(frozen=True)
class Planned:
    """A fault to come. `draw` in [0, 1) sets what else the kind has to choose."""

    number: int
    kind: str
    targets: tuple[str, ...]
    lasts_s: float
    pause_s: float  # after the flow is back
    draw: float

    @property
    def target(self) -> str:
        return "+".join(self.targets)


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds that a list like `kill,net` names. Raises BadPlan."""
    found: list[str] = []
    for word in text.split(","):
        if word not in KINDS and word not in GROUPS:
            raise BadPlan(f"--kinds {word}: one of {', '.join([*GROUPS, *KINDS])}")
        found += [name for name in GROUPS.get(word, (word,)) if name not in found]
    return tuple(found)


def targets_of(text: str) -> tuple[str, ...]:
    """The processes and hops that a list like `kafka,node-broker` names, `all` of them.

    A process stands for its hops too. Raises BadPlan.
    """
    if text == "all":
        return (*PROCESSES, *HOPS)
    words = text.split(",")
    for word in words:
        if word not in PROCESSES and word not in HOPS:
            raise BadPlan(f"--target {word}: all, or of {', '.join([*PROCESSES, *HOPS])}")
    hops = [hop for hop, ends in HOPS.items() if set(ends) & set(words)]
    return tuple(dict.fromkeys([*words, *hops]))


def hits_money(kinds: Sequence[str], targets: Sequence[str]) -> bool:
    """Whether a fault may hit who works out costs and bills."""
    return _hits(MONEY, kinds, targets)


def hits_commands(kinds: Sequence[str], targets: Sequence[str]) -> bool:
    """Whether a fault may hit who brings commands to devices."""
    return _hits(COMMANDS, kinds, targets)


def _hits(some: Sequence[str], kinds: Sequence[str], targets: Sequence[str]) -> bool:
    return any(set(KINDS[name].targets) & set(targets) & set(some) for name in kinds)


def plan(
    seed: int,
    kinds: Sequence[str],
    targets: Sequence[str],
    fixed_s: Mapping[str, float] | None = None,
) -> Iterator[Planned]:
    """Faults without end. `fixed_s` says how long faults of a kind last.

    Raises BadPlan if a kind has too few of the targets.
    """
    chance = random.Random(seed)
    possible: dict[str, list[str]] = {}
    for name in kinds:
        possible[name] = [target for target in KINDS[name].targets if target in targets]
        if len(possible[name]) < KINDS[name].together:
            raise BadPlan(
                f"{name} hits {', '.join(KINDS[name].targets)}: add them to --target, "
                f"or leave {name} out of --kinds"
            )
    deck = Deck([name for name in kinds for _ in range(KINDS[name].share)], chance)
    decks = {name: Deck(possible[name], chance) for name in kinds}
    number = 0
    while True:
        number += 1
        kind = KINDS[deck.draw()]
        chosen = decks[kind.name].draw_different(kind.together)
        lasts_s = kind.least_s
        if kind.most_s:
            lasts_s *= (kind.most_s / kind.least_s) ** chance.random()
        yield Planned(
            number,
            kind.name,
            chosen,
            round((fixed_s or {}).get(kind.name, lasts_s), 2),
            round(chance.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S), 2),
            chance.random(),
        )


class Deck:
    """Cards in a random order; shuffled anew when all have been drawn."""

    def __init__(self, cards: Sequence[str], chance: random.Random) -> None:
        self._cards, self._chance = list(cards), chance
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._chance.sample(self._cards, len(self._cards))
        return self._left.pop()

    def draw_different(self, count: int) -> tuple[str, ...]:
        found: list[str] = []
        while len(found) < count:
            card = self.draw()
            if card not in found:
                found.append(card)
        return tuple(found)
