"""The stream stage: the whole agent from a full log, beside peers that do windows only."""

from infra.bench import log, peers, workers
from infra.bench.results import Row, Taken, faster_than, rows_of
from infra.local import Stack
from infra.local.parts import Progress

DEVICES = 1000
WORKERS = (1, 2)
TIMEOUT_S = 900.0


def measure(stack: Stack, readings: int, repeats: int, progress: Progress) -> list[Row]:
    """Workers and peers in turn, so that all have seen the same hours of the machine."""
    filled = log.fill(stack, readings, DEVICES, progress, peers=True)
    taken: list[Taken] = []
    for repeat in range(1, repeats + 1):
        for count in WORKERS:
            name = "meterstream, " + ("1 worker" if count == 1 else f"{count} workers")
            progress(f"{name}, {repeat} of {repeats}")
            workers.forget(stack)
            figures = workers.measure(stack, filled, count, timeout_s=TIMEOUT_S)
            taken.append(Taken(name, figures, "the whole agent: 12 columns, states, topics"))
        workers.forget(stack)
        for peer in peers.PEERS:
            progress(f"{peer.name}, {repeat} of {repeats}")
            taken.append(peers.measure(stack, filled, peer, progress, timeout_s=TIMEOUT_S))
    return faster_than(rows_of(taken), peers.QUIXSTREAMS.name, "readings_per_s")
