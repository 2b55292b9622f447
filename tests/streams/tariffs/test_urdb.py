"""Rates of the Utility Rate Database. Records are made up from figures that NREL publishes."""

import json
from decimal import Decimal

import pytest

from streams.tariffs.errors import BadTariff
from streams.tariffs.loading import catalogue_of, parse_json
from streams.tariffs.month import Month, cycle_of
from streams.tariffs.rating import Kind, rate
from streams.tariffs.urdb import document_of
from streams.tariffs.usage import Usage, usage_of
from tests.streams.tariffs.documents import ledger

KWH = 10**9
ZONE = "America/Denver"

#  Two energy periods of two tiers, demand by period and by month, 35.28 $/month (NREL, pysam).
SUMMER_DAY = [0] * 8 + [1] * 12 + [0] * 4
RECORD = {
    "label": "539f6a23ec4f024411ec8bf9",
    "name": "Commercial",
    "utility": "A utility",
    "fixedmonthlycharge": 35.28,
    "energyratestructure": [
        [{"max": 100, "rate": 0.05, "adj": 0.020769}, {"rate": 0.082949}],
        [{"max": 100, "rate": 0.056909, "unit": "kWh"}, {"rate": 0.069079}],
    ],
    "energyweekdayschedule": [[0] * 24] * 4 + [SUMMER_DAY] * 6 + [[0] * 24] * 2,
    "energyweekendschedule": [[0] * 24] * 12,
    "demandratestructure": [[{"max": 100, "rate": 19.539}, {"rate": 13.093}], [{"rate": 8.091}]],
    "demandweekdayschedule": [[0] * 24] * 4 + [SUMMER_DAY] * 6 + [[0] * 24] * 2,
    "demandweekendschedule": [[0] * 24] * 12,
    "flatdemandstructure": [[{"rate": 6.46}], [{"rate": 13.87}]],
    "flatdemandmonths": [0] * 4 + [1] * 6 + [0] * 2,
    "demandwindow": 15,
}


def imported(record):
    parsed = parse_json("record.json", json.dumps(record))
    return catalogue_of([document_of(parsed, tariff_id="u", zone=ZONE)])


def lines(bill, kind):
    return {line.name: str(line.amount) for line in bill.lines if line.kind is kind}


def summer(catalogue, month=Month(2026, 7)):
    rates = catalogue.rates("u", month)
    return rates, cycle_of(month, rates.tariff.zone)


def test_tiers_of_each_period_and_the_monthly_charge():
    rates, cycle = summer(imported(RECORD))
    demand = {(0, "0"): Decimal(120), (0, "1"): Decimal(10), (1, "1"): Decimal(120)}
    usage = Usage(450 * KWH, {"0": 150 * KWH, "1": 300 * KWH}, demand_kw=demand | {(1, "0"): 0})
    bill = rate(rates, cycle, usage)
    #  100 x 0.070769 + 50 x 0.082949 = 11.22435; 100 x 0.056909 + 200 x 0.069079 = 19.5067
    assert lines(bill, Kind.ENERGY) == {"0": "11.22", "1": "19.51"}
    #  100 x 19.539 + 20 x 13.093 = 2215.76; 10 x 8.091 = 80.91; July 120 x 13.87 = 1664.40
    assert {"demand 0": "2215.76", "demand 1": "80.91"}.items() <= lines(bill, Kind.DEMAND).items()
    assert lines(bill, Kind.DEMAND)["flat demand 1"] == "1664.40"
    assert lines(bill, Kind.FIXED) == {"service": "35.28"}


def test_hours_of_a_summer_weekday_are_of_the_other_period():
    rates, cycle = summer(imported(RECORD))  # 1 July 2026 is a Wednesday
    usage = usage_of(rates, ledger(cycle.start, [KWH] * 96))
    assert usage.energy_uwh == {"0": 48 * KWH, "1": 48 * KWH}
    assert usage.demand_kw == {(0, "0"): 4, (0, "1"): 4, (1, "0"): 0, (1, "1"): 4}
    weekend = usage_of(rates, ledger(cycle.start.replace(day=4), [KWH] * 96))
    assert weekend.energy_uwh == {"0": 96 * KWH, "1": 0}
    winter, cycle = summer(imported(RECORD), Month(2026, 1))
    assert usage_of(winter, ledger(cycle.start, [KWH] * 96)).demand_kw[1, "0"] == 4


def test_tiers_within_time_of_use():
    #  $9 a month; 0.06 to 150 kWh, then 0.08; peak 0.09 to 150, 0.11 to 300, then 0.13 (HPXML)
    peak = [0] * 11 + [1] * 9 + [0] * 4
    record = {
        "fixedmonthlycharge": 9,
        "energyratestructure": [
            [{"max": 150, "rate": 0.06}, {"rate": 0.08}],
            [{"max": 150, "rate": 0.09}, {"max": 300, "rate": 0.11}, {"rate": 0.13}],
        ],
        "energyweekdayschedule": [[0] * 24] * 5 + [peak] * 3 + [[0] * 24] * 4,
        "energyweekendschedule": [[0] * 24] * 12,
    }
    rates, cycle = summer(imported(record))
    bill = rate(rates, cycle, Usage(600 * KWH, {"0": 200 * KWH, "1": 400 * KWH}))
    assert lines(bill, Kind.ENERGY) == {"0": "13.00", "1": "43.00"}
    assert str(bill.total) == "65.00"


def test_start_and_end_are_billing_months():
    catalogue = imported(RECORD | {"startdate": 1767225600, "enddate": 1782864000})
    rates = catalogue.rates("u", Month(2026, 1)).rates
    assert (rates.from_, rates.until) == (Month(2026, 1), Month(2026, 7))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"energyratestructure": []}, "energyratestructure: has no period or an empty one"),
        ({"energyratestructure": [[{"rate": 1}]]}, "has no period 1, but the schedule does"),
        (
            {"energyratestructure": [[{"rate": 1}, {"rate": 2}], [{"rate": 1}]]},
            r"energyratestructure\[0\]\[0\]: has no max, but a tier follows; add it",
        ),
        (
            {"energyratestructure": [[{"max": 1}], [{"rate": 1}]]},
            r"energyratestructure\[0\]\[0\]: has no rate; add it",
        ),
        (
            {"energyratestructure": [[{"rate": 1, "unit": "kWh/kW"}], [{"rate": 1}]]},
            r"counts in 'kWh/kW'; only kWh a month can",
        ),
        ({"energyweekdayschedule": [[0] * 24] * 11}, "is not 12 months of 24 hours"),
        ({"energyweekendschedule": [[0] * 23] * 12}, "has a row that is not 24 period numbers"),
        ({"energyweekendschedule": [["a"] * 24] * 12}, "holds what is no period number"),
        ({"demandratchetpercentage": [0.5] * 12}, "a demand ratchet cannot be billed"),
        ({"fuelAdjustmentsMonthly": [0.5] * 12}, "a fuel adjustment by month cannot be billed"),
        ({"demandrateunit": "kVA"}, "is 'kVA'; only kW can be"),
        ({"minmonthlycharge": 5, "minchargeunits": "$/kW"}, "only .*month can be"),
    ],
)
def test_what_would_be_billed_wrongly_is_refused(changed, told):
    with pytest.raises(BadTariff, match=f'^tariff "u": URDB .*{told}'):
        imported(RECORD | changed)
