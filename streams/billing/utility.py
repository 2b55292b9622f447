"""The bill that the utility sent, beside ours (EM-58)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from streams.tariffs.errors import TariffError
from streams.tariffs.rating import plain

MONEY = (
    "energy",
    "ft",
    "service",
    "demand",
    "minimum",
    "credit",
    "subtotal",
    "vat",
    "total",
)
"""Lines of money, as in a bill's document; the rest is kWh."""
ENERGY = ("energy_kwh", "on_peak_kwh", "off_peak_kwh")
_SUMMED = ("energy", "ft", "service", "demand", "minimum", "credit")


class BadUtilityBill(TariffError):
    """What was typed in of the utility's bill contradicts itself."""


def check_lines(lines: Mapping[str, Decimal]) -> None:
    """Raises BadUtilityBill for a bill without a total, an unknown line, or a wrong sum."""
    unknown = sorted(lines.keys() - {*MONEY, *ENERGY})
    if unknown:
        raise BadUtilityBill(
            f"{unknown[0]!r:.40} is no line of a bill; give {', '.join(MONEY + ENERGY)}"
        )
    if "total" not in lines:
        raise BadUtilityBill("the utility's bill has no total; give it")
    for name, value in lines.items():
        if not value.is_finite() or (name in ENERGY and value < 0):
            raise BadUtilityBill(f"{name} {value} is no amount; type it in anew")
    if {"energy", "subtotal"} <= lines.keys():
        parts = sum((lines[name] for name in _SUMMED if name in lines), Decimal(0))
        _check_sum("subtotal", lines["subtotal"], parts)
    if {"subtotal", "vat"} <= lines.keys():
        _check_sum("total", lines["total"], lines["subtotal"] + lines["vat"])


def _check_sum(name: str, said: Decimal, summed: Decimal) -> None:
    if said != summed:
        raise BadUtilityBill(
            f"the lines make a {name} of {summed}, but it is given as {said}; "
            "look for a wrong or missing line"
        )


def beside_ours(lines: Mapping[str, Decimal], ours: Mapping[str, Any]) -> dict[str, object]:
    """Each line of the utility with that of our document; `difference` is theirs - ours.

    Lines come in the order of a bill. Where kWh differ the meters do, else the rates.
    """
    rows = [
        {
            "line": name,
            "unit": "kWh" if name in ENERGY else ours["currency"],
            "utility": plain(lines[name]),
            "ours": plain(own),
            "difference": plain(lines[name] - own),
        }
        for name in (*ENERGY, *MONEY)
        if name in lines and (own := _own(name, ours)) is not None
    ]
    differing = [row["line"] for row in rows if Decimal(str(row["difference"]))]
    return {"lines": rows, "reason": _reason(lines, ours, differing)}


def _own(name: str, ours: Mapping[str, Any]) -> Decimal | None:
    if name in ENERGY[1:]:
        told = ours["by_period"].get(name.removesuffix("_kwh"))
        return None if told is None else Decimal(told)
    return Decimal(ours[name])


def _reason(lines: Mapping[str, Decimal], ours: Mapping[str, Any], differing: list[object]) -> str:
    if not differing:
        return "both bills say the same"
    kwh = lines.get("energy_kwh")
    if kwh is not None and abs(kwh - Decimal(ours["energy_kwh"])) >= 1:
        more = "more" if kwh > Decimal(ours["energy_kwh"]) else "less"
        return (
            f"the utility counted {abs(kwh - Decimal(ours['energy_kwh'])):f} kWh {more}; "
            "compare the readings of both meters"
        )
    if kwh is not None:
        return (
            "the meters agree to within 1 kWh; the lines that differ are "
            f"{', '.join(map(str, differing))}: compare tariff, reading day and Ft"
        )
    return "give energy_kwh as well to tell a difference of the meters from one of the rates"
