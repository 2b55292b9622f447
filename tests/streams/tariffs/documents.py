"""Small tariff documents for tests: one tariff `t`, changed where a test says."""

from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from streams.tariffs.catalogue import MonthRates
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import catalogue_of
from streams.tariffs.month import Cycle, Month, cycle_of

FEBRUARY = Month(2026, 2)

DOCUMENT: dict[str, Any] = {
    "calendars": {
        "c": {"zone": "Asia/Bangkok", "years": [2026, 2026], "kinds": ["public"], "days": {}}
    },
    "schedules": {
        "s": {
            "calendar": "c",
            "holidays": {"public": "sun"},
            "windows": [
                {"period": "day", "from": "06:00", "to": "22:00"},
                {"period": "night", "from": "00:00", "to": "06:00"},
                {"period": "night", "from": "22:00"},
            ],
        }
    },
    "surcharges": {
        "ft": {"customers": {"home": [{"from": "2026-01", "until": "2026-05", "price": "0.1"}]}}
    },
    "tariffs": {
        "t": {
            "title": "Test",
            "currency": "THB",
            "zone": "Asia/Bangkok",
            "rates": [
                {
                    "from": "2026-01",
                    "energy": {
                        "schedule": "s",
                        "periods": {
                            "day": [{"up_to": 100, "price": 2}, {"price": 3}],
                            "night": [{"price": 1}],
                        },
                    },
                    "surcharges": [{"name": "ft", "customer": "home"}],
                }
            ],
        }
    },
}


def document() -> dict[str, Any]:
    """A copy to change."""
    return deepcopy(DOCUMENT)


def one_period(**rates: Any) -> dict[str, Any]:
    """A document of one tariff `t` with a price of 1 the whole day and these rates besides."""
    priced = {"from": "2026-01", "energy": {"periods": {"all": [{"price": 1}]}}, **rates}
    tariff = {"title": "T", "currency": "THB", "zone": "Asia/Bangkok", "rates": [priced]}
    return {"tariffs": {"t": tariff}}


def february(tariff: dict[str, Any], cycle_day: int = 1) -> tuple[MonthRates, Cycle]:
    rates = catalogue_of([tariff]).rates("t", FEBRUARY)
    return rates, cycle_of(FEBRUARY, rates.tariff.zone, cycle_day)


def ledger(start: datetime, energy_uwh: list[int], export_uwh: list[int] | None = None) -> Ledger:
    export = export_uwh or [0] * len(energy_uwh)
    end = start + len(energy_uwh) * timedelta(minutes=15)
    return Ledger(start, end, np.array(energy_uwh, np.int64), np.array(export, np.int64))
