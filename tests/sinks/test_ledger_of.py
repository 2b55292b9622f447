"""The ledger of a home: the sum of its meters, how complete it is, and when there is none."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from schemas.usage import Quality
from sinks.contracts import (
    AmbiguousMeters,
    BadContract,
    BadHome,
    BadInterval,
    NoMeter,
    UnknownHome,
    contracts,
    find_home,
    ledger_of,
    set_contract,
    set_home,
)
from sinks.registry import UnknownZone
from streams.tariffs.contract import Contract
from streams.tariffs.errors import UnknownTariff
from streams.tariffs.loading import known_tariffs

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
QUARTER = timedelta(minutes=15)
START = datetime(2026, 2, 5, 17, tzinfo=UTC)  # midnight in Bangkok
HOUR = START + 4 * QUARTER


def add_channel(db: Connection, device: str, channel: str = "total") -> int:
    db.execute(
        "INSERT INTO device (address, family, home_id) VALUES (%s, 'homesync', 'h1') "
        "ON CONFLICT DO NOTHING",
        [device],
    )
    row = db.execute(
        "INSERT INTO channel (device_id, name) "
        "SELECT device_id, %s FROM device WHERE address = %s RETURNING channel_id",
        [channel, device],
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_meter(db: Connection, channel_id: int, role: str = "grid", **valid: datetime) -> None:
    db.execute(
        "INSERT INTO home_meter VALUES ('h1', %s, %s, %s, %s)",
        [channel_id, role, valid.get("since", START - timedelta(days=9)), valid.get("until")],
    )


def add_quarter(
    db: Connection,
    channel_id: int,
    number: int,
    energy_uwh: int,
    export_uwh: int = 0,
    quality: Quality = Quality.MEASURED,
    complete: bool = True,
) -> None:
    db.execute(
        "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, "
        "quality, why, complete, revision) VALUES (%s, %s, %s, %s, 3, %s, 0, %s, 1)",
        [channel_id, START + number * QUARTER, energy_uwh, export_uwh, quality, complete],
    )


@pytest.fixture
def home(db: Connection) -> Connection:
    set_home(db, "h1")
    return db


def test_grid_meters_are_added_and_other_channels_and_times_are_not(home: Connection):
    a, b = add_channel(home, "a:1", "l1"), add_channel(home, "b:1", "l2")
    plug, roof = add_channel(home, "c:1"), add_channel(home, "d:1")
    add_meter(home, a)
    add_meter(home, b)
    add_meter(home, roof, "production")
    for channel_id, base in ((a, 10), (b, 200), (plug, 3_000), (roof, 40_000)):
        for number in range(-1, 5):
            add_quarter(home, channel_id, number, base + number, export_uwh=2 * base)
    found = ledger_of(home, "h1", START, HOUR)
    assert found.ledger.energy_uwh.tolist() == [210, 212, 214, 216]
    assert found.ledger.export_uwh.tolist() == [420] * 4
    assert (found.ledger.start, found.ledger.end) == (START, HOUR)
    assert found.incomplete_quarters == 0
    assert found.changed_at is not None
    roofs = ledger_of(home, "h1", START, HOUR, "production")
    assert roofs.ledger.energy_uwh.tolist() == [40_000, 40_001, 40_002, 40_003]


def test_a_meter_counts_from_its_first_quarter_hour_and_no_longer_from_its_end(home: Connection):
    old, new = add_channel(home, "a:1"), add_channel(home, "b:1")
    add_meter(home, old, until=START + 2 * QUARTER)
    add_meter(home, new, since=START + 2 * QUARTER)
    for number in range(4):
        add_quarter(home, old, number, 1)
        add_quarter(home, new, number, 100)
    assert ledger_of(home, "h1", START, HOUR).ledger.energy_uwh.tolist() == [1, 1, 100, 100]


def test_energy_is_told_by_the_worst_quality_of_its_meters(home: Connection):
    a, b = add_channel(home, "a:1"), add_channel(home, "b:1")
    add_meter(home, a)
    add_meter(home, b)
    add_quarter(home, a, 0, 5)
    add_quarter(home, b, 0, 6)
    add_quarter(home, a, 1, 50, quality=Quality.INTERPOLATED)
    add_quarter(home, b, 1, 60)
    add_quarter(home, a, 2, 500)
    found = ledger_of(home, "h1", START, HOUR)
    assert found.energy_by_quality_uwh() == {
        Quality.MEASURED: 11,
        Quality.INTERPOLATED: 110,
        Quality.GAP: 500,
    }
    assert found.quarters_by_quality() == {
        Quality.MEASURED: 1,
        Quality.INTERPOLATED: 1,
        Quality.GAP: 2,
    }


def test_a_quarter_hour_is_complete_when_the_stream_is_done_with_it(home: Connection):
    channel_id = add_channel(home, "a:1")
    add_meter(home, channel_id)
    add_quarter(home, channel_id, 0, 1)
    add_quarter(home, channel_id, 1, 1, complete=False)
    # the third was silent; the stream has passed it, but not the fourth
    assert ledger_of(home, "h1", START, HOUR).complete.tolist() == [True, False, False, False]
    home.execute(
        "INSERT INTO channel_state VALUES (%s, 0, %s, now(), now(), true, false, false, true)",
        [channel_id, START + 3 * QUARTER],
    )
    assert ledger_of(home, "h1", START, HOUR).complete.tolist() == [True, False, True, False]
    home.execute("INSERT INTO rollup_dirty VALUES (%s, %s)", [channel_id, START])
    found = ledger_of(home, "h1", START, HOUR)
    assert found.complete.tolist() == [False, False, True, False], "it is about to change"
    assert found.incomplete_quarters == 3


def test_a_time_without_a_meter_has_no_ledger(home: Connection):
    with pytest.raises(NoMeter, match=r"no grid meter from 2026-02-05T17:00.*meter set"):
        ledger_of(home, "h1", START, HOUR)
    channel_id = add_channel(home, "a:1")
    add_meter(home, channel_id, since=START + QUARTER, until=START + 3 * QUARTER)
    with pytest.raises(NoMeter, match=r"from 2026-02-05T17:45:00\+00:00 on"):
        ledger_of(home, "h1", START + QUARTER, HOUR)
    assert len(ledger_of(home, "h1", START + QUARTER, HOUR - QUARTER).ledger.energy_uwh) == 2


@pytest.mark.parametrize(
    ("whole", "part"), [("total", "l1"), ("em:0", "em:0:l2"), ("total", "switch:1")]
)
def test_a_whole_and_its_part_have_no_ledger_while_both_count(
    home: Connection, whole: str, part: str
):
    both, later = add_channel(home, "a:1", whole), add_channel(home, "a:1", part)
    add_meter(home, both)
    add_meter(home, later, since=START + 2 * QUARTER)
    with pytest.raises(AmbiguousMeters, match=f"{part!r}.*2026-02-05T17:30"):
        ledger_of(home, "h1", START, HOUR)
    assert len(ledger_of(home, "h1", START, START + 2 * QUARTER).ledger.energy_uwh) == 2


def test_an_interval_is_of_whole_quarter_hours(home: Connection):
    for start, end in ((START, START), (HOUR, START), (START + timedelta(seconds=1), HOUR)):
        with pytest.raises(BadInterval, match="quarter hour"):
            ledger_of(home, "h1", start, end)


def test_setting_up_a_home_again_keeps_what_is_not_said(db: Connection):
    assert set_home(db, "h2", name="House", zone="Europe/Berlin").zone == "Europe/Berlin"
    set_home(db, "h2")
    assert find_home(db, "h2") == set_home(db, "h2", name="House")
    with pytest.raises(UnknownZone, match="Europe/Berlin"):
        set_home(db, "h2", zone="Europe/Berln")
    with pytest.raises(UnknownHome, match="home set"):
        find_home(db, "h3")
    with pytest.raises(BadHome):
        set_home(db, "a\nb")


def test_a_contract_replaces_the_one_of_its_day_and_must_fit(home: Connection):
    def add(tariff_id: str, since: str, **more: Any) -> None:
        contract = Contract(tariff_id, date.fromisoformat(since), **more)
        set_contract(home, "h1", contract, known_tariffs())

    add("mea-1.3.2", "2026-01-01", cycle_day=5)
    add("mea-1.3.1", "2026-03-01", cycle_day=5)
    add("mea-1.3.1", "2026-01-01", cycle_day=5)
    assert contracts(home, "h1") == [
        Contract("mea-1.3.1", date(2026, 1, 1), 5),
        Contract("mea-1.3.1", date(2026, 3, 1), 5),
    ]
    with pytest.raises(UnknownTariff, match=r"mea-1\.2"):
        add("mea-9", "2026-01-01")
    with pytest.raises(BadContract, match="ampere"):
        add("mea-1.2", "2026-01-01", cycle_day=5)
    with pytest.raises(BadContract, match="give 1 to 31"):
        add("mea-1.3.1", "2026-01-01", cycle_day=32)
    with pytest.raises(BadHome, match="remove its contracts"):
        set_home(home, "h1", zone="Europe/Berlin")
    set_home(home, "h4", zone="Europe/Berlin")
    with pytest.raises(BadContract, match=r"is of Asia/Bangkok.*Europe/Berlin"):
        set_contract(home, "h4", Contract("mea-1.3.1", date(2026, 1, 1)), known_tariffs())
