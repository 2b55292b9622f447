"""Carbon footprint: the energy of each month times that month's emission factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from streams.analysis.buckets import month_spans, sums
from streams.tariffs.errors import NotKnown
from streams.tariffs.ledger import Ledger
from streams.tariffs.month import Month
from streams.tariffs.usage import kwh_of


@dataclass(frozen=True, slots=True)
class Factor:
    """Grams of CO2 equivalent a kWh from the grid, and who says so."""

    g_per_kwh: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class MonthCarbon:
    month: Month
    energy_kwh: Decimal
    factor: Factor
    carbon_g: Decimal


def footprint(
    ledger: Ledger, zone: ZoneInfo, region: str, factors: Mapping[Month, Factor]
) -> list[MonthCarbon]:
    """Exact, of each civil month of `zone`, as far as the ledger holds it.

    Raises NotKnown, which names the month, where a factor is missing: it is never guessed.
    """
    spans = month_spans(ledger.start, ledger.end, zone)
    found = []
    for span, energy_uwh in zip(spans, sums(ledger.energy_uwh, spans), strict=True):
        month, energy_kwh = Month.parse(span.label), kwh_of(energy_uwh)
        factor = factors.get(month)
        if factor is None:
            raise NotKnown(
                f"the emission factor of {region} for {month} is not known; "
                f"enter it: `meterstream carbon set {region} {month} G_PER_KWH --source S`"
            )
        found.append(MonthCarbon(month, energy_kwh, factor, energy_kwh * factor.g_per_kwh))
    return found
