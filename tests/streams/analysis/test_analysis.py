"""What a home's ledger tells, reckoned by hand."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.analysis.buckets import HomeBucket, midnight, spans_of, sums
from streams.analysis.carbon import Factor, footprint
from streams.analysis.circuits import Circuit, compare
from streams.analysis.demand import demand, monthly_demand
from streams.analysis.document import document
from streams.analysis.peak_use import by_period, peak_use
from streams.analysis.solar import solar
from streams.tariffs.contract import Contract
from streams.tariffs.errors import NotKnown
from streams.tariffs.ledger import Ledger, LedgerRow
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import QUARTER, Month, cycle_of

BANGKOK, BERLIN = ZoneInfo("Asia/Bangkok"), ZoneInfo("Europe/Berlin")
KWH = 10**9


def at(text: str, zone: ZoneInfo = BANGKOK) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def ledger(start: str, end: str, used: dict[str, float], given: dict[str, float] | None = None):
    """kWh of the quarter hours that begin at these Bangkok times."""
    rows = [LedgerRow(at(text), round(kwh * KWH)) for text, kwh in used.items()]
    rows += [LedgerRow(at(text), 0, round(kwh * KWH)) for text, kwh in (given or {}).items()]
    return Ledger.of_rows(at(start), at(end), rows)


# ---------------------------------------------------------------- buckets


@settings(deadline=None)
@given(
    bucket=st.sampled_from(["15m", "1d", "1mo", "1y"]),
    zone=st.sampled_from([BANGKOK, BERLIN, ZoneInfo("Asia/Kathmandu")]),
    start_s=st.integers(1_577_836_800, 1_767_225_600),
    width=st.timedeltas(timedelta(minutes=1), timedelta(days=5)),
)
def test_buckets_follow_each_other_and_hold_the_interval(
    bucket: HomeBucket, zone: ZoneInfo, start_s: int, width: timedelta
):
    start = datetime.fromtimestamp(start_s, UTC)
    end = start + width
    spans = spans_of(bucket, start, end, zone)
    assert spans[0].start <= start < spans[0].end
    assert spans[-1].start < end <= spans[-1].end
    assert all(one.end == two.start for one, two in pairwise(spans))
    values = np.arange((spans[-1].end - spans[0].start) // QUARTER, dtype=np.int64)
    found = sums(values, spans)
    assert sum(found) == values.sum()
    last = spans[-1]
    assert found[-1] == values[-((last.end - last.start) // QUARTER) :].sum()


def test_buckets_of_a_zone_end_at_its_midnights():
    (day,) = spans_of("1d", at("2026-03-29T12:00", BERLIN), at("2026-03-29T13:00", BERLIN), BERLIN)
    assert (day.start, day.end) == (
        datetime(2026, 3, 28, 23, tzinfo=UTC),
        datetime(2026, 3, 29, 22, tzinfo=UTC),
    )
    assert day.label == "2026-03-29"
    months = spans_of("1mo", at("2025-12-31T23:45"), at("2026-01-01T00:15"), BANGKOK)
    assert [month.label for month in months] == ["2025-12", "2026-01"]
    (year,) = spans_of("1y", at("2026-02-01"), at("2026-02-02"), BANGKOK)
    assert (year.label, year.end) == ("2026", at("2027-01-01"))


@settings(deadline=None)
@given(cycle_day=st.integers(1, 31), day=st.dates(date(2025, 2, 1), date(2027, 1, 1)))
def test_cycles_are_those_of_the_bills_and_begin_with_the_first_contract(cycle_day: int, day: date):
    contracts = [Contract("mea-1.3.1", date(2025, 6, 20), cycle_day)]
    start = midnight(day, BANGKOK)
    spans = spans_of("cycle", start, start + timedelta(days=70), BANGKOK, contracts)
    for span in spans:
        cycle = cycle_of(Month.parse(span.label), BANGKOK, cycle_day)
        assert (span.start, span.end) == (cycle.start, cycle.end)
        assert cycle.start >= midnight(date(2025, 6, 20), BANGKOK)
    if day >= date(2025, 8, 1):
        assert spans[0].start <= start < spans[0].end
        assert spans[-1].end >= start + timedelta(days=70)
    assert spans_of("cycle", start, start + timedelta(days=70), BANGKOK) == []


# ---------------------------------------------------------------- demand


def test_demand_is_the_first_greatest_quarter_hour_and_how_even_the_load_is():
    used = {
        "2026-02-28T18:00": 0.5,
        "2026-02-28T23:45": 0.75,
        "2026-03-01T00:00": 0.25,
        "2026-03-01T19:00": 0.75,
    }
    found = ledger("2026-02-28", "2026-03-02", used)
    whole = demand(found)
    assert (whole.max_kw, whole.max_at) == (3, at("2026-02-28T23:45"))
    assert whole.energy_kwh == Decimal("2.25")
    assert whole.load_factor == Decimal("0.0156")  # 2.25 kWh / 48 h / 3 kW
    february, march = monthly_demand(found, BANGKOK)
    assert (february.span.label, february.max_kw) == ("2026-02", 3)
    assert (march.max_at, march.energy_kwh) == (at("2026-03-01T19:00"), 1)
    nothing = demand(ledger("2026-02-28", "2026-03-01", {}))
    assert (nothing.max_kw, nothing.load_factor) == (0, None)


# ---------------------------------------------------------------- peaks


def test_hours_and_weekdays_are_those_of_the_home():
    used = {
        "2026-02-02T00:00": 1.0,  # a Monday
        "2026-02-02T18:45": 2.0,
        "2026-02-08T18:00": 4.0,  # a Sunday
        "2026-02-08T23:45": 1.0,
    }
    found = peak_use(ledger("2026-02-02", "2026-02-09", used), BANGKOK)
    assert {part.name: part.energy_kwh for part in found.hours if part.energy_kwh} == {
        "00": 1,
        "18": 6,
        "23": 1,
    }
    assert {part.name: part.share for part in found.weekdays if part.energy_kwh} == {
        "mon": Decimal("0.3750"),
        "sun": Decimal("0.6250"),
    }
    assert found.hours[18].mean_kw == Decimal("0.857143")  # 6 kWh in 7 h


def test_an_hour_of_a_clock_change_is_twice_there_or_not_at_all():
    for day, hours in (("2026-10-25", 25), ("2026-03-29", 23)):
        start = at(day, BERLIN)
        quarters = 4 * hours
        each = np.full(quarters, KWH // 4, np.int64)
        one = Ledger(start, start + quarters * QUARTER, each, np.zeros(quarters, np.int64))
        found = peak_use(one, BERLIN)
        assert sum(part.energy_kwh for part in found.hours) == hours
        assert found.hours[2].energy_kwh == (2 if hours == 25 else 0)
        assert found.weekdays[6].energy_kwh == hours


def test_a_ledger_that_begins_within_a_day_keeps_its_hours():
    found = peak_use(
        ledger("2026-02-02T17:30", "2026-02-02T18:30", {"2026-02-02T18:15": 1}), BANGKOK
    )
    assert found.hours[18].energy_kwh == 1
    assert [part.name for part in found.hours if part.mean_kw is not None] == ["17", "18"]


def test_peak_hours_are_those_of_the_tariff_that_holds():
    used = {
        "2026-02-02T08:45": 1.0,  # Monday, off peak
        "2026-02-02T09:00": 2.0,  # on peak
        "2026-02-07T09:00": 4.0,  # Saturday, off peak
        "2026-03-02T09:00": 8.0,  # a tariff of blocks holds
        "2026-01-31T12:00": 16.0,  # no contract yet
    }
    contracts = [
        Contract("mea-1.3.1", date(2026, 2, 1)),
        Contract("mea-1.2", date(2026, 3, 1), 1, Decimal(15)),
    ]
    found = by_period(ledger("2026-01-31", "2026-03-03", used), known_tariffs(), contracts)
    assert {part.name: part.energy_kwh for part in found} == {
        "any": 24,
        "on_peak": 2,
        "off_peak": 5,
    }


# ---------------------------------------------------------------- circuits, sun, carbon


def test_circuits_stand_side_by_side_the_greatest_first():
    day = ("2026-02-02", "2026-02-03")
    kitchen = Circuit(1, "Kitchen", "total", ledger(*day, {"2026-02-02T12:00": 0.5}))
    boiler = Circuit(
        2, "Boiler", "l1", ledger(*day, {"2026-02-02T06:00": 1, "2026-02-02T07:00": 1})
    )
    first, second = compare([kitchen, boiler], 4 * KWH)
    assert (first.called, first.share, first.max_kw) == ("Boiler", Decimal("0.5000"), 4)
    assert first.max_at == at("2026-02-02T06:00")
    assert (second.energy_kwh, second.share) == (Decimal("0.5"), Decimal("0.1250"))
    assert compare([kitchen], 0)[0].share is None


def test_a_home_with_a_plant_uses_what_it_makes_and_does_not_give():
    day = ("2026-02-02", "2026-02-03")
    grid = ledger(
        *day, {"2026-02-02T20:00": 3}, {"2026-02-02T12:00": 1.5, "2026-02-02T22:00": 0.25}
    )
    made = ledger(*day, {"2026-02-02T11:00": 0.5, "2026-02-02T12:00": 2})
    found = solar(grid, made)
    assert (found.production_kwh, found.import_kwh) == (Decimal("2.5"), 3)
    assert (found.self_use_kwh, found.consumption_kwh) == (1, 4)
    assert (found.self_use_share, found.self_sufficiency) == (Decimal("0.4000"), Decimal("0.2500"))
    assert (found.export_kwh, found.unexplained_export_kwh) == (Decimal("1.75"), Decimal("0.25"))


def test_carbon_needs_a_factor_of_each_month():
    found = ledger("2026-01-31", "2026-02-02", {"2026-01-31T12:00": 2, "2026-02-01T00:00": 0.5})
    factors = {Month(2026, 1): Factor(Decimal("400.5"), "TGO")}
    with pytest.raises(NotKnown, match="TH for 2026-02 is not known"):
        footprint(found, BANGKOK, "TH", factors)
    factors[Month(2026, 2)] = Factor(Decimal(300), "TGO")
    assert [one.carbon_g for one in footprint(found, BANGKOK, "TH", factors)] == [801, 150]


def test_documents_have_plain_numbers():
    whole = demand(ledger("2026-02-28", "2026-03-01", {}))
    assert document(whole) == {
        "span": {"start": "2026-02-27T17:00:00Z", "end": "2026-02-28T17:00:00Z", "label": "all"},
        "energy_kwh": "0",
        "max_kw": "0",
        "max_at": "2026-02-27T17:00:00Z",
        "load_factor": None,
    }
