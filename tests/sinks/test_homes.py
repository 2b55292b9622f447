"""Meters of a home, the utility's readings, buckets and views, in the real database."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.usage import Quality
from sinks import home_analyses, home_meters, utility_readings
from sinks.contracts import (
    AmbiguousMeters,
    Home,
    UnknownHome,
    keep_eras,
    ledger_of,
    set_contract,
    set_home,
)
from sinks.emissions import BadFactor, RegionFactor, list_factors, set_factor
from sinks.home_meters import SINCE_EVER, BadMeter, device_and_channel, list_meters, set_meter
from sinks.home_usage import csv_of, home_usage
from sinks.registry import AmbiguousDevice, UnknownDevice, resolve_device
from sinks.utility_readings import BadReading, UtilityReading, differences, enter_reading, readings
from streams.analysis.buckets import HomeBucket
from streams.tariffs.contract import Contract
from streams.tariffs.errors import BadUsage, NotKnown
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month, cycle_of

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
QUARTER = timedelta(minutes=15)
BANGKOK = ZoneInfo("Asia/Bangkok")
START = datetime(2026, 2, 5, 17, tzinfo=UTC)  # midnight in Bangkok
NOW = datetime(2026, 11, 1, tzinfo=UTC)
KWH = 10**9


def add_device(db: Connection, name: str, *channels: str, home_id: str | None = "h1") -> list[int]:
    row = db.execute(
        "INSERT INTO device (address, family, name, home_id) "
        "VALUES (%s, 'homesync', %s, %s) RETURNING device_id",
        [f"homesync:{name}/node", name, home_id],
    ).fetchone()
    assert row is not None
    found = []
    for channel in channels:
        made = db.execute(
            "INSERT INTO channel (device_id, name) VALUES (%s, %s) RETURNING channel_id",
            [row[0], channel],
        ).fetchone()
        assert made is not None
        found.append(int(made[0]))
    return found


def add_quarters(
    db: Connection,
    channel_id: int,
    rows: dict[datetime, int],
    export_uwh: int = 0,
    quality: Quality = Quality.MEASURED,
) -> None:
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
            "quality, why, complete, revision) VALUES (%s, %s, %s, %s, 3, %s, 0, true, 1)",
            [(channel_id, at, uwh, export_uwh, quality) for at, uwh in rows.items()],
        )


def meter(db: Connection, device: str, role: str = "grid", **more: Any) -> home_meters.HomeMeter:
    found, channel = device_and_channel(db, device)
    return set_meter(db, "h1", found, channel, role, **more)  # type: ignore[arg-type]


@pytest.fixture
def home(db: Connection) -> Connection:
    set_home(db, "h1")
    return db


# ---------------------------------------------------------------- meters


def test_a_channel_is_named_by_device_and_channel_or_is_the_total_or_the_only_one(
    home: Connection,
):
    whole, part = add_device(home, "Main", "total", "l1")
    (only,) = add_device(home, "Plug", "switch:0")
    add_device(home, "Pair", "switch:0", "switch:1")
    assert meter(home, "Main").channel_id == whole
    home_meters.remove_meter(home, "h1", resolve_device(home, "Main"), None)
    assert meter(home, "homesync:Main/node/l1").channel_id == part
    assert meter(home, "Plug").channel_id == only
    with pytest.raises(BadMeter, match="switch:0, switch:1; name one, as Pair/CHANNEL"):
        meter(home, "Pair")
    with pytest.raises(BadMeter, match="no channel 'l9'; it has l1, total"):
        meter(home, "Main/l9")
    with pytest.raises(UnknownDevice):
        meter(home, "Mian/total")
    add_device(home, "plug", "total")
    with pytest.raises(AmbiguousDevice):
        meter(home, "PLUG")


def test_setting_a_meter_twice_is_setting_it_once(home: Connection):
    add_device(home, "Main", "total")
    first = meter(home, "Main")
    assert (first.valid_from, first.valid_to) == (SINCE_EVER, None)
    before = home.execute("SELECT * FROM home_meter").fetchall()
    assert meter(home, "Main") == first
    assert home.execute("SELECT * FROM home_meter").fetchall() == before
    ended = meter(home, "Main", valid_to=START)
    assert (ended.valid_from, ended.valid_to) == (SINCE_EVER, START)
    meter(home, "Main", valid_from=START + QUARTER)
    assert len(list_meters(home, "h1")) == 2
    with pytest.raises(BadMeter, match=r"counts from .*; say which"):
        meter(home, "Main")


def test_a_channel_counts_once_at_a_time_and_for_one_home(home: Connection):
    add_device(home, "Main", "total")
    add_device(home, "Theirs", "total", home_id="h2")
    meter(home, "Main", valid_from=START)
    with pytest.raises(BadMeter, match=r"grid of home 'h1' from 2026-02-05T17:00.*end that entry"):
        meter(home, "Main", valid_from=START + QUARTER)
    with pytest.raises(BadMeter, match="belongs to home 'h2'"):
        meter(home, "Theirs")
    with pytest.raises(UnknownHome):
        set_meter(home, "h3", resolve_device(home, "Main"), None, "grid")
    for more in ({"valid_from": START + timedelta(minutes=5)}, {"valid_to": START}):
        with pytest.raises(BadMeter):
            meter(home, "Main", "grid", **({"valid_from": START} | more))
    assert len(list_meters(home, "h1")) == 1


def test_a_whole_and_its_part_are_not_set_for_the_same_time(home: Connection):
    add_device(home, "Main", "total", "l1", "l2")
    meter(home, "Main/l1", valid_to=START)
    meter(home, "Main/l2", valid_to=START)
    with pytest.raises(AmbiguousMeters, match="'l1' of device 1"):
        meter(home, "Main/total", valid_from=START - QUARTER)
    meter(home, "Main/total", valid_from=START)
    assert [one.channel for one in list_meters(home, "h1")] == ["l1", "l2", "total"]


# ---------------------------------------------------------------- the utility's meter


def test_the_utilitys_difference_stands_beside_ours(home: Connection):
    (channel_id,) = add_device(home, "Main", "total")
    meter(home, "Main")
    rows = {START + n * QUARTER: KWH // 10 for n in range(-4, 40)}
    add_quarters(home, channel_id, rows, export_uwh=KWH // 100)
    for hours, kwh, export in ((0, "1000", "7"), (5, "1002.5", "7.2"), (10, "1004", None)):
        reading = UtilityReading(
            START + timedelta(hours=hours, minutes=6),  # nearest: the quarter hour before
            Decimal(kwh),
            None if export is None else Decimal(export),
        )
        enter_reading(home, "h1", reading, NOW)
        enter_reading(home, "h1", reading, NOW)
    first, second = differences(home, "h1")
    assert first.import_ is not None
    assert first.export is not None
    assert (first.import_.ours_kwh, first.import_.utility_kwh) == (2, Decimal("2.5"))
    assert (first.import_.difference_kwh, first.import_.higher) == (Decimal("0.5"), "utility")
    assert first.import_.percent == Decimal("20.00")
    assert (first.export.ours_kwh, first.export.higher) == (Decimal("0.2"), "neither")
    assert second.import_ is not None
    assert (second.import_.ours_kwh, second.import_.higher) == (2, "ours")
    assert second.export is None
    assert second.import_.percent == Decimal("-33.33")
    assert differences(home, "h1", START + timedelta(hours=6)) == [second]


def test_a_difference_without_a_ledger_says_why(home: Connection):
    for hours, kwh in ((0, 5), (1, 6)):
        enter_reading(home, "h1", UtilityReading(START + timedelta(hours=hours), Decimal(kwh)), NOW)
    (found,) = differences(home, "h1")
    assert found.import_ is None
    assert "meterstream meter set" in str(found.missing)


def test_a_register_does_not_go_back_unless_the_meter_is_a_new_one(home: Connection):
    def enter(hours: int, kwh: str, **more: Any) -> None:
        at = START + timedelta(hours=hours)
        enter_reading(home, "h1", UtilityReading(at, Decimal(kwh), **more), NOW)

    enter(0, "100", export_kwh=Decimal(9))
    enter(4, "140")
    for hours, kwh in ((5, "139.999999999"), (2, "140.1"), (-1, "100.5")):
        with pytest.raises(BadReading, match=r"below the .* new one"):
            enter(hours, kwh)
    with pytest.raises(BadReading, match="export"):
        enter(3, "120", export_kwh=Decimal(8))
    with pytest.raises(BadReading, match="yet to come"):
        enter_reading(home, "h1", UtilityReading(NOW + QUARTER, Decimal(999)), NOW)
    with pytest.raises(BadUsage, match="nine decimals"):
        enter(3, "120.0000000001")
    with pytest.raises(BadReading, match="does not hold"):
        enter(3, "1e999999")
    enter(4, "130")  # corrected
    enter(6, "0.5", is_new_meter=True)
    enter(7, "2")
    assert [one.import_kwh for one in readings(home, "h1")] == [100, 130, Decimal("0.5"), 2]
    assert [(one.start, one.end) for one in differences(home, "h1")] == [
        (START, START + timedelta(hours=4)),
        (START + timedelta(hours=6), START + timedelta(hours=7)),
    ]
    utility_readings.remove_reading(home, "h1", START)
    with pytest.raises(BadReading, match="nothing was read"):
        utility_readings.remove_reading(home, "h1", START)


# ---------------------------------------------------------------- buckets and views


def rows_of(db: Connection, query: str) -> dict[Any, Any]:
    return dict(db.execute(query.encode()).fetchall())


# Both Berlin's clock changes lie in 2026; 400 days hold every kind of month.
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    zone=st.sampled_from(["Asia/Bangkok", "Europe/Berlin", "Asia/Kathmandu"]),
    cycle_day=st.integers(1, 31),
    changed=st.tuples(st.dates(date(2025, 12, 1), date(2027, 1, 31)), st.integers(1, 31)),
    entries=st.dictionaries(
        st.tuples(st.integers(0, 1), st.integers(0, 400 * 96 - 1)),
        st.integers(0, 10**15),
        min_size=1,
        max_size=60,
    ),
)
def test_days_months_cycles_and_years_sum_to_the_ledger_exactly(
    home: Connection,
    zone: str,
    cycle_day: int,
    changed: tuple[date, int],
    entries: dict[tuple[int, int], int],
):
    start = datetime(2025, 12, 25, 18, 30, tzinfo=UTC)
    home.execute("TRUNCATE device, channel, home_meter, contract, contract_era, usage_15m CASCADE")
    home.execute("UPDATE home SET zone = %s", [zone])
    channels = add_device(home, "A", "total") + add_device(home, "B", "total")
    for number, channel_id in enumerate(channels):
        meter(home, "AB"[number])
        quarters = {start + n * QUARTER: uwh for (c, n), uwh in entries.items() if c == number}
        add_quarters(home, channel_id, quarters, export_uwh=3)
    for since, day in ((date(2025, 1, 1), cycle_day), changed):  # the zone is not its tariff's
        home.execute("INSERT INTO contract VALUES ('h1', %s, 'mea-1.3.1', %s)", [since, day])
    keep_eras(home, "h1")
    whole = sum(entries.values())
    of_home = Home("h1", None, zone)
    for view, key in (("day", "day"), ("month", "month"), ("year", "year"), ("cycle", "month")):
        query = f"SELECT sum(energy_uwh), sum(export_uwh), sum(energy_kwh) FROM home_{view}"
        row = home.execute(query.encode()).fetchone()
        assert row == (whole, 3 * len(entries), Decimal(whole).scaleb(-9)), view
        bucket: HomeBucket = {"day": "1d", "month": "1mo", "year": "1y", "cycle": "cycle"}[view]  # type: ignore[assignment]
        end = start + timedelta(days=400)
        ours = home_usage(home, of_home, bucket, start, end)
        assert all(one.end == two.start for one, two in pairwise(ours))
        sql = rows_of(home, f"SELECT {key}::text, energy_kwh FROM home_{view}")
        width = {"1d": 10, "1mo": 7, "1y": 4, "cycle": 7}[bucket]
        told = {text[:width]: kwh for text, kwh in sql.items()}
        assert {one.label: one.energy_kwh for one in ours if one.label in told} == told, view
        assert sum(one.energy_kwh for one in ours) == Decimal(whole).scaleb(-9), view


def test_cycles_of_the_view_are_those_of_the_bills(home: Connection):
    info = ZoneInfo("Asia/Bangkok")
    for cycle_day in (1, 2, 15, 28, 29, 30, 31):
        found = home.execute(
            "SELECT day::date, cycle_start(day::date, %(on)s), "
            "cycle_month(cycle_start(day::date, %(on)s), %(on)s) "
            "FROM generate_series('2027-12-01'::date, '2029-04-01', interval '1 day') AS day",
            {"on": cycle_day},
        ).fetchall()
        for day, start, month in found:
            cycle = cycle_of(Month(month.year, month.month), info, cycle_day)
            assert cycle.start.astimezone(info).date() == start
            assert start <= day < cycle.end.astimezone(info).date()


def test_a_cycle_before_the_first_contract_is_none_and_one_after_has_its_tariff(
    home: Connection,
):
    (channel_id,) = add_device(home, "Main", "total")
    meter(home, "Main")
    add_quarters(home, channel_id, {START + n * timedelta(days=20): 7 for n in range(6)})
    for tariff_id, since in (("mea-1.3.1", "2026-02-20"), ("mea-1.3.2", "2026-04-15")):
        contract = Contract(tariff_id, date.fromisoformat(since), 15)
        set_contract(home, "h1", contract, known_tariffs())
    found = rows_of(home, "SELECT month::text, tariff_id FROM home_cycle")
    # cycles from 15 March and 15 April on
    assert found == {
        "2026-04-01": "mea-1.3.1",
        "2026-05-01": "mea-1.3.2",
        "2026-06-01": "mea-1.3.2",
    }
    cycles = home_usage(
        home, Home("h1", None, "Asia/Bangkok"), "cycle", START, START + timedelta(days=100)
    )
    assert [(one.label, one.energy_kwh * KWH) for one in cycles] == [
        ("2026-04", 14),
        ("2026-05", 7),
        ("2026-06", 7),
    ]
    with pytest.raises(BadUsage, match="set a contract"):
        home_usage(home, Home("h1", None, "Asia/Bangkok"), "cycle", START, START + QUARTER)


def test_a_bucket_tells_production_demand_quality_and_what_is_not_complete(home: Connection):
    (main,) = add_device(home, "Main", "total")
    (roof,) = add_device(home, "Roof", "total")
    meter(home, "Main")
    meter(home, "Roof", "production", valid_from=START + 2 * QUARTER)
    add_quarters(home, main, {START: KWH}, export_uwh=5)
    add_quarters(home, main, {START + QUARTER: 2 * KWH}, quality=Quality.ESTIMATED)
    add_quarters(home, roof, {START + n * QUARTER: 9 for n in range(4)})
    (day,) = home_usage(home, Home("h1", None, "Asia/Bangkok"), "1d", START, START + QUARTER)
    assert (day.energy_kwh, day.max_kw, day.export_kwh) == (3, 8, Decimal("0.000000005"))
    assert day.production_kwh == Decimal("0.000000018"), "the plant counts from 0:30 on"
    assert (day.quality, day.incomplete_quarters, day.label) == ("estimated", 94, "2026-02-06")
    text = csv_of([day], BANGKOK)
    assert text.splitlines() == [
        "start,end,label,energy_kwh,export_kwh,production_kwh,max_kw,quality,incomplete_quarters",
        "2026-02-06T00:00:00+07:00,2026-02-07T00:00:00+07:00,2026-02-06,3,0.000000005,"
        "0.000000018,8,estimated,94",
    ]


def test_what_the_utilitys_meter_counts_beyond_ours_is_a_row_of_the_ledger(home: Connection):
    """Read at 0:00 and 0:52:30, which is as near to 1:00 as to 0:45 and counts up."""
    (channel_id,) = add_device(home, "Main", "total")
    meter(home, "Main")
    add_quarters(home, channel_id, {START + n * QUARTER: KWH for n in range(6)})
    later = START + timedelta(minutes=52, seconds=30)
    for at, kwh in ((START, "10"), (later, "15.5")):
        enter_reading(home, "h1", UtilityReading(at, Decimal(kwh)), NOW)
    found = differences(home, "h1")
    day = home_usage(home, Home("h1", None, "Asia/Bangkok"), "1d", START, START + QUARTER)
    *_, last = csv_of(day, BANGKOK, found).splitlines()
    assert last == (
        "2026-02-06T00:00:00+07:00,2026-02-06T00:52:30+07:00,utility meter less ours,1.5,,,,"
        "utility,0"
    )
    seen = home.execute(
        "SELECT read_from, read_to, utility_kwh, ours_kwh, difference_kwh, quarters "
        "FROM home_utility_difference"
    ).fetchall()
    assert seen == [(START, later, Decimal("5.5"), 4, Decimal("1.5"), 4)]


# ---------------------------------------------------------------- analyses


def test_analyses_read_what_they_need(home: Connection):
    (main,) = add_device(home, "Main", "total")
    (roof,) = add_device(home, "Roof", "total")
    add_device(home, "Elsewhere", "total", home_id="h2")
    meter(home, "Main")
    interval = (START, START + timedelta(days=1))
    add_quarters(home, main, {START + n * QUARTER: KWH for n in range(3)}, export_uwh=KWH // 2)
    add_quarters(home, roof, {START: KWH})
    with pytest.raises(home_analyses.NoPlant, match="--role production"):
        home_analyses.solar_of(home, "h1", *interval)
    meter(home, "Roof", "production")
    sun = home_analyses.solar_of(home, "h1", *interval)
    assert (sun["self_use_kwh"], sun["production_kwh"]) == ("0.5", "1")
    circuits = home_analyses.circuits_of(home, "h1", *interval)["circuits"]
    assert isinstance(circuits, list)
    assert [(one["called"], one["share"]) for one in circuits] == [
        ("Main", "1"),
        ("Roof", "0.3333"),
    ]
    with pytest.raises(NotKnown, match="2026-02"):
        home_analyses.carbon_of(home, "h1", *interval)
    set_factor(home, RegionFactor("TH", Month(2026, 2), Decimal(500), "TGO"))
    set_factor(home, RegionFactor("TH", Month(2026, 2), Decimal("400.25"), "TGO 2026"))
    assert list_factors(home, "TH") == [
        RegionFactor("TH", Month(2026, 2), Decimal("400.25"), "TGO 2026")
    ]
    assert home_analyses.carbon_of(home, "h1", *interval)["carbon_g"] == "1200.75"
    with pytest.raises(BadFactor):
        set_factor(home, RegionFactor("TH", Month(2026, 2), Decimal(-1), "TGO"))
    peaks = home_analyses.peaks_of(home, "h1", *interval, "mea-1.3.1")
    assert (peaks["busiest_hour"], peaks["busiest_weekday"]) == ("00", "fri")
    unknown = home_analyses.peaks_of(
        home, "h1", START + timedelta(days=250), START + timedelta(days=251), "mea-1.3.1"
    )
    assert unknown["periods"] is None
    assert "not known" in str(unknown["periods_missing"])


def test_an_interval_may_be_told_in_any_zone(home: Connection):
    (main,) = add_device(home, "Main", "total")
    meter(home, "Main")
    berlin = ZoneInfo("Europe/Berlin")
    low, high = (datetime(2026, 3, day, 0, 0, tzinfo=berlin) for day in (29, 30))
    add_quarters(home, main, {datetime(2026, 3, 29, 21, 45, tzinfo=UTC): 5})
    found: Ledger = ledger_of(home, "h1", low, high).ledger
    assert len(found.energy_uwh) == 23 * 4, "the day of the clock change has 23 hours"
    assert found.energy_uwh[-1] == 5
