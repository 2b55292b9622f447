"""What a Shelly energy meter stored: replies to `EMData.GetData` and `EM1Data.GetData`.

    {"id":"emdata:0","src":"shellypro3em-…","result":{"keys":["a_total_act_energy",…],
     "data":[{"ts":1763704800,"period":60,"values":[[1.2345,…],…]}],"next_record_ts":1763708400}}

The reply does not say which component it is of, so whoever asks names it in the request's `id`.
`ts` is the start of a block's first record; blocks are broken by power loss. Energies are
increments in Wh: the reading is stamped with the end of its record. `total` is the sum of the
phases, as the register `total_act` is. What is sent back to the grid has no column of ours.
Source: Shelly Gen2 API, ComponentsAndServices EMData and EM1Data.
"""

import re

from ingest.decoders.clock import instant_of
from ingest.decoders.json_bounds import require_number, require_object
from ingest.decoders.message import Message
from ingest.decoders.quantities import values_of
from schemas.decoded import Reason, Undecodable
from schemas.reading import Clock, Reading

_COMPONENT = re.compile(r"(emdata|em1data):(\d)(?:@\d{1,12})?", re.ASCII)
_PHASES = {"l1": "a_total_act_energy", "l2": "b_total_act_energy", "l3": "c_total_act_energy"}
_SINGLE = "total_act_energy"


def asks_for_records(request_id: object) -> bool:
    """Whether a request with this id asked for stored minutes."""
    return isinstance(request_id, str) and _COMPONENT.fullmatch(request_id) is not None


def readings_in(result: dict[str, object], request_id: str, message: Message) -> list[Reading]:
    """The stored minutes of all blocks. Raises Undecodable."""
    columns = _columns(result.get("keys"), request_id)
    readings: list[Reading] = []
    for block in _list(result.get("data"), "data"):
        said = require_object(block, "an entry of data")
        begin_s, period_s = _seconds(said.get("ts"), "ts"), _seconds(said.get("period"), "period")
        for number, record in enumerate(_list(said.get("values"), "values"), start=1):
            ends_us = _instant(begin_s + number * period_s, message)
            numbers = _list(record, "an entry of values")
            for channel, places in columns.items():
                energies = [_at(numbers, place) for place in places]
                known = [energy for energy in energies if energy is not None]
                if len(known) < len(places):
                    continue
                values = values_of(
                    {"interval_s": period_s, "interval_import_wh": round(sum(known), 6)}
                )
                readings.append(Reading(channel, ends_us, values))
    return readings


def _columns(keys: object, request_id: str) -> dict[str, list[int]]:
    """By channel: the places of the energies that make it up."""
    found = _COMPONENT.fullmatch(request_id)
    assert found is not None
    number, names = found[2], _list(keys, "keys")
    if found[1] == "em1data":
        wanted = {f"em1:{number}": [_SINGLE]}
    else:
        before = "" if number == "0" else f"em:{number}:"
        wanted = {f"{before}{phase}": [key] for phase, key in _PHASES.items()}
        wanted[f"{before}total"] = list(_PHASES.values())
    missing = {key for keys in wanted.values() for key in keys}.difference(
        key for key in names if isinstance(key, str)
    )
    if missing:
        raise Undecodable(
            Reason.MISSING_VALUE,
            f"keys lacks {', '.join(sorted(missing))}; ask for them (add_keys), and check the id",
        )
    return {channel: [names.index(key) for key in keys] for channel, keys in wanted.items()}


def _instant(ends_s: float, message: Message) -> int:
    ends_us, clock = instant_of(ends_s, message.received_us, message.oldest_us_back)
    if clock is not Clock.DEVICE:
        raise Undecodable(
            Reason.OUT_OF_RANGE,
            f"a record ends at {ends_s:.0f}, which is no instant of the past; check the clock",
        )
    return ends_us


def _seconds(value: object, what: str) -> float:
    """A number; the documentation calls `period` a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    number = require_number(value, what)
    if number is None or number <= 0:
        raise Undecodable(Reason.MISSING_VALUE, f"{what} is {value!r:.40}; send seconds")
    return number


def _at(numbers: list[object], place: int) -> float | None:
    if place >= len(numbers):
        raise Undecodable(
            Reason.MISSING_VALUE, "a record has fewer values than there are keys; ask again"
        )
    return require_number(numbers[place], "a value")


def _list(value: object, what: str) -> list[object]:
    if isinstance(value, list):
        return value
    raise Undecodable(Reason.WRONG_TYPE, f"{what} is no array; check the firmware")
