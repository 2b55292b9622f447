"""A Shelly Pro 3EM (triphase): its status, its stored minutes and its RPC. Pure.

Source: Shelly Gen2 API, EM, EMData and General/RPCProtocol.
"""

from collections.abc import Mapping

from infra.simulator.load import PHASE_SHARES, Load
from schemas.units import DAY_US, MINUTE_US, SECOND_US

LETTERS = {"a": "l1", "b": "l2", "c": "l3"}
KEPT_US = 60 * DAY_US
MOST_RECORDS = 25
"""In one reply; `next_record_ts` says where to go on."""

_ENERGIES = (
    "total_act_energy", "fund_act_energy", "total_act_ret_energy", "fund_act_ret_energy",
    "lag_react_energy", "lead_react_energy",
)  # fmt: skip
_EXTREMES = (
    "max_act_power", "min_act_power", "max_aprt_power", "min_aprt_power",
    "max_voltage", "min_voltage", "avg_voltage", "max_current", "min_current", "avg_current",
)  # fmt: skip
KEYS = (
    *(f"{letter}_{key}" for letter in LETTERS for key in (*_ENERGIES, *_EXTREMES)),
    *("n_max_current", "n_min_current", "n_avg_current"),
)

_INVALID_ARGUMENT, _NOT_FOUND, _NO_HANDLER = -103, -105, 404


def em_status(load: Load, at_us: int) -> dict[str, object]:
    """`em:0` without its id: what its three clamps see."""
    total = load.electrical(at_us)
    fields: dict[str, object] = {}
    apparent = current = 0.0
    for letter, phase in LETTERS.items():
        now = load.electrical(at_us, PHASE_SHARES[phase])
        apparent, current = apparent + now.apparent_va, current + now.current_a
        fields |= {
            f"{letter}_current": round(now.current_a, 3),
            f"{letter}_voltage": round(now.voltage_v, 1),
            f"{letter}_act_power": round(now.power_w, 1),
            f"{letter}_aprt_power": round(now.apparent_va, 1),
            f"{letter}_pf": round(now.power_factor, 2),
            f"{letter}_freq": round(now.frequency_hz, 1),
        }
    return fields | {
        "n_current": None,
        "total_current": round(current, 3),
        "total_act_power": round(total.power_w, 3),
        "total_aprt_power": round(apparent, 3),
    }


def emdata_status(load: Load, at_us: int) -> dict[str, object]:
    """`emdata:0`: the registers, in hundredths of a Wh."""
    fields: dict[str, object] = {"id": 0}
    for letter, phase in LETTERS.items():
        register = load.register_uwh(at_us, PHASE_SHARES[phase])
        fields[f"{letter}_total_act_energy"] = register // 10_000 / 100
        fields[f"{letter}_total_act_ret_energy"] = 0.0
    fields["total_act"] = load.register_uwh(at_us) // 10_000 / 100
    fields["total_act_ret"] = 0.0
    return fields


def status(load: Load, device_id: str, at_us: int, *, on_mqtt: bool) -> dict[str, object]:
    """The result of `Shelly.GetStatus`. Its registers are those of the last whole minute."""
    return {
        "ble": {},
        "cloud": {"connected": False},
        "em:0": {"id": 0} | em_status(load, at_us) | {"user_calibrated_phase": []},
        "emdata:0": emdata_status(load, at_us - at_us % MINUTE_US),
        "mqtt": {"connected": on_mqtt},
        "sys": {
            "mac": device_id.rpartition("-")[2].upper(),
            "unixtime": at_us // SECOND_US,
            "uptime": 86_400,
        },
        "temperature:0": {"id": 0, "tC": 41.5, "tF": 106.7},
        "wifi": {"sta_ip": None, "status": "disconnected", "ssid": None, "rssi": 0},
    }


def record(load: Load, minute_us: int) -> list[float | None]:
    """The stored minute that begins at `minute_us`: energies are increments, in Wh."""
    values: list[float | None] = []
    for phase in LETTERS.values():
        share = PHASE_SHARES[phase]
        after, before = (load.register_uwh(at, share) for at in (minute_us + MINUTE_US, minute_us))
        energy = round((after - before) / 1_000_000, 4)
        now = load.electrical(minute_us, share)
        power, apparent = round(now.power_w, 1), round(now.apparent_va, 1)
        voltage, current = round(now.voltage_v, 1), round(now.current_a, 3)
        values += [energy, energy, 0.0, 0.0, 0.0, 0.0, power, power, apparent, apparent]
        values += [voltage] * 3 + [current] * 3
    return [*values, None, None, None]


def get_data(load: Load, params: Mapping[str, object], now_us: int) -> dict[str, object]:
    """The result of `EMData.GetData`. Raises RpcError."""
    begin, end = params.get("ts"), params.get("end_ts", now_us // SECOND_US)
    if not isinstance(begin, int) or not isinstance(end, int):
        raise RpcError(_INVALID_ARGUMENT, "Missing or bad argument 'ts'!")
    if params.get("id") != 0:
        raise RpcError(_NOT_FOUND, f"Argument 'id', value {params.get('id')} not found!")
    first_us = max(-(-begin * SECOND_US // MINUTE_US) * MINUTE_US, now_us - KEPT_US)
    last_us = min(end * SECOND_US, now_us - MINUTE_US)
    minutes = range(first_us, last_us + 1, MINUTE_US)
    page = minutes[:MOST_RECORDS]
    result: dict[str, object] = {"keys": list(KEYS)} if params.get("add_keys", True) else {}
    block = {"ts": first_us // SECOND_US, "period": 60, "values": [record(load, m) for m in page]}
    result["data"] = [block] if page else []
    if len(page) < len(minutes):
        result["next_record_ts"] = minutes[MOST_RECORDS] // SECOND_US
    return result


class RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def call(
    load: Load,
    device_id: str,
    method: str,
    params: Mapping[str, object],
    now_us: int,
    *,
    on_mqtt: bool,
) -> dict[str, object]:
    """The result of one RPC. Raises RpcError."""
    match method.lower():  # the device does not mind the case
        case "shelly.getstatus":
            return status(load, device_id, now_us, on_mqtt=on_mqtt)
        case "shelly.getdeviceinfo":
            return {
                "id": device_id,
                "mac": device_id.rpartition("-")[2].upper(),
                "model": "SPEM-003CEBEU",
                "gen": 2,
                "ver": "1.4.4",
                "profile": "triphase",
            }
        case "emdata.getstatus":
            return emdata_status(load, now_us - now_us % MINUTE_US)
        case "emdata.getdata":
            return get_data(load, params, now_us)
    raise RpcError(_NO_HANDLER, f"No handler for {method}")
