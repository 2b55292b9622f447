"""Bills of MEA and PEA to the satang. The figures are read from ../shared, which is not ours."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month, cycle_of
from streams.tariffs.rating import Kind, RatedBill, rate
from streams.tariffs.surcharges import surcharge_price
from streams.tariffs.usage import Usage, uwh_of

BILLS = Path(__file__).parents[4] / "shared" / "data" / "tariffs" / "thai_bills.json"
KNOWN = json.loads(BILLS.read_text("utf-8")) if BILLS.exists() else {}
needs_bills = pytest.mark.skipif(not KNOWN, reason=f"the published bills are missing: {BILLS}")

SECTIONS = {
    "small_business_2_1_2": "2.1.2",
    "residential_1_2_from_2026_09": "1.2",
    "residential_1_2_2023_05_to_2026_08": "1.2",
    "residential_1_1_2023_05_to_2026_08": "1.1",
    "residential_1_1_from_2026_09": "1.1",
    "residential_1_3_tou": "1.3.2",
    "medium_3_2_3_tou_demand": "3.2.3",
}
MONTH_OF_FT = {"0.0972": "2026-02", "0.1572": "2025-10"}
"""For bills whose month is not published, only their Ft."""


def cases():
    for section, number in SECTIONS.items():
        for bill in KNOWN.get(section, {}).get("bills", ()):
            for utility in ("mea", "pea"):
                month = bill.get("month") or MONTH_OF_FT[bill["ft"]]
                used = bill.get("kwh", f"{bill.get('on_kwh')}+{bill.get('off_kwh')}")
                name = f"{utility}-{number} {month} {used}"
                yield pytest.param(f"{utility}-{number}", month, bill, id=name)


def bill_of(tariff_id: str, month: str, usage: Usage) -> RatedBill:
    rates = known_tariffs().rates(tariff_id, Month.parse(month))
    return rate(rates, cycle_of(rates.month, rates.tariff.zone), usage)


def usage(bill: dict) -> Usage:
    if "kwh" in bill:
        energy = {"all": uwh_of(Decimal(bill["kwh"]))}
    else:
        energy = {
            "on_peak": uwh_of(Decimal(bill["on_kwh"])),
            "off_peak": uwh_of(Decimal(bill["off_kwh"])),
        }
    demand = {(0, "on_peak"): Decimal(bill.get("on_peak_kw", 0))}
    return Usage(sum(energy.values()), energy, demand_kw=demand)


@needs_bills
@pytest.mark.parametrize(("tariff_id", "month", "bill"), list(cases()))
def test_a_published_bill_comes_out_to_the_satang(tariff_id, month, bill):
    rated = bill_of(tariff_id, month, usage(bill))
    assert str(rated.total) == bill["total"]
    parts = {
        "energy": rated.sum_of(Kind.ENERGY),
        "ft_amount": rated.sum_of(Kind.SURCHARGE),
        "subtotal": rated.subtotal,
        "vat": rated.sum_of(Kind.TAX),
    }
    for name, amount in parts.items():
        if name in bill:
            assert str(amount) == bill[name], name


@needs_bills
def test_every_section_of_bills_is_rated():
    told = {key for key, value in KNOWN.items() if isinstance(value, dict) and "bills" in value}
    assert told == SECTIONS.keys()


@needs_bills
@pytest.mark.parametrize("span", list(KNOWN.get("ft_thb_per_kwh", {})))
@pytest.mark.parametrize(("number", "customer"), [("1.2", "residential"), ("2.1.2", "other")])
def test_ft_is_that_of_the_published_table(span, number, customer):
    expected = KNOWN["ft_thb_per_kwh"][span]
    if isinstance(expected, dict):
        expected = expected[customer]
    first, last = map(Month.parse, span.split(".."))
    month = first
    while month <= last:
        assert ft(number, month) == Decimal(expected), month
        month = month.plus(1)


def ft(number: str, month: Month) -> Decimal:
    """Ft of any month, also of those before the first rates."""
    catalogue = known_tariffs()
    use = catalogue.rates(f"mea-{number}", Month(2026, 2)).rates.surcharges[0]
    return surcharge_price(catalogue.surcharge(use.name), use, month)


#  Edges of the blocks by hand: energy before Ft, service and VAT.
EDGES = [
    ("mea-1.1", "2026-02", "0", "0.00"),
    ("mea-1.1", "2026-02", "15", "35.23"),  # 15 x 2.3488 = 35.232
    ("mea-1.1", "2026-02", "16", "38.22"),  # + 2.9882 = 38.2202
    ("mea-1.1", "2026-02", "25", "65.11"),  # 35.232 + 10 x 2.9882 = 65.114
    ("mea-1.1", "2026-02", "26", "68.35"),  # + 3.2405 = 68.3545
    ("mea-1.1", "2026-02", "35", "97.52"),  # 65.114 + 32.405 = 97.519
    ("mea-1.1", "2026-02", "36", "101.14"),  # + 3.6237 = 101.1427
    ("mea-1.1", "2026-02", "100", "333.06"),  # 97.519 + 65 x 3.6237 = 333.0595
    ("mea-1.1", "2026-02", "101", "336.78"),  # + 3.7171 = 336.7766
    ("mea-1.1", "2026-02", "150", "518.91"),  # 333.0595 + 50 x 3.7171 = 518.9145
    ("mea-1.1", "2026-02", "151", "523.14"),  # + 4.2218 = 523.1363
    ("mea-1.1", "2026-02", "400", "1574.36"),  # 518.9145 + 250 x 4.2218 = 1574.3645
    ("mea-1.1", "2026-02", "401", "1578.79"),  # + 4.4217 = 1578.7862
    ("mea-1.2", "2026-08", "150", "487.26"),  # 150 x 3.2484
    ("mea-1.2", "2026-08", "151", "491.48"),  # + 4.2218 = 491.4818
    ("mea-1.2", "2026-08", "400", "1542.71"),  # 487.26 + 1055.45
    ("mea-1.2", "2026-08", "401", "1547.13"),  # + 4.4217 = 1547.1317
    ("mea-1.2", "2026-09", "200", "600.00"),
    ("mea-1.2", "2026-09", "201", "604.16"),  # + 4.1584
    ("mea-1.2", "2026-09", "400", "1431.68"),  # 600 + 831.68
    ("mea-1.2", "2026-09", "401", "1436.04"),  # + 4.3583 = 1436.0383
    ("pea-1.1", "2026-09", "25", "65.11"),
    ("pea-1.1", "2026-09", "26", "68.11"),  # 65.114 + 3
    ("pea-1.1", "2026-09", "200", "590.11"),  # 65.114 + 525
    ("pea-1.1", "2026-09", "201", "594.27"),  # + 4.1584 = 594.2724
]


@pytest.mark.parametrize(("tariff_id", "month", "kwh", "energy"), EDGES)
def test_each_edge_of_the_blocks(tariff_id, month, kwh, energy):
    total = uwh_of(Decimal(kwh))
    rated = bill_of(tariff_id, month, Usage(total, {"all": total}))
    assert str(rated.sum_of(Kind.ENERGY)) == energy


def test_the_smallest_energy_over_an_edge_is_in_the_next_block():
    total = uwh_of(Decimal("150.000000001"))
    rated = bill_of("mea-1.2", "2026-02", Usage(total, {"all": total}))
    first, second = rated.lines[0].parts
    assert (first.quantity, second.quantity) == (Decimal(150), Decimal("1E-9"))


def test_half_a_satang_is_rounded_up():
    #  energy 12.5 x 3.2484 = 40.605 -> 40.61; Ft 12.5 x 0.0972 = 1.215 -> 1.22 (to even: 40.60)
    total = uwh_of(Decimal("12.5"))
    rated = bill_of("mea-1.2", "2026-02", Usage(total, {"all": total}))
    assert [str(line.amount) for line in rated.lines[:2]] == ["40.61", "1.22"]


def test_on_and_off_peak_are_rounded_each_on_its_own():
    #  on 0.001 x 5.7982 = 0.0057982 -> 0.01, off 0.003 x 2.6369 = 0.0079107 -> 0.01;
    #  together 0.0137 -> 0.01
    energy = {"on_peak": uwh_of(Decimal("0.001")), "off_peak": uwh_of(Decimal("0.003"))}
    rated = bill_of("mea-1.3.2", "2026-02", Usage(sum(energy.values()), energy))
    assert str(rated.sum_of(Kind.ENERGY)) == "0.02"


def test_ft_may_be_revised_after_it_was_announced():
    catalogue = known_tariffs()
    month = Month(2023, 10)
    assert catalogue.rates("mea-1.2", month).surcharges == {"ft": Decimal("0.2048")}
    announced = catalogue.rates("mea-1.2", month, surcharge_revision=1)
    assert announced.surcharges == {"ft": Decimal("0.6689")}


@pytest.mark.parametrize(
    ("number", "on_peak", "off_peak", "service"),
    [
        ("1.3.1", "511.35", "260.37", "312.24"),  # 12 to 24 kV, PEA 22 to 33 kV
        ("1.3.2", "579.82", "263.69", "24.62"),  # below
        ("2.2.2", "579.82", "263.69", "33.29"),
        ("3.2.3", "432.97", "263.69", "312.24"),
    ],
)
@pytest.mark.parametrize("utility", ["mea", "pea"])
def test_a_hundred_kwh_in_each_period_by_voltage(utility, number, on_peak, off_peak, service):
    energy = dict.fromkeys(("on_peak", "off_peak"), uwh_of(Decimal(100)))
    demand = {(0, "on_peak"): Decimal(0)}
    rated = bill_of(
        f"{utility}-{number}", "2026-02", Usage(sum(energy.values()), energy, demand_kw=demand)
    )
    assert [str(line.amount) for line in rated.lines[:2]] == [on_peak, off_peak]
    assert str(rated.sum_of(Kind.FIXED)) == service
