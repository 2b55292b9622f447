"""What a later version of a bill changes, line by line, to the smallest unit of its currency."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from streams.tariffs.errors import BadUsage
from streams.tariffs.rating import plain, shortest


def adjustment(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, object]:
    """The lines that differ between two documents of a bill, and the difference of the totals.

    `difference` is now - before: what is owed in addition, below zero what is owed back. The
    lines' differences add up to that of the total. Raises BadUsage for two currencies.
    """
    if before["currency"] != now["currency"]:
        raise BadUsage(
            f"a bill in {before['currency']} cannot be adjusted to one in {now['currency']}; "
            "begin the contract in the new currency with a later cycle"
        )
    old, new = _amounts(before), _amounts(now)
    zero = Decimal(0)
    changed = [
        {
            "kind": key[0],
            "name": key[1],
            "before": plain(old.get(key, zero)),
            "now": plain(new.get(key, zero)),
            "difference": plain(new.get(key, zero) - old.get(key, zero)),
        }
        for key in {**old, **new}
        if old.get(key, zero) != new.get(key, zero)
    ]
    return {
        "currency": now["currency"],
        "before": before["total"],
        "now": now["total"],
        "difference": plain(Decimal(now["total"]) - Decimal(before["total"])),
        "energy_kwh": shortest(Decimal(now["energy_kwh"]) - Decimal(before["energy_kwh"])),
        "lines": changed,
    }


def _amounts(document: Mapping[str, Any]) -> dict[tuple[str, str], Decimal]:
    """The sum of the lines by kind and name."""
    amounts: dict[tuple[str, str], Decimal] = {}
    for line in document["lines"]:
        key = (line["kind"], line["name"])
        amounts[key] = amounts.get(key, Decimal(0)) + Decimal(line["amount"])
    return amounts
