"""What an interval of a home's own ledger would have cost under several tariffs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np

from streams.tariffs.catalogue import Catalogue
from streams.tariffs.contract import Contract, cycle_by
from streams.tariffs.errors import BadUsage, NotKnown
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import QUARTER, Cycle, Month
from streams.tariffs.rating import Kind, Line, RatedBill, plain, rate_ledger, shortest
from streams.tariffs.spot import BadPrices, SpotPrices
from streams.tariffs.usage import kwh_of


@dataclass(frozen=True, slots=True)
class Offer:
    """One tariff over the interval; `bills` is empty and `unknown` says why if it has no rates."""

    tariff_id: str
    currency: str
    bills: Sequence[RatedBill] = ()
    unknown: str | None = None

    @property
    def total(self) -> Decimal:
        return sum((bill.total for bill in self.bills), Decimal(0))


def compare(
    catalogue: Catalogue,
    tariff_ids: Sequence[str],
    ledger: Ledger,
    contracts: Sequence[Contract] = (),
    spot: Mapping[str, SpotPrices] | None = None,
) -> list[Offer]:
    """The tariffs as they are named (no move of category), cheapest first; unknown ones last.

    Each billing month that the ledger touches is rated by itself with what lies in the ledger: the
    fixed charges of a month that is only touched count whole, for each tariff alike. Its days are
    those of the meter-reading day that `contracts` of the home had then. `spot` has the prices of
    each market that a tariff follows.
    Raises UnknownTariff, and BadUsage for tariffs in several currencies.
    """
    offers = [
        _offer(catalogue, tariff_id, ledger, contracts, spot or {})
        for tariff_id in dict.fromkeys(tariff_ids)
    ]
    currencies = sorted({offer.currency for offer in offers})
    if len(currencies) > 1:
        raise BadUsage(f"tariffs in {' and '.join(currencies)} cannot be compared; name one's own")
    return sorted(offers, key=lambda one: (one.unknown is not None, one.total, one.tariff_id))


def cycles_of(
    start: datetime, end: datetime, zone: ZoneInfo, contracts: Sequence[Contract]
) -> Iterator[Cycle]:
    """The cycles that `[start, end)` touches."""
    local = start.astimezone(zone)
    month = Month(local.year, local.month)
    while (cycle := cycle_by(contracts, month, zone)).start < end:
        if cycle.end > start:
            yield cycle
        month = month.plus(1)


def within(ledger: Ledger, cycle: Cycle) -> Ledger:
    """The ledger of a cycle: what lies outside the given one is 0."""
    low, high = max(cycle.start, ledger.start), min(cycle.end, ledger.end)
    taken = slice((low - ledger.start) // QUARTER, (high - ledger.start) // QUARTER)
    around = ((low - cycle.start) // QUARTER, (cycle.end - high) // QUARTER)
    return Ledger(
        cycle.start,
        cycle.end,
        np.pad(ledger.energy_uwh[taken], around),
        np.pad(ledger.export_uwh[taken], around),
    )


def told(offers: Sequence[Offer], ledger: Ledger) -> list[dict[str, object]]:
    """The offers as JSON shows them, with what decides: periods, blocks and a sentence."""
    kwh = kwh_of(int(ledger.energy_uwh.sum()))
    known = [offer for offer in offers if offer.unknown is None]
    return [_told(offer, kwh, known[0] if known else None) for offer in offers]


def _offer(
    catalogue: Catalogue,
    tariff_id: str,
    ledger: Ledger,
    contracts: Sequence[Contract],
    spot: Mapping[str, SpotPrices],
) -> Offer:
    tariff = catalogue.tariff(tariff_id)
    try:
        bills = [
            rate_ledger(rates, cycle, within(ledger, cycle), spot.get(rates.rates.spot or ""))
            for cycle in cycles_of(ledger.start, ledger.end, tariff.zone, contracts)
            for rates in [catalogue.rates(tariff_id, cycle.month)]
        ]
    except (NotKnown, BadUsage, BadPrices) as error:
        return Offer(tariff_id, tariff.currency, unknown=str(error))
    return Offer(tariff_id, tariff.currency, bills)


def _told(offer: Offer, kwh: Decimal, cheapest: Offer | None) -> dict[str, object]:
    document: dict[str, object] = {"tariff": offer.tariff_id, "currency": offer.currency}
    if offer.unknown is not None or cheapest is None:
        return document | {"total": None, "error": offer.unknown}
    more = offer.total - cheapest.total
    periods, blocks = _periods(offer), _blocks(offer)
    return document | {
        "total": plain(offer.total),
        "more_than_cheapest": plain(more),
        "price_per_kwh": plain((offer.total / kwh).quantize(Decimal("0.0001"))) if kwh else None,
        "energy_kwh": shortest(kwh),
        "periods": periods,
        "blocks": blocks,
        "reason": _reason(more, offer.currency, periods, blocks),
        "months": [
            {
                "month": str(bill.cycle.month),
                "energy": plain(bill.sum_of(Kind.ENERGY)),
                "ft": plain(bill.sum_of(Kind.SURCHARGE)),
                "service": plain(bill.sum_of(Kind.FIXED)),
                "total": plain(bill.total),
            }
            for bill in offer.bills
        ],
    }


def _energy_lines(offer: Offer) -> Iterator[Line]:
    for bill in offer.bills:
        yield from (line for line in bill.lines if line.kind is Kind.ENERGY)


def _periods(offer: Offer) -> list[dict[str, str]]:
    """Energy, its share and its cost (before surcharges and tax) by period of the tariff."""
    kwh: dict[str, Decimal] = {}
    amount: dict[str, Decimal] = {}
    for line in _energy_lines(offer):
        kwh[line.name] = kwh.get(line.name, Decimal(0)) + (line.quantity or 0)
        amount[line.name] = amount.get(line.name, Decimal(0)) + line.amount
    total = sum(kwh.values())
    return [
        {
            "period": name,
            "energy_kwh": shortest(kwh[name]),
            "share": _share(kwh[name], total),
            "amount": plain(amount[name]),
        }
        for name in kwh
    ]


def _blocks(offer: Offer) -> list[dict[str, object]]:
    """Energy and its share by block, where a tariff has several; edges are those of each month."""
    kwh: dict[tuple[str, Decimal, Decimal | None, Decimal], Decimal] = {}
    for line in _energy_lines(offer):
        for part in line.parts:
            key = (line.name, part.above, part.up_to, part.price)
            kwh[key] = kwh.get(key, Decimal(0)) + part.quantity
    total = sum(kwh.values())
    if all(above == 0 and up_to is None for _, above, up_to, _ in kwh):
        return []
    return [
        {
            "period": name,
            "above_kwh": shortest(above),
            "up_to_kwh": None if up_to is None else shortest(up_to),
            "price": plain(price),
            "energy_kwh": shortest(kwh[name, above, up_to, price]),
            "share": _share(kwh[name, above, up_to, price], total),
        }
        for name, above, up_to, price in kwh
    ]


def _share(part: Decimal, total: Decimal | int) -> str:
    return plain((part / total if total else Decimal(0)).quantize(Decimal("0.0001")))


def _reason(
    more: Decimal, currency: str, periods: list[dict[str, str]], blocks: list[dict[str, object]]
) -> str:
    parts = [f"{more:f} {currency} more" if more else "the cheapest"]
    if len(periods) > 1:
        parts.append(
            ", ".join(
                f"{_percent(one['share'])} of the energy in {one['period']}" for one in periods
            )
        )
    used = [one for one in blocks if one["energy_kwh"] != "0"]
    if used:
        top = max(used, key=lambda one: Decimal(str(one["above_kwh"])))
        parts.append(
            f"{_percent(str(top['share']))} above {top['above_kwh']} kWh a month at {top['price']}"
        )
    return "; ".join(parts)


def _percent(share: str) -> str:
    return f"{Decimal(share) * 100:.0f} %"
