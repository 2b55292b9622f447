"""What people change of devices while a worker runs: whose they are, and what limits they have."""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from schemas.families import FAMILIES
from sinks import device_registry
from sinks.device_registry import KnownDevice
from streams.partition import Device, Homes, Partition, limits_of


class RegistryChanges:
    """Asks the registry what has changed since it was last asked: nothing is missed, however long
    the transaction took that changed it; some may be told twice.
    """

    def __init__(self) -> None:
        self._since: int | None = None

    def begin(self, conn: psycopg.Connection[Any]) -> None:
        """To be called before anything is read of any device."""
        if self._since is None:
            self._since = device_registry.first_running(conn)

    def read(self, conn: psycopg.Connection[Any]) -> list[KnownDevice]:
        assert self._since is not None
        until = device_registry.first_running(conn)
        if until < self._since:  # another server, which counts its transactions by itself
            self._since = 0
        changed = device_registry.changed_devices(conn, self._since)
        self._since = until
        return changed


def device_of(known: KnownDevice) -> Device:
    limits = limits_of(FAMILIES[known.family], known.gap_limit_s, known.max_power_w)
    return Device(known.device_id, known.address, homes_of(known.homes), limits)


def homes_of(spans: Iterable[tuple[int, int | None, str]]) -> Homes:
    homes: list[tuple[int, str | None]] = []
    for since_us, until_us, home_id in spans:
        if homes and homes[-1][0] == since_us:
            homes.pop()
        homes.append((since_us, home_id))
        if until_us is not None:
            homes.append((until_us, None))
    return tuple(homes)


def apply(partitions: Sequence[Partition], changed: Iterable[KnownDevice]) -> int:
    """Let devices in memory be what the registry says. Returns how many are not as they were.

    New limits judge the windows that are not complete yet. Nothing may be folded or stored
    meanwhile.
    """
    differ = 0
    for known in changed:
        found = [p for p in partitions if known.address in p.devices]
        for partition in found:
            device, told = partition.devices[known.address], device_of(known)
            differ += (device.homes, device.limits) != (told.homes, told.limits)
            device.homes = told.homes
            if device.limits != told.limits:
                device.limits = told.limits
                _judge_anew(partition, device)
    return differ


def _judge_anew(partition: Partition, device: Device) -> None:
    for channel in device.channels.values():
        if channel.windows is not None:
            channel.windows = channel.windows.under(device.limits)
            partition.new_limits[channel] = channel.windows.complete_until_us
            partition.schedule(channel)
