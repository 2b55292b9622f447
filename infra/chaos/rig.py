"""What faults happen to: a stack, and where they are wanted proxies on its hops and small disks."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from infra.chaos.proxy import Proxies
from infra.loads.steady import SteadyLoad
from infra.local import Stack, StackSettings
from infra.local.programs import ALL, SERVERS
from infra.local.settings import free_block

DISK_MIB = 2048
MOST_TRIES = 50
QUICK_BILLS = {"billing": {"METERSTREAM_BILLING_PAUSE_S": "1", "METERSTREAM_BILLING_QUIET_S": "1"}}
"""In its environment: what changes makes the next version of a bill while the run lasts."""
_PAGE_BYTES = 4096


class CannotMount(Exception):
    """This machine or user may not mount a file system."""


@dataclass
class Rig:
    """`disks` are the state directories that lie on a disk of their own; `load` is what runs."""

    stack: Stack
    proxies: Proxies | None = None
    disks: Mapping[str, "Disk"] = field(default_factory=dict)
    load: SteadyLoad | None = None

    @property
    def mqtt_port(self) -> int:
        """Where nodes connect."""
        return self.stack.mqtt_port if self.proxies is None else self.proxies["node-broker"].port

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own. Raises psycopg.OperationalError."""
        with psycopg.connect(self.stack.database_url, autocommit=True, connect_timeout=5) as conn:
            return conn.execute(text.encode(), values).fetchall()


@dataclass
class Struck:
    """A fault that is over: since when, as `time.time()`. `notes` go into its row.

    `recovery_s` where it was to be seen before the fault was over.
    """

    ended_at: float
    notes: dict[str, object] = field(default_factory=dict)
    recovery_s: float | None = None


@contextmanager
def private_rig(
    folder: Path, *, proxied: bool = False, on_disks: Sequence[str] = ()
) -> Iterator[Rig]:
    """A whole stack with ports of its own and its data in `folder`, wiped afterwards.

    Raises CannotMount if servers shall have disks and the machine does not allow it.
    """
    settings = StackSettings.free(folder / "state")
    with ExitStack() as held:
        disks = {
            name: held.enter_context(mounted_disk(settings.state_dir / name)) for name in on_disks
        }
        if not proxied:
            stack = Stack(settings, ALL, QUICK_BILLS)
            held.callback(_wipe, stack, disks)
            stack.up()
            yield Rig(stack, None, disks)
            return
        first = free_block(2)
        listeners = {"UPLINK": first, "WORKER": first + 1}
        proxies = held.enter_context(
            Proxies(
                {
                    "node-broker": settings.mqtt_port,
                    "broker-uplink": settings.mqtt_port,
                    "uplink-kafka": listeners["UPLINK"],
                    "worker-kafka": listeners["WORKER"],
                    "worker-database": settings.database_port,
                }
            )
        )
        stack = Stack(settings, SERVERS)
        held.callback(_wipe, stack, disks)
        stack.up()
        add_listeners(stack, listeners, {
            "UPLINK": proxies["uplink-kafka"].port, "WORKER": proxies["worker-kafka"].port
        })  # fmt: skip
        stack = Stack(settings, ALL, {**detours(stack, proxies), **QUICK_BILLS})
        stack.up()
        yield Rig(stack, proxies, disks)


def add_listeners(stack: Stack, ports: Mapping[str, int], advertised: Mapping[str, int]) -> None:
    """Let Kafka listen on more ports; who comes there is told to come back to the advertised ones.

    Every client thus stays behind its own proxy.
    """
    path = stack.settings.state_dir / "kafka" / "server.properties"
    text = path.read_text()
    for key, more in (
        ("listeners", [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]),
        ("advertised.listeners", [f"{name}://127.0.0.1:{at}" for name, at in advertised.items()]),
        ("listener.security.protocol.map", [f"{name}:PLAINTEXT" for name in ports]),
    ):
        *_, now = (line for line in text.splitlines() if line.startswith(f"{key}="))
        text += ",".join([now, *more]) + "\n"
    path.write_text(text)
    stack.restart("kafka")


def detours(stack: Stack, proxies: Proxies) -> dict[str, dict[str, str]]:
    """What uplink and worker find in their environment, so that they go through the proxies."""
    database = stack.database_url.replace(
        f":{stack.settings.database_port}/", f":{proxies['worker-database'].port}/"
    )
    return {
        "uplink": {
            "METERSTREAM_MQTT_PORT": str(proxies["broker-uplink"].port),
            "METERSTREAM_KAFKA_BOOTSTRAP": f"127.0.0.1:{proxies['uplink-kafka'].port}",
        },
        "worker": {
            "METERSTREAM_KAFKA_BOOTSTRAP": f"127.0.0.1:{proxies['worker-kafka'].port}",
            "METERSTREAM_DATABASE_URL": database,
        },
    }


def _wipe(stack: Stack, disks: Mapping[str, "Disk"]) -> None:
    if disks:
        stack.down()
    for disk in disks.values():
        disk.unmount()
    stack.wipe()


# ---- disks


class Disk:
    """A file system in memory, which can be made so small that it is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "chaos", str(path))
        self._is_mounted = True

    def fill(self) -> None:
        """Leave no room at all."""
        for _ in range(MOST_TRIES):
            used = shutil.disk_usage(self.path).used
            try:
                _mount("-o", f"remount,size={max(used, _PAGE_BYTES)}", str(self.path))
                return
            except CannotMount:  # more has been written meanwhile than the size allows
                continue
        raise CannotMount(f"{self.path} cannot be made smaller while it is written to")

    def free(self) -> None:
        """Give the room back."""
        _mount("-o", f"remount,size={DISK_MIB}m", str(self.path))

    def unmount(self) -> None:
        if self._is_mounted:
            self._is_mounted = False
            subprocess.run(["umount", str(self.path)], check=False, capture_output=True)


@contextmanager
def mounted_disk(path: Path) -> Iterator[Disk]:
    """Raises CannotMount."""
    disk = Disk(path)
    try:
        yield disk
    finally:
        disk.unmount()


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotMount("there is no `mount` on this machine") from error
    if done.returncode:
        raise CannotMount(done.stderr.strip() or f"mount ends with {done.returncode}")
