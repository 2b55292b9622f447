"""Bills as documents: one hash for one ledger, adjustments to the satang."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.usage import Quality
from streams.billing.adjustment import adjustment
from streams.billing.canonical import canonical, sha256_of
from streams.billing.document import Measured, Payer, bill_document
from streams.billing.finality import is_final
from streams.tariffs.contract import Contract, rate_contract
from streams.tariffs.ledger import Ledger, LedgerRow
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import QUARTER, Month, cycle_of

BANGKOK = ZoneInfo("Asia/Bangkok")
FEBRUARY = Month(2026, 2)
CYCLE = cycle_of(FEBRUARY, BANGKOK)
TARIFFS = ("mea-1.1", "mea-1.2", "mea-1.3.2", "mea-2.2.2", "pea-1.2")


def document(rows, tariff="mea-1.2", quality=None):
    contract = Contract(tariff, date(2026, 1, 1), 1, Decimal(15))
    ledger = Ledger.of_rows(CYCLE.start, CYCLE.end, rows)
    bill = rate_contract(known_tariffs(), contract, FEBRUARY, ledger)
    if quality is None:
        quality = np.zeros(CYCLE.quarters, np.int8)
    return bill_document(
        known_tariffs(),
        Payer("h1", ["homesync:h1/meter total"], contract),
        known_tariffs().rates(bill.tariff_id, FEBRUARY),
        bill,
        Measured(ledger, quality),
    )


def hash_of(rows, tariff="mea-1.2"):
    return sha256_of(canonical(document(rows, tariff)))


quarter = st.integers(0, CYCLE.quarters - 1)
ledger_rows = st.lists(
    st.builds(
        lambda at, uwh: LedgerRow(CYCLE.start + at * QUARTER, uwh),
        quarter,
        st.integers(0, 5_000_000_000),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40)
@given(ledger_rows, st.sampled_from(TARIFFS), st.randoms(use_true_random=False))
def test_rows_in_any_order_give_the_same_hash(rows, tariff, chance):
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert hash_of(shuffled, tariff) == hash_of(rows, tariff)


@settings(deadline=None, max_examples=40)
@given(ledger_rows)
def test_one_more_microwatt_hour_gives_another_hash(rows):
    assert hash_of([*rows, LedgerRow(CYCLE.start, 1)]) != hash_of(rows)


@settings(deadline=None, max_examples=40)
@given(ledger_rows, ledger_rows, st.sampled_from(TARIFFS))
def test_the_lines_of_an_adjustment_add_up_to_the_difference_of_the_totals(rows, late, tariff):
    before, now = document(rows, tariff), document([*rows, *late], tariff)
    made = adjustment(before, now)
    lines = sum((Decimal(line["difference"]) for line in made["lines"]), Decimal(0))
    assert lines == Decimal(made["difference"])
    assert Decimal(before["total"]) + Decimal(made["difference"]) == Decimal(now["total"])


def test_a_canonical_document_reads_back_as_it_was():
    made = document([LedgerRow(CYCLE.start, 345_000_000_000)])
    assert json.loads(canonical(made)) == made


def test_the_canonical_text_is_this():
    #  keys in order, no spaces, text as it is; its hash by `sha256sum`
    text = canonical({"ข": "1.50", "a": [1, None, {"c": "", "b": "é"}]})
    assert text == '{"a":[1,null,{"b":"é","c":""}],"ข":"1.50"}'
    assert sha256_of("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_a_float_is_refused():
    with pytest.raises(TypeError, match="decimal string"):
        canonical({"a": [{"b": 1.5}]})


def test_days_are_those_of_bangkok_and_add_up():
    #  27 February 23:45 and 28 February 00:00 in Bangkok
    late = datetime(2026, 2, 27, 23, 45, tzinfo=BANGKOK)
    made = document([LedgerRow(late, 10**9), LedgerRow(late + QUARTER, 2 * 10**9)], "mea-1.3.2")
    days = {day["day"]: day["energy_kwh"] for day in made["days"]}
    assert len(days) == 28
    assert (days["2026-02-27"], days["2026-02-28"]) == ("1", "2")
    assert made["energy_kwh"] == "3"
    #  a Friday before midnight and a Saturday: all off-peak
    assert made["by_period"] == {"off_peak": "3", "on_peak": "0"}


def test_quality_says_what_was_measured_and_what_was_not():
    quality = np.full(CYCLE.quarters, Quality.INTEGRATED, np.int8)
    quality[0], quality[1:5] = Quality.INTERPOLATED, Quality.GAP
    rows = [LedgerRow(CYCLE.start + n * QUARTER, 10**9) for n in (0, 1, 9)]
    told = document(rows, quality=quality)
    assert told["by_quality"] == {
        "measured": {"energy_kwh": "1", "quarter_hours": CYCLE.quarters - 5},
        "interpolated": {"energy_kwh": "1", "quarter_hours": 1},
        "gap": {"energy_kwh": "1", "quarter_hours": 4},
    }
    assert told["days"][0]["by_quality"]["measured"]["quarter_hours"] == 91
    assert "gap" not in told["days"][1]["by_quality"]


def test_versions_name_rates_ft_and_holidays():
    versions = document([], "mea-1.3.2")["versions"]
    assert versions["tariff"] == {"id": "mea-1.3.2", "from": "2023-05"}
    (ft,) = versions["surcharges"]
    assert (ft["name"], ft["customer"]) == ("ft", "home")
    assert document([])["versions"]["holidays"] == {}
    assert set(versions["holidays"]) <= {day["day"] for day in document([])["days"]}


@pytest.mark.parametrize(
    ("after_end", "all_complete", "final"),
    [
        (-timedelta(seconds=1), True, False),
        (timedelta(0), True, True),
        (timedelta(days=3, seconds=-1), False, False),
        (timedelta(days=3), False, True),
    ],
)
def test_a_bill_is_issued_when_all_is_complete_or_three_days_after(after_end, all_complete, final):
    complete = np.full(CYCLE.quarters, True)
    complete[7] = all_complete
    assert is_final(CYCLE, complete, CYCLE.end + after_end) is final
