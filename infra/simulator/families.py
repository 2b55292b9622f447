"""What nodes of each family say, byte for byte. Pure: a device, a start, and it goes on for ever.

Formats: `ingest/decoders/`, and the devices' own documents named there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

from infra.simulator.load import PHASE_SHARES, Load
from infra.simulator.pro3em import em_status, emdata_status
from schemas.homesync import telemetry_topic
from schemas.units import MINUTE_US, SECOND_US

ZONE = "Asia/Bangkok"
METER_US = 5 * SECOND_US
PZEM_US = 10 * SECOND_US
WATTAWAY_US = 30 * SECOND_US
PRO3EM_US = 3 * SECOND_US
PLUG_US = 10 * SECOND_US
THAI_US = 10 * SECOND_US
PZEM_ROLLS_WH = 10_000_000
_BANGKOK = timezone(timedelta(hours=7))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(NamedTuple):
    due_us: int
    device: int
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True)
class Device:
    """A simulated device, and under which names the registry knows it.

    `phase_us` sets its clockwork apart from others'. `ack_topic` is where it is told what is safe.
    """

    number: int
    kind: str
    address: str
    name: str
    home_id: str
    status_topic: str
    online: bytes
    offline: bytes
    load: Load
    seed: int
    phase_us: int
    ack_topic: str | None = None

    @property
    def id(self) -> str:
        """The device in its topics."""
        return self.address.partition(":")[2].rpartition("/")[2]

    def state(self, at_us: int, online: bool) -> Message:
        payload = self.online if online else self.offline
        return Message(at_us, self.number, self.status_topic, payload, retain=True)

    def boot(self, start_us: int) -> str:
        return hashlib.sha256(f"{self.seed} {self.number} {start_us}".encode()).hexdigest()[:16]

    def instants(self, start_us: int, interval_us: int) -> Iterator[int]:
        at_us = start_us + self.phase_us % interval_us
        while True:
            yield at_us
            at_us += interval_us

    def says(self, start_us: int) -> Iterator[Message]:
        yield self.state(start_us, True)
        yield from FAMILIES[self.kind](self, start_us)


# ---- our own nodes ----


def three_phase_meter(device: Device, start_us: int) -> Iterator[Message]:
    """A meter with our firmware: total and phases, with the registers of each."""
    shares = {"total": 1000} | PHASE_SHARES
    return _homesync(device, start_us, METER_US, lambda at: _phases(device.load, at, shares))


def pzem_node(device: Device, start_us: int) -> Iterator[Message]:
    """A PZEM-004T at an ESP: 0.1 V, 1 mA, 0.1 W, and whole Wh that roll over at 10,000 kWh."""

    def channels(at_us: int) -> dict[str, object]:
        now = device.load.electrical(at_us)
        return {
            "total": {
                "power_w": round(now.power_w, 1),
                "voltage_v": round(now.voltage_v, 1),
                "current_a": round(now.current_a, 3),
                "frequency_hz": round(now.frequency_hz, 1),
                "power_factor": round(now.power_factor, 2),
                "import_total_wh": device.load.register_uwh(at_us) // 1_000_000 % PZEM_ROLLS_WH,
            }
        }

    return _homesync(device, start_us, PZEM_US, channels)


def _phases(load: Load, at_us: int, shares: dict[str, int]) -> dict[str, object]:
    channels: dict[str, object] = {}
    for channel, share in shares.items():
        now = load.electrical(at_us, share)
        channels[channel] = {
            "power_w": round(now.power_w, 3),
            "voltage_v": round(now.voltage_v, 2),
            "current_a": round(now.current_a, 3),
            "frequency_hz": round(now.frequency_hz, 2),
            "power_factor": round(now.power_factor, 3),
            "import_total_wh": load.register_uwh(at_us, share) / 1_000_000,
        }
    return channels


def _homesync(
    device: Device, start_us: int, interval_us: int, channels: Callable[[int], dict[str, object]]
) -> Iterator[Message]:
    """`first` is `seq`: nothing older is outstanding. Who publishes it may know better."""
    home, node = device.address.partition(":")[2].split("/")
    topic, boot = telemetry_topic(home, node), device.boot(start_us)
    for seq, at_us in enumerate(device.instants(start_us, interval_us), start=1):
        said: dict[str, object] = {"v": 1, "boot": boot, "seq": seq, "first": seq}
        said |= {"ts": at_us / SECOND_US, "channels": channels(at_us)}
        if seq == 1:
            said |= {"rssi_dbm": -50 - device.number % 30, "firmware": "1.4.0"}
        yield Message(at_us, device.number, topic, _json(said))


# ---- others' ----


def wattaway_socket(device: Device, start_us: int) -> Iterator[Message]:
    for at_us in device.instants(start_us, WATTAWAY_US):
        now = device.load.electrical(at_us)
        said = {
            "voltage": round(now.voltage_v, 1),
            "current": round(now.current_a, 3),
            "power": round(now.power_w, 1),
            "energy": device.load.register_uwh(at_us) // 1_000_000 % PZEM_ROLLS_WH / 1000,
            "frequency": round(now.frequency_hz, 1),
            "power_factor": round(now.power_factor, 2),
            "timestamp": _at(at_us).astimezone(_BANGKOK).strftime("%Y-%m-%d %H:%M:%S"),
        }
        yield Message(at_us, device.number, f"devices/{device.id}/data", _json(said))


def thai_monitor(device: Device, start_us: int) -> Iterator[Message]:
    """The full payload of the Thai monitor, schema 1.0."""
    home = device.home_id
    for at_us in device.instants(start_us, THAI_US):
        local = _at(at_us).astimezone(_BANGKOK)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        register = device.load.register_uwh(at_us)
        phases = {name: device.load.electrical(at_us, of) for name, of in PHASE_SHARES.items()}
        power = device.load.power_mw(at_us) / 1000
        apparent = sum(phase.apparent_va for phase in phases.values())
        voltage = {name: round(phase.voltage_v, 1) for name, phase in phases.items()}
        data = {
            "power": {
                "active": round(power, 1),
                "reactive": round(max(apparent**2 - power**2, 0) ** 0.5, 1),
                "apparent": round(apparent, 1),
            },
            "voltage": voltage | {"avg": round(sum(voltage.values()) / 3, 1)},
            "current": {name: round(phase.current_a, 2) for name, phase in phases.items()},
            "power_factor": round(power / apparent, 2) if apparent else 1.0,
            "frequency": round(phases["l1"].frequency_hz, 2),
            "energy": {
                "total_kwh": register // 1_000_000 / 1000,
                "today_kwh": _kwh_since(device.load, midnight, register),
                "this_month_kwh": _kwh_since(device.load, midnight.replace(day=1), register),
            },
            "thd": {"voltage": 2.5, "current": 3.2},
        }
        said = {
            "schema_version": "1.0",
            "device_id": device.id,
            "home_id": home,
            "timestamp": _at(at_us).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
            "status": {
                "relay": "closed",
                "wifi_rssi": -55 - device.number % 20,
                "uptime_seconds": (at_us - start_us) // SECOND_US,
            },
        }
        topic = f"home/{home}/device/{device.id}/telemetry"
        yield Message(at_us, device.number, topic, _json(said))


def _kwh_since(load: Load, at: datetime, register_uwh: int) -> float:
    return (register_uwh - load.register_uwh(_us(at))) // 1_000_000 / 1000


# ---- Shelly ----


def pro3em(device: Device, start_us: int) -> Iterator[Message]:
    """Shelly Pro 3EM: what of `em:0` has changed every 3 s, `emdata:0` each minute."""

    def em(at_us: int) -> dict[str, object]:
        return em_status(device.load, at_us)

    def emdata(at_us: int) -> dict[str, object]:
        return emdata_status(device.load, at_us)

    return _shelly(device, start_us, PRO3EM_US, "em:0", em, "emdata:0", emdata)


def plug(device: Device, start_us: int) -> Iterator[Message]:
    """Shelly Plug S G3: what of `switch:0` has changed every 10 s, `aenergy` each minute."""

    def switch(at_us: int) -> dict[str, object]:
        now = device.load.electrical(at_us)
        return {
            "output": True,
            "apower": round(now.power_w, 1),
            "voltage": round(now.voltage_v, 1),
            "current": round(now.current_a, 3),
            "freq": round(now.frequency_hz, 1),
        }

    def aenergy(at_us: int) -> dict[str, object]:
        minute_us = at_us - at_us % MINUTE_US
        registers = [device.load.register_uwh(minute_us - i * MINUTE_US) for i in range(4)]
        by_minute = [(registers[i] - registers[i + 1]) / 1000 for i in range(3)]
        total = device.load.register_uwh(at_us) // 1000 / 1000
        minute_s = minute_us // SECOND_US
        return {
            "id": 0,
            "aenergy": {"by_minute": by_minute, "minute_ts": minute_s, "total": total},
            "ret_aenergy": {"by_minute": [0, 0, 0], "minute_ts": minute_s, "total": 0},
        }

    return _shelly(device, start_us, PLUG_US, "switch:0", switch, "switch:0", aenergy)


def _shelly(
    device: Device,
    start_us: int,
    interval_us: int,
    component: str,
    status: Callable[[int], dict[str, object]],
    minutely: str,
    energy: Callable[[int], dict[str, object]],
) -> Iterator[Message]:
    """The full status when it connects, then overlays: only what has changed is said."""
    topic = f"{device.id}/events/rpc"

    def frame(at_us: int, method: str, params: dict[str, object]) -> Message:
        said = {"src": device.id, "dst": f"{device.id}/events", "method": method}
        ts = at_us // SECOND_US if at_us % SECOND_US == 0 else at_us / SECOND_US
        return Message(at_us, device.number, topic, _json(said | {"params": {"ts": ts} | params}))

    def full(at_us: int) -> Message:
        components: dict[str, dict[str, object]] = {component: {"id": 0} | last}
        components[minutely] = components.get(minutely, {}) | energy(at_us)
        params: dict[str, object] = {**components}
        mac = device.id.rpartition("-")[2].upper()
        return frame(
            at_us,
            "NotifyFullStatus",
            params
            | {
                "mqtt": {"connected": True},
                "sys": {"mac": mac, "uptime": 12},
                "wifi": {"rssi": -48 - device.number % 30, "status": "got ip"},
            },
        )

    instants = device.instants(start_us, interval_us)
    at_us = next(instants)
    last = status(at_us)
    yield full(at_us)
    minute_us = at_us - at_us % MINUTE_US + MINUTE_US
    for at_us in instants:
        while minute_us <= at_us:
            yield frame(minute_us, "NotifyStatus", {minutely: energy(minute_us)})
            minute_us += MINUTE_US
        now = status(at_us)
        changed = {name: value for name, value in now.items() if value != last[name]}
        last = now
        if changed:
            yield frame(at_us, "NotifyStatus", {component: {"id": 0} | changed})


FAMILIES: dict[str, Callable[[Device, int], Iterator[Message]]] = {
    "meter": three_phase_meter,
    "pzem": pzem_node,
    "socket": wattaway_socket,
    "monitor": thai_monitor,
    "pro3em": pro3em,
    "plug": plug,
}


def _json(said: object) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _at(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
