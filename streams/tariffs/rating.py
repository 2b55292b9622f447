"""From the energy of a cycle to its bill: pure, in Decimal, rounded where the bill rounds.

Lines are rounded half up to the currency's smallest unit, each on its own: one energy line for each
period (its blocks are summed first), each surcharge, charge and tax. The subtotal is the sum of
rounded lines, taxes are taken on it, and the total is the sum of what is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from enum import StrEnum

from streams.tariffs.blocks import Share, shares
from streams.tariffs.catalogue import MonthRates, PricedDemand
from streams.tariffs.errors import BadUsage
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import Cycle
from streams.tariffs.spot import SpotPrices
from streams.tariffs.usage import Usage, usage_of

_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)


class Kind(StrEnum):
    """What a line is for, in the order of the bill."""

    ENERGY = "energy"
    SURCHARGE = "surcharge"
    DEMAND = "demand"
    FIXED = "fixed"
    MINIMUM = "minimum"
    CREDIT = "credit"
    TAX = "tax"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `amount` is rounded and is what counts; `parts` are the blocks within, exact.

    `quantity` is in `unit` (kWh, kW, month, day); `price` is None where the parts have their own.
    """

    kind: Kind
    name: str
    amount: Decimal
    quantity: Decimal | None = None
    unit: str | None = None
    price: Decimal | None = None
    parts: tuple[Share, ...] = ()

    def document(self) -> dict[str, object]:
        """As JSON shows it: numbers are decimal strings, absent ones are left out."""
        shown: dict[str, object] = {"kind": self.kind.value, "name": self.name}
        if self.quantity is not None:
            shown |= {"quantity": shortest(self.quantity), "unit": self.unit}
        if self.price is not None:
            shown["price"] = plain(self.price)
        shown["amount"] = plain(self.amount)
        if len(self.parts) > 1:
            shown["parts"] = [_part(part) for part in self.parts]
        return shown


@dataclass(frozen=True, slots=True)
class RatedBill:
    """What a cycle costs. `total = subtotal + taxes + credit after tax`, to the smallest unit."""

    tariff_id: str
    cycle: Cycle
    currency: str
    lines: tuple[Line, ...]
    subtotal: Decimal
    total: Decimal

    def sum_of(self, kind: Kind, name: str | None = None) -> Decimal:
        """The sum of the lines of a kind (and name); 0.00 if there is none."""
        lines = (one for one in self.lines if one.kind is kind and name in (None, one.name))
        return sum((one.amount for one in lines), self.total * 0)

    def document(self) -> dict[str, object]:
        """The bill as JSON shows it; money is a decimal string."""
        return {
            "tariff": self.tariff_id,
            "month": str(self.cycle.month),
            "currency": self.currency,
            "energy": plain(self.sum_of(Kind.ENERGY)),
            "ft": plain(self.sum_of(Kind.SURCHARGE)),
            "service": plain(self.sum_of(Kind.FIXED)),
            "demand": plain(self.sum_of(Kind.DEMAND)),
            "minimum": plain(self.sum_of(Kind.MINIMUM)),
            "credit": plain(self.sum_of(Kind.CREDIT)),
            "subtotal": plain(self.subtotal),
            "vat": plain(self.sum_of(Kind.TAX)),
            "total": plain(self.total),
            "lines": [line.document() for line in self.lines],
        }


def rate_ledger(
    rates: MonthRates, cycle: Cycle, ledger: Ledger, spot: SpotPrices | None = None
) -> RatedBill:
    """The bill of a cycle from its ledger (`ledger` covers the cycle, `BadUsage` else).

    The same function gives the cost of a cycle that still runs: quarters to come hold 0.
    """
    if (ledger.start, ledger.end) != (cycle.start, cycle.end):
        raise BadUsage(
            f"the ledger is of {ledger.start.isoformat()} to {ledger.end.isoformat()}, the cycle "
            f"{cycle.month} of {cycle.start.isoformat()} to {cycle.end.isoformat()}; "
            "read the ledger of the cycle"
        )
    return rate(rates, cycle, usage_of(rates, ledger, spot))


def rate(rates: MonthRates, cycle: Cycle, usage: Usage) -> RatedBill:
    """The bill of a cycle from what was used in each period.

    Raises BadUsage if the usage lacks something that the tariff prices.
    """
    if cycle.month != rates.month:
        raise BadUsage(f"rates of {rates.month} for the cycle {cycle.month}; resolve that month's")
    with localcontext(_EXACT):
        return _Bill(rates, cycle, usage).made()


class _Bill:
    """The steps of one bill, top to bottom as it is printed."""

    def __init__(self, rates: MonthRates, cycle: Cycle, usage: Usage) -> None:
        self.rates = rates
        self.cycle = cycle
        self.usage = usage
        self.unit = Decimal(1).scaleb(-rates.tariff.decimals)

    def made(self) -> RatedBill:
        lines = [*self._energy(), *self._surcharges(), *self._demand(), *self._fixed()]
        credit = self._credit()
        terms = self.rates.rates.export_credit
        taxed = [] if terms is None or not terms.taxed else credit
        before = _sum(lines, self.unit)
        lines += self._minimum(before)
        lines += taxed
        subtotal = _sum(lines, self.unit)
        taxes = [
            Line(Kind.TAX, tax.name, self._round(tax.rate * subtotal), price=tax.rate)
            for tax in self.rates.rates.taxes
        ]
        after = [] if taxed else credit
        total = _sum([*taxes, *after], self.unit) + subtotal
        return RatedBill(
            self.rates.tariff.id,
            self.cycle,
            self.rates.tariff.currency,
            (*lines, *taxes, *after),
            subtotal,
            total,
        )

    def _energy(self) -> list[Line]:
        lines = []
        energy = self.rates.rates.energy
        if energy is not None:
            scale = self._scale()
            for period, blocks in energy.periods.items():
                quantity = self.usage.energy_kwh(period, self.rates.tariff.id)
                parts = tuple(shares(blocks, quantity, scale))
                lines.append(self._priced(Kind.ENERGY, period, quantity, "kWh", parts))
        if self.rates.rates.spot is not None:
            amount = self._round(self.usage.spot(self.rates.tariff.id))
            total = self.usage.total_kwh
            lines.append(Line(Kind.ENERGY, "spot", amount, total, "kWh"))
        return lines

    def _surcharges(self) -> list[Line]:
        kwh = self.usage.total_kwh
        return [
            Line(Kind.SURCHARGE, name, self._round(kwh * price), kwh, "kWh", price)
            for name, price in self.rates.surcharges.items()
        ]

    def _demand(self) -> list[Line]:
        lines = []
        for index, demand in enumerate(self.rates.demand):
            for period, blocks in demand.prices.periods.items():
                if all(block.price == 0 for block in blocks):
                    continue
                peak_kw = self.usage.peak_kw(index, period, self.rates.tariff.id)
                parts = tuple(shares(blocks, peak_kw))
                name = demand_name(demand, period)
                lines.append(self._priced(Kind.DEMAND, name, peak_kw, "kW", parts))
        return lines

    def _fixed(self) -> list[Line]:
        lines = []
        for fixed in self.rates.rates.fixed:
            count = Decimal(1 if fixed.per == "month" else self.cycle.days)
            amount = self._round(count * fixed.price)
            lines.append(Line(Kind.FIXED, fixed.name, amount, count, fixed.per, fixed.price))
        return lines

    def _minimum(self, reached: Decimal) -> list[Line]:
        minimum = self.rates.rates.minimum
        if minimum is None or reached >= minimum:
            return []
        return [Line(Kind.MINIMUM, "minimum", self._round(minimum - reached))]

    def _credit(self) -> list[Line]:
        credit = self.rates.rates.export_credit
        if credit is None:
            return []
        kwh = self.usage.export_kwh
        amount = -self._round(kwh * credit.price)
        return [Line(Kind.CREDIT, "export", amount, kwh, "kWh", credit.price)]

    def _priced(
        self, kind: Kind, name: str, quantity: Decimal, unit: str, parts: tuple[Share, ...]
    ) -> Line:
        amount = self._round(sum((part.amount for part in parts), Decimal(0)))
        price = parts[0].price if len(parts) == 1 else None
        return Line(kind, name, amount, quantity, unit, price, parts)

    def _scale(self) -> Decimal:
        """By how much the blocks are longer than the utility's month of `prorate_days`."""
        days = self.rates.rates.prorate_days
        return Decimal(1) if days is None else Decimal(self.cycle.days) / days

    def _round(self, amount: Decimal) -> Decimal:
        return amount.quantize(self.unit) + 0  # + 0: no "-0.00"


def plain(number: Decimal) -> str:
    """Without an exponent, digits as they stand."""
    return f"{number:f}"


def shortest(number: Decimal) -> str:
    """Without an exponent or trailing zeros: equal quantities read the same."""
    text = plain(number)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _part(part: Share) -> dict[str, object]:
    return {
        "above": shortest(part.above),
        "up_to": None if part.up_to is None else shortest(part.up_to),
        "quantity": shortest(part.quantity),
        "price": plain(part.price),
        "amount": shortest(part.amount),
    }


def demand_name(demand: PricedDemand, period: str) -> str:
    """What the line of a demand charge is called."""
    return demand.prices.name if demand.clock is None else f"{demand.prices.name} {period}"


def _sum(lines: Sequence[Line], unit: Decimal) -> Decimal:
    return sum((line.amount for line in lines), unit * 0)
