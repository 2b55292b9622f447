"""How each kind of fault is done to a rig, and undone.

A `strike` returns when the fault is over, with the instant at which that began: of a kill the kill
itself, of a stopped process SIGCONT, of a restart the start, of a hop the end of its trouble.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable

from infra.chaos.plan import Planned
from infra.chaos.proxy import FINE, Proxy, Trouble
from infra.chaos.rig import Rig, Struck
from infra.chaos.zombie import zombie
from infra.local import backup, processes
from infra.local.programs import MOSQUITTO

CORRUPT_EVERY = 20
SLOWEST_BYTES_PER_S, FASTEST_BYTES_PER_S = 10_000.0, 80_000.0
LEAST_LATENCY_S, MOST_LATENCY_S = 0.05, 0.4
AFTER_DUMP_S = 3.0  # of load that only Kafka's log has


Strike = Callable[[Rig, Planned], Struck]


# ---- processes


def kill(rig: Rig, planned: Planned) -> Struck:
    pids = [rig.stack.pid(name) for name in planned.targets]
    at = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return Struck(at)


def stop(rig: Rig, planned: Planned) -> Struck:
    resume = processes.pause(rig.stack, planned.target)
    try:
        time.sleep(planned.lasts_s)
    finally:
        ended_at = time.time()
        resume()
    return Struck(ended_at)


def restart(rig: Rig, planned: Planned) -> Struck:
    """Of several targets each is started before the next is stopped."""
    ended_at = 0.0
    for name in planned.targets:
        rig.stack.stop_process(name)
        ended_at = time.time()
        rig.stack.start_process(name)
    return Struck(ended_at)


def wipe(rig: Rig, planned: Planned) -> Struck:
    rig.stack.stop_process(planned.target)
    removed = 0
    for path in (rig.stack.settings.state_dir / MOSQUITTO.name).glob("mosquitto.db*"):
        removed += path.stat().st_size
        path.unlink()
    ended_at = time.time()
    rig.stack.start_process(planned.target)
    return Struck(ended_at, {"removed_bytes": removed})


def down(rig: Rig, planned: Planned) -> Struck:
    rig.stack.stop_process(planned.target)
    try:
        time.sleep(planned.lasts_s)
    finally:
        ended_at = time.time()
        rig.stack.start_process(planned.target)
    return Struck(ended_at)


def immediate(rig: Rig, planned: Planned) -> Struck:
    at = time.time()
    processes.send(rig.stack, planned.target, signal.SIGQUIT)
    return Struck(at)


def restored(rig: Rig, planned: Planned) -> Struck:
    begun = time.monotonic()
    dumped = backup.dump(rig.stack)
    dumped_s = time.monotonic() - begun
    time.sleep(AFTER_DUMP_S)
    begun = time.monotonic()
    backup.restore(rig.stack)
    notes: dict[str, object] = {
        "dump_bytes": dumped.stat().st_size,
        "dumped_s": round(dumped_s, 1),
        "restored_s": round(time.monotonic() - begun, 1),
    }
    return Struck(time.time(), notes)


# ---- disks


def full(rig: Rig, planned: Planned) -> Struck:
    disk = rig.disks[planned.target]
    disk.fill()
    try:
        time.sleep(planned.lasts_s)
        free_bytes = shutil.disk_usage(disk.path).free
    finally:
        ended_at = time.time()
        disk.free()
    return Struck(ended_at, {"free_bytes": free_bytes})


# ---- hops


def trouble_of(planned: Planned) -> Trouble:
    """What a kind does to the bytes of a hop; how much follows from the draw."""
    if planned.kind == "latency":
        latency_s = LEAST_LATENCY_S + planned.draw * (MOST_LATENCY_S - LEAST_LATENCY_S)
        return Trouble(latency_s=latency_s, jitter_s=latency_s / 4)
    if planned.kind == "bandwidth":
        ratio = FASTEST_BYTES_PER_S / SLOWEST_BYTES_PER_S
        return Trouble(bytes_per_s=SLOWEST_BYTES_PER_S * ratio**planned.draw)
    if planned.kind == "stall":
        return Trouble(stalled=True)
    if planned.kind == "reset":
        return Trouble(refused=True)
    return Trouble(corrupt_every=CORRUPT_EVERY)


def _proxy(rig: Rig, planned: Planned) -> Proxy:
    assert rig.proxies is not None
    return rig.proxies[planned.target]


def trouble(rig: Rig, planned: Planned) -> Struck:
    proxy = _proxy(rig, planned)
    corrupted = proxy.corrupted
    proxy.set(trouble_of(planned))
    notes: dict[str, object] = {}
    if planned.kind == "reset":
        notes["connections"] = proxy.reset()
    try:
        time.sleep(planned.lasts_s)
    finally:
        ended_at = time.time()
        proxy.set(FINE)
    if planned.kind == "corrupt":
        notes["bits"] = proxy.corrupted - corrupted
    return Struck(ended_at, notes)


def half_open(rig: Rig, planned: Planned) -> Struck:
    at = time.time()
    return Struck(at, {"connections": _proxy(rig, planned).half_open()})


STRIKES: dict[str, Strike] = {
    "kill": kill,
    "kill2": kill,
    "stop": stop,
    "restart": restart,
    "wipe": wipe,
    "down": down,
    "immediate": immediate,
    "full": full,
    "upgrade": restart,
    "backup": restored,
    "zombie": zombie,
    "latency": trouble,
    "bandwidth": trouble,
    "stall": trouble,
    "reset": trouble,
    "half-open": half_open,
    "corrupt": trouble,
}
