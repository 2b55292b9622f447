"""Sound messages of every device family: what the fuzzer's mutations begin with. Pure."""

import json
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from infra.simulator.families import Device
from infra.simulator.fleet import fleet, messages
from infra.simulator.shapes import own_shapes
from schemas.units import SECOND_US

DEVICES = 18  # each kind of the simulator's three homes, twice over
BACK_US = 120 * SECOND_US  # how far before now the simulated devices begin


class Sound(NamedTuple):
    topic: str
    payload: bytes


def simulated(seed: int) -> list[Device]:
    return fleet(seed, DEVICES, own_shapes())


def sound_messages(devices: list[Device], seed: int, now_us: int, count: int) -> list[Sound]:
    """At least `count` messages of now: the simulator's, and those of trees it does not speak."""
    said = islice(messages(devices, now_us - BACK_US), count)
    return [Sound(m.topic, m.payload) for m in said] + list(by_hand(seed, now_us))


def by_hand(seed: int, now_us: int) -> Iterator[Sound]:
    """One message of each shape that the simulator does not make."""
    home, now_s = f"fuzz-{seed}", now_us / SECOND_US
    chance = Random(f"{seed} {now_us}")
    power, register = round(chance.uniform(-900, 4000), 1), chance.randrange(10**9)
    node, gen1 = f"homesync/{home}/nodes/bare", f"shellies/{home}"
    short = {"w": power, "v": 229.5, "a": 5.67, "pf": 0.95, "ts": now_s}
    named = short | {"home_id": home, "device_id": "named"}
    said: list[tuple[str, object]] = [
        (f"{node}/telemetry/power", {"power": power, "voltage": 229.8, "ts": now_s}),
        (f"{node}/telemetry/energy", power if power > 0 else 1),
        (f"{node}/status", {"firmware": "2.0.1", "rssi": -70, "online": True}),
        (f"{node}/response/command", {"id": "0193", "success": True, "detail": {"ms": 12}}),
        (f"{gen1}/relay/0", "on"),
        (f"{gen1}/relay/0/power", str(abs(power))),
        (f"{gen1}/relay/0/energy", str(register)),
        (f"{gen1}/emeter/0/total", str(register / 10)),
        (f"{gen1}/emeter/1/pf", "-0.53"),
        (f"{gen1}/input_event/0", {"event": "L", "event_cnt": 3}),
        (f"{gen1}/temperature", "24.14"),
        (f"{gen1}/announce", {"id": home, "model": "SHEM-3", "ip": "10.0.0.9", "fw_ver": "1.14"}),
        (f"{gen1}/info", {"meters": [{"power": abs(power), "total": register}], "unixtime": now_s}),
        (f"{gen1}/online", "true"),
        (f"devices/{home}/data", {"voltage": 230, "ts": now_s, "channels": [
            {"channel": 1, "current": 0.5, "power": 100}, {"channel": 2, "power": power}]}),
        (f"home/{home}/sensor/power/total", short),
        (f"home/{home}/sensor/power/circuit/kitchen", power),
        (f"home/{home}/sensor/temperature/bedroom", 31.5),
        (f"home/{home}/device/d1/alerts", {"type": "overload", "limit": {"w": 3000}, "ts": now_s}),
        (f"home/{home}/system/alerts", "meter door open"),
        ("device/status/all", {"home_id": home, "device_id": "named", "online": True}),
        ("sensor/data/x", named),
        ("alerts", {"home_id": home, "device_id": "named", "type": "leak", "ts": now_s}),
        (f"tele/{home}/SENSOR", {"Time": "2026-02-06T14:30:00", "TempUnit": "C", "ENERGY": {
            "Total": [register / 1000, 1.5], "Power": [abs(power), 0], "Voltage": 229}}),
        (f"tele/{home}/STATE", {"POWER1": "ON", "UptimeSec": 49, "Wifi": {"Signal": -57}}),
        (f"tele/{home}/LWT", "Online"),
        (f"stat/{home}/RESULT", {"POWER2": "OFF"}),
        (f"zigbee2mqtt/{home}/plug", {"state": "ON", "power": abs(power), "linkquality": 120,
                                      "energy": register / 1000, "last_seen": now_us // 1000}),
        (f"zigbee2mqtt/{home}/plug/availability", {"state": "online"}),
        (f"{home}-em/events/rpc", {"method": "NotifyEvent", "params": {"ts": now_s, "events": [
            {"component": "input:0", "event": "btn_down", "id": 0, "ts": now_s}]}}),
        (f"{home}-em/status/em:0", {"id": 0, "total_act_power": power, "a_voltage": 229}),
        (f"{home}-em/online", "true"),
        (f"meterstream/{home}-em/rpc", {"id": 1, "src": f"{home}-em", "result": {
            "em:0": {"a_act_power": power}, "emdata:0": {"id": 0, "total_act": register}}}),
        (f"meterstream/{home}-em/rpc", {"id": "em1data:1@0", "src": f"{home}-em", "result": {
            "keys": ["total_act_energy"], "data": [
                {"ts": now_us // 60_000_000 * 60 - 120, "period": 60, "values": [[1.5], [2]]}]}}),
    ]  # fmt: skip
    for topic, value in said:
        yield Sound(topic, value.encode() if isinstance(value, str) else json.dumps(value).encode())
