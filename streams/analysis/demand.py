"""Maximum demand: the greatest mean power of a quarter hour, and how even the load is."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from streams.analysis.buckets import Span, first_quarters, month_spans
from streams.tariffs.ledger import Energies, Ledger
from streams.tariffs.month import QUARTER
from streams.tariffs.usage import QUARTERS_AN_HOUR, kwh_of

_FACTOR_PLACES = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one span: `max_kw` is exact, of the first quarter hour that reached it (`max_at`).

    `load_factor` is the mean power over the greatest, 0 to 1; None where nothing was used.
    """

    span: Span
    energy_kwh: Decimal
    max_kw: Decimal
    max_at: datetime
    load_factor: Decimal | None


def demand(ledger: Ledger) -> Demand:
    """Of the whole ledger, which is not empty."""
    return _demand(Span(ledger.start, ledger.end, "all"), ledger.energy_uwh)


def monthly_demand(ledger: Ledger, zone: ZoneInfo) -> list[Demand]:
    """Of each civil month, as far as the ledger holds it."""
    spans = month_spans(ledger.start, ledger.end, zone)
    starts = [*first_quarters(spans), len(ledger.energy_uwh)]
    return [
        _demand(span, ledger.energy_uwh[low:high])
        for span, low, high in zip(spans, starts, starts[1:], strict=False)
    ]


def _demand(span: Span, energy_uwh: Energies) -> Demand:
    index = int(energy_uwh.argmax())
    energy_kwh = kwh_of(int(energy_uwh.sum()))
    max_kw = kwh_of(int(energy_uwh[index]) * QUARTERS_AN_HOUR)
    hours = Decimal((span.end - span.start) // QUARTER) / QUARTERS_AN_HOUR
    load_factor = (energy_kwh / hours / max_kw).quantize(_FACTOR_PLACES) if max_kw else None
    return Demand(span, energy_kwh, max_kw, span.start + index * QUARTER, load_factor)
