"""Measured quantities under the names and units of others, turned into ours once."""

from collections.abc import Iterable, Mapping

import msgspec

from ingest.decoders.json_bounds import require_number, undecodable
from schemas.decoded import Reason, Undecodable
from schemas.reading import Values

FLAT_NAMES: dict[str, str] = {
    "power": "power_w", "power_w": "power_w", "w": "power_w",
    "voltage": "voltage_v", "voltage_v": "voltage_v", "v": "voltage_v",
    "current": "current_a", "current_a": "current_a", "a": "current_a",
    "frequency": "frequency_hz", "frequency_hz": "frequency_hz", "freq": "frequency_hz",
    "power_factor": "power_factor", "pf": "power_factor",
    "apparent_power": "apparent_va", "apparent_va": "apparent_va",
    "reactive_power": "reactive_var", "reactive_var": "reactive_var",
    "energy": "import_total_kwh", "energy_kwh": "import_total_kwh",
    "import_total_wh": "import_total_wh", "energy_wh": "import_total_wh",
    "export_total_wh": "export_total_wh",
    "temperature": "temperature_c", "temperature_c": "temperature_c",
    "humidity": "humidity_percent", "humidity_percent": "humidity_percent",
}  # fmt: skip
"""Names in the flat payloads of PowerTrack, WattAway and the Thai monitor, and what they are.

A bare `energy` is kWh: so the PZEM-004T libraries that these nodes are built on return it.
"""


def values_of(fields: Mapping[str, object]) -> Values:
    """Check types and bounds. `…_kwh` names are registers in kWh."""
    ours = dict(fields)
    for name in fields:
        if name.endswith("_kwh"):
            energy_kwh = require_number(ours.pop(name), name)
            ours[name.removesuffix("_kwh") + "_wh"] = kwh_to_wh(energy_kwh)
    try:
        return msgspec.convert(ours, Values)
    except msgspec.ValidationError as error:
        raise undecodable(error, b"") from error


def kwh_to_wh(energy_kwh: float | None) -> float | None:
    return None if energy_kwh is None else round(energy_kwh * 1000, 6)


def watt_minutes_to_wh(energy_wmin: float | None) -> float | None:
    return None if energy_wmin is None else round(energy_wmin / 60, 6)


def flat_fields(said: Mapping[str, object], metric: str | None = None) -> dict[str, object]:
    """The quantities of a flat object, by our names; `value` is that of `metric`.

    Where an object says a quantity under two names, the first name of `FLAT_NAMES` counts.
    """
    fields: dict[str, object] = {}
    for theirs, ours in FLAT_NAMES.items():
        if said.get(theirs) is not None:
            fields.setdefault(ours, said[theirs])
    if metric is not None and said.get("value") is not None:
        fields.setdefault(metric, said["value"])
    return fields


def says_something(values: Values) -> bool:
    return values != NOTHING


def missing_value(what: str, expected: Iterable[str]) -> Undecodable:
    return Undecodable(
        Reason.MISSING_VALUE, f"{what} says none of {', '.join(expected)}; send one of them"
    )


NOTHING = Values()
