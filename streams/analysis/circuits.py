"""Circuits of a home side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER
from streams.tariffs.usage import QUARTERS_AN_HOUR, kwh_of

_SHARE_PLACES = Decimal("0.0001")


class Circuit(NamedTuple):
    """One channel of a device and what it used; `called` is how people know it."""

    device_id: int
    called: str
    channel: str
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class ComparedCircuit:
    """`share` is of the home's grid meters; of what lies behind another channel it counts twice.

    None where the home used nothing.
    """

    device_id: int
    called: str
    channel: str
    energy_kwh: Decimal
    share: Decimal | None
    max_kw: Decimal
    max_at: datetime


def compare(circuits: Iterable[Circuit], home_uwh: int) -> list[ComparedCircuit]:
    """The one that used most first; `home_uwh` is what the home used in the same time."""
    found = [_compared(circuit, home_uwh) for circuit in circuits]
    return sorted(found, key=lambda one: (-one.energy_kwh, one.called, one.channel))


def _compared(circuit: Circuit, home_uwh: int) -> ComparedCircuit:
    energy_uwh = circuit.ledger.energy_uwh
    total_uwh, index = int(energy_uwh.sum()), int(energy_uwh.argmax())
    return ComparedCircuit(
        circuit.device_id,
        circuit.called,
        circuit.channel,
        kwh_of(total_uwh),
        (Decimal(total_uwh) / home_uwh).quantize(_SHARE_PLACES) if home_uwh else None,
        kwh_of(int(energy_uwh[index]) * QUARTERS_AN_HOUR),
        circuit.ledger.start + index * QUARTER,
    )
