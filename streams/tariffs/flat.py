"""A tariff of one price: what a home without a known tariff begins with."""

from decimal import Decimal
from typing import Any


def flat_document(
    *,
    tariff_id: str,
    currency: str,
    price_per_kwh: Decimal,
    zone: str,
    service_per_month: Decimal = Decimal(0),
    tax_rate: Decimal = Decimal(0),
) -> dict[str, Any]:
    """A tariff document (see model.py) valid for ever."""
    rates = {
        "from": "1970-01",
        "energy": {"periods": {"all": [{"price": price_per_kwh}]}},
        "fixed": [{"price": service_per_month}] if service_per_month else [],
        "taxes": [{"name": "tax", "rate": tax_rate}] if tax_rate else [],
    }
    tariff = {
        "title": f"{price_per_kwh} {currency} per kWh",
        "currency": currency,
        "zone": zone,
        "rates": [rates],
    }
    return {"tariffs": {tariff_id: tariff}}
