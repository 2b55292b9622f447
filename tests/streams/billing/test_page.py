"""The page of a bill: nothing of the energy is left out, whatever tariff made it."""

from datetime import date
from decimal import Decimal

import numpy as np
import pypdfium2
import pytest

from schemas.usage import Quality
from streams.billing.document import Measured, Payer, bill_document
from streams.billing.front import Front
from streams.billing.page import bill_pdf
from streams.billing.words import Language
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import beside_known
from streams.tariffs.month import Month

MAY = Month(2026, 5)
PARTS = [f"part {number}" for number in range(10)]
HOURS = [(number * 2, number * 2 + 2) for number in range(9)] + [(18, 24)]
TEN = {
    "schedules": {
        "ten": {
            "windows": [
                {"period": name, "from": f"{low:02d}:00", "to": f"{high:02d}:00"}
                for name, (low, high) in zip(PARTS, HOURS, strict=True)
            ]
        }
    },
    "tariffs": {
        "ten": {
            "title": "Ten parts of the day",
            "currency": "USD",
            "zone": "Asia/Bangkok",
            "rates": [
                {
                    "from": "2026-01",
                    "energy": {
                        "schedule": "ten",
                        "periods": {name: [{"price": "0.1"}] for name in PARTS},
                    },
                    "taxes": [{"name": "tax", "rate": "0.0825"}],
                }
            ],
        }
    },
}
KNOWN = beside_known(TEN)


def page_of(tariff_id, language, quality=Quality.MEASURED):
    """0.1 kWh a quarter hour through May 2026."""
    ampere_a = Decimal(15) if KNOWN.category(tariff_id) else None
    contract = Contract(tariff_id, date(2026, 1, 1), 1, ampere_a)
    cycle = cycle_for(KNOWN, contract, MAY)
    energy = np.full(cycle.quarters, 10**8, np.int64)
    ledger = Ledger(cycle.start, cycle.end, energy, energy * 0)
    bill = rate_contract(KNOWN, contract, MAY, ledger)
    measured = Measured(ledger, np.full(cycle.quarters, quality, np.int8))
    payer = Payer("h1", ["homesync:h1/main total"], contract)
    rates = KNOWN.rates(bill.tariff_id, MAY)
    document = bill_document(KNOWN, payer, rates, bill, measured)
    front = Front("Home", KNOWN.tariff(tariff_id).title, "0" * 64)
    return pypdfium2.PdfDocument(bill_pdf(document, front, language))


def text_of(pdf):
    pages = [page.get_textpage().get_text_bounded() for page in pdf]
    return " ".join(" ".join(pages).split())


def test_each_period_has_its_line_its_place_in_the_legend_and_its_part_of_the_bar():
    pdf = page_of("ten", Language.ENGLISH)
    text = text_of(pdf)
    for name, (low, high) in zip(PARTS, HOURS, strict=True):
        assert f"Energy charge, {name}" in text
        kwh = (high - low) * 4 * 31 * 0.1
        assert f"{name}: {kwh:,.1f} kWh, {(high - low) / 24 * 100:.1f}".removesuffix(".0") in text
    drawn = pdf[0].render(scale=2).to_numpy()
    #  the bar goes from margin to margin: 18 mm of 210 on each side
    width = drawn.shape[1]
    left, right = round(width * 18 / 210) + 2, round(width * 192 / 210) - 2
    rows = [row for row in drawn[:, left:right] if (row.min(axis=-1) < 200).all()]
    assert any(len(np.unique(row, axis=0)) >= 8 for row in rows), "a part of the bar is white"


@pytest.mark.parametrize(
    ("language", "before", "tax"),
    [(Language.ENGLISH, "Before tax", "Tax 8.25%"), (Language.THAI, "รวมก", "8.25%")],
)
def test_a_tax_that_is_no_vat_has_its_own_name_and_all_its_digits(language, before, tax):
    text = text_of(page_of("ten", language))
    assert before in text
    assert tax in text
    assert "VAT" not in text


def test_a_demand_charge_is_named_once_with_its_period():
    text = text_of(page_of("mea-3.2.3", Language.ENGLISH))
    assert "Demand charge, On peak 0.4 kW" in text
    assert "Before VAT" in text
    assert "(VAT) 7%" in text


def test_time_that_nobody_measured_is_said():
    text = text_of(page_of("mea-1.2", Language.ENGLISH, Quality.GAP))
    assert "not measured, or only in part: 297.6 kWh, 100% (744.0 hours)" in text
    assert "Time that nobody measured costs nothing." in text
