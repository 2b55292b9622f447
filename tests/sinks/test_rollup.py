"""Roll-ups in the real database: every sum to the µWh, every revision for a reason."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.units import MINUTE_US, QUARTER_US
from schemas.usage import Quality, Why
from sinks.contracts import set_home
from sinks.device_homes import delete_device, move_device, owners
from sinks.registry import claim_device
from sinks.rollup import mark_announced, retell, roll_up, unannounced_quarters
from sinks.usage_windows import (
    ChannelStateRow,
    GapRecord,
    MinuteRecord,
    copy_new_minutes,
    keep_channel_states,
    mark_for_rollup,
    revise_gaps,
    revise_minutes,
)

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BANGKOK, BERLIN, KATHMANDU = "Asia/Bangkok", "Europe/Berlin", "Asia/Kathmandu"


def us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def utc(text: str) -> int:
    return us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def local(text: str, zone: str) -> int:
    return us(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


QUARTER = utc("2026-02-06 03:15")


def add_channel(db: Connection, zone: str = BANGKOK) -> int:
    row = db.execute(
        "WITH d AS (INSERT INTO device (address, family, zone) "
        "SELECT 'homesync:h/n' || count(*), 'homesync', %s FROM device RETURNING device_id) "
        "INSERT INTO channel (device_id, name) SELECT device_id, 'total' FROM d "
        "RETURNING channel_id",
        [zone],
    ).fetchone()
    assert row is not None
    return int(row[0])


def minute(channel: int, start_us: int, energy_uwh: int, **more: Any) -> MinuteRecord:
    plain = MinuteRecord(channel, start_us, energy_uwh, 0, None, None, None, 0, 0, 0)
    return plain._replace(**more)


def store(db: Connection, minutes: Iterable[MinuteRecord], gaps: Iterable[GapRecord] = ()) -> None:
    """What the stream does: rows, and marks for the quarter hours they lie in."""
    minutes, gaps = list(minutes), list(gaps)
    revise_minutes(db, [(m, 1) for m in minutes])
    revise_gaps(db, [(g, 1) for g in gaps])
    quarters = {(m.channel_id, m.start_us // QUARTER_US) for m in minutes}
    for g in gaps:
        first, last = g.start_us // QUARTER_US, (g.end_us - 1) // QUARTER_US
        quarters |= {(g.channel_id, q) for q in range(first, last + 1)}
    mark_for_rollup(db, [(channel, q * QUARTER_US) for channel, q in quarters])


def roll_all(db: Connection, most: int = 100_000) -> int:
    total = 0
    while done := roll_up(db, most):
        total += done
    return total


def complete_until(db: Connection, channel: int, at_us: int) -> None:
    keep_channel_states(
        db, [ChannelStateRow(channel, 0, at_us, at_us, at_us, True, False, False, True)]
    )
    mark_for_rollup(db, [(channel, (at_us - 1) // QUARTER_US * QUARTER_US)])


class Quarter(NamedTuple):
    start_us: int
    energy_uwh: int
    export_uwh: int
    readings: int
    quality: int
    why: int
    complete: bool
    revision: int


def quarters(db: Connection, channel: int) -> list[Quarter]:
    return [
        Quarter(*row)
        for row in db.execute(
            "SELECT to_us(window_start), energy_uwh, export_uwh, readings, quality, why, complete, "
            "revision FROM usage_15m WHERE channel_id = %s ORDER BY 1",
            [channel],
        )
    ]


def powers(db: Connection) -> tuple[Any, ...] | None:
    return db.execute("SELECT power_min_w, power_avg_w, power_max_w FROM usage_15m").fetchone()


def energy_by_day(db: Connection, table: str, channel: int) -> dict[date, int]:
    return dict(
        db.execute(
            f"SELECT day, energy_uwh FROM {table} WHERE channel_id = %s".encode(), [channel]
        ).fetchall()
    )


# ---------------------------------------------------------------- quarter hours


def test_a_quarter_hour_is_the_sum_of_its_fifteen_minutes(db: Connection):
    channel = add_channel(db)
    rows = [
        minute(channel, QUARTER + i * MINUTE_US, 1_000_003 + i, export_uwh=7 * i, readings=12)
        for i in range(-1, 16)
    ]
    store(db, rows)
    assert roll_all(db) == 3
    assert quarters(db, channel)[1] == Quarter(
        QUARTER, 15 * 1_000_003 + 105, 7 * 105, 180, Quality.MEASURED, Why.NOTHING, False, 0
    )
    assert [q.energy_uwh for q in quarters(db, channel)][::2] == [1_000_002, 1_000_018]


def test_power_is_the_least_the_greatest_and_the_mean_weighted_by_readings(db: Connection):
    channel = add_channel(db)
    store(
        db,
        [
            minute(channel, QUARTER, 1, readings=1, power_min_w=-50.0, power_avg_w=100.0,
                   power_max_w=300.0),
            minute(channel, QUARTER + MINUTE_US, 1, readings=3, power_min_w=20.0, power_avg_w=200.0,
                   power_max_w=250.0),
            minute(channel, QUARTER + 2 * MINUTE_US, 1, readings=40),
        ],
    )  # fmt: skip
    roll_all(db)
    assert powers(db) == (-50.0, 175.0, 300.0)


def test_a_quarter_hour_has_the_worst_quality_of_its_minutes(db: Connection):
    channel = add_channel(db)
    rows = [minute(channel, QUARTER + i * MINUTE_US, 1) for i in range(15)]
    rows[4] = rows[4]._replace(quality=int(Quality.ESTIMATED), why=int(Why.METER_REPLACED))
    store(db, rows)
    roll_all(db)
    (quarter,) = quarters(db, channel)
    assert (quarter.quality, quarter.why) == (Quality.ESTIMATED, Why.METER_REPLACED)


def test_a_quarter_hour_with_a_minute_missing_is_a_gap(db: Connection):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER + i * MINUTE_US, 5) for i in range(14)])
    roll_all(db)
    (quarter,) = quarters(db, channel)
    assert (quarter.energy_uwh, quarter.quality, quarter.why) == (70, Quality.GAP, Why.SILENCE)


# ---------------------------------------------------------------- energy of gaps


def test_energy_of_a_gap_is_spread_over_its_quarter_hours_by_time(db: Connection):
    # 10:20 to 11:10, 50 minutes: 5, 15, 15 and 15... of them in the quarters from 10:15
    channel = add_channel(db)
    start = utc("2026-02-06 10:20")
    gap = GapRecord(channel, start, start + 50 * MINUTE_US, 5_000_000, 500, int(Why.SILENCE))
    store(db, [], [gap])
    roll_all(db)
    assert [(q.energy_uwh, q.export_uwh) for q in quarters(db, channel)] == [
        (1_000_000, 100),
        (1_500_000, 150),
        (1_500_000, 150),
        (1_000_000, 100),
    ]
    inner = quarters(db, channel)[1]
    assert (inner.quality, inner.why) == (Quality.INTERPOLATED, Why.SILENCE)
    assert quarters(db, channel)[0].quality == Quality.GAP, "five of its minutes are unmeasured"


def test_what_does_not_divide_is_rounded_cumulatively_and_nothing_is_lost(db: Connection):
    channel = add_channel(db)
    start = utc("2026-02-06 10:00")
    gap = GapRecord(channel, start, start + 3 * QUARTER_US, 10, 0, int(Why.SILENCE))
    store(db, [], [gap])
    roll_all(db)
    # 10/3, 20/3 and 10 rounded down: 3, 6, 10
    assert [q.energy_uwh for q in quarters(db, channel)] == [3, 3, 4]


def test_a_gap_that_is_no_more_leaves_a_quarter_hour_without_energy(db: Connection):
    channel = add_channel(db)
    gap = GapRecord(channel, QUARTER, QUARTER + QUARTER_US, 10, 0, int(Why.SILENCE))
    store(db, [], [gap])
    roll_all(db)
    store(db, [], [gap._replace(energy_uwh=0)])
    roll_all(db)
    (quarter,) = quarters(db, channel)
    assert (quarter.energy_uwh, quarter.quality) == (0, Quality.GAP)


def test_a_quarter_hour_of_which_nothing_is_known_has_no_row(db: Connection):
    channel = add_channel(db)
    complete_until(db, channel, QUARTER + QUARTER_US)
    assert roll_all(db) == 1
    assert quarters(db, channel) == []


GAPS = st.lists(
    st.tuples(
        st.integers(0, 3_600_000_000),  # silence before it
        st.integers(7_200_000_001, 200_000_000_000),  # its length
        st.integers(0, 10**12),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=4,
)


def test_gaps_of_any_length_sum_to_their_energy_in_every_roll_up(db: Connection):
    @given(GAPS)
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def conserved(said: list[tuple[int, int, int, int]]) -> None:
        db.execute("TRUNCATE gap_energy, usage_15m, usage_1h, usage_1d, usage_1w, usage_1mo")
        channel = add_channel(db, BERLIN)
        at, gaps = utc("2026-03-28 17:03:20.123456"), []
        for before, length, energy, export in said:
            gaps.append(GapRecord(channel, at + before, at + before + length, energy, export, 1))
            at += before + length
        store(db, [], gaps)
        roll_all(db, most=100)
        wanted = (sum(g.energy_uwh for g in gaps), sum(g.export_uwh for g in gaps))
        for table in ("usage_15m", "usage_1h", "usage_1d", "usage_1w", "usage_1mo"):
            sums = "coalesce(sum(energy_uwh), 0)::bigint, coalesce(sum(export_uwh), 0)::bigint"
            query = f"SELECT {sums} FROM {table}"
            assert db.execute(query.encode()).fetchone() == wanted, table

    conserved()


# ---------------------------------------------------------------- hours, days, weeks, months


def test_hours_are_of_utc_and_have_four_quarters(db: Connection):
    channel = add_channel(db, KATHMANDU)
    start = utc("2026-02-06 10:00")
    store(db, [minute(channel, start + i * QUARTER_US, 10**i, readings=2) for i in range(5)])
    roll_all(db)
    hours = db.execute(
        "SELECT to_us(window_start), energy_uwh, readings FROM usage_1h ORDER BY 1"
    ).fetchall()
    assert hours == [(start, 1111, 8), (start + 4 * QUARTER_US, 10_000, 2)]


def test_days_begin_at_midnight_of_the_devices_zone(db: Connection):
    channel = add_channel(db, BANGKOK)
    midnight = local("2026-02-07 00:00", BANGKOK)
    assert midnight == utc("2026-02-06 17:00")
    store(db, [minute(channel, midnight - MINUTE_US, 5), minute(channel, midnight, 70)])
    roll_all(db)
    assert energy_by_day(db, "usage_1d", channel) == {date(2026, 2, 6): 5, date(2026, 2, 7): 70}


DST = [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)]


@pytest.mark.parametrize(("day", "hours"), DST)
def test_a_day_of_a_zone_with_summer_time_has_its_own_length(db: Connection, day: str, hours: int):
    channel = add_channel(db, BERLIN)
    start, today = local(f"{day} 00:00", BERLIN), date.fromisoformat(day)
    # one µWh a quarter hour, from an hour before to an hour after
    store(
        db,
        [minute(channel, start + i * QUARTER_US, 1) for i in range(-4, 4 * hours + 4)],
    )
    roll_all(db)
    assert energy_by_day(db, "usage_1d", channel) == {
        today - timedelta(days=1): 4,
        today: 4 * hours,
        today + timedelta(days=1): 4,
    }


def test_weeks_begin_on_monday_and_months_on_the_first(db: Connection):
    channel = add_channel(db, BANGKOK)
    noon = {
        text: local(f"{text} 12:00", BANGKOK)
        for text in ("2026-02-28", "2026-03-01", "2026-03-02", "2026-03-31", "2026-04-01")
    }
    store(db, [minute(channel, at, 10**i) for i, at in enumerate(noon.values())])
    roll_all(db)
    # 28 February 2026 is a Saturday
    assert energy_by_day(db, "usage_1w", channel) == {
        date(2026, 2, 23): 11,
        date(2026, 3, 2): 100,
        date(2026, 3, 30): 11_000,
    }
    assert energy_by_day(db, "usage_1mo", channel) == {
        date(2026, 2, 1): 1,
        date(2026, 3, 1): 1110,
        date(2026, 4, 1): 10_000,
    }


def test_channels_of_different_zones_are_rolled_up_in_one_go(db: Connection):
    at = utc("2026-02-06 20:00")
    thai, german = add_channel(db, BANGKOK), add_channel(db, BERLIN)
    store(db, [minute(thai, at, 1), minute(german, at, 20)])
    assert roll_up(db, 1000) == 2
    assert energy_by_day(db, "usage_1d", thai) == {date(2026, 2, 7): 1}
    assert energy_by_day(db, "usage_1d", german) == {date(2026, 2, 6): 20}


MINUTES = st.dictionaries(
    st.integers(0, 60 * 24 * 9 // 7).map(lambda n: n * 7),  # minutes of nine days
    st.integers(0, 10**10),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("zone", [BANGKOK, BERLIN, KATHMANDU, "America/St_Johns"])
def test_every_roll_up_sums_to_the_minutes_whatever_came_late(db: Connection, zone: str):
    start = utc("2026-03-26 00:00")

    @given(MINUTES, MINUTES, st.integers(1, 30))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def sums(first: dict[int, int], late: dict[int, int], most: int) -> None:
        db.execute("TRUNCATE usage_1m, usage_15m, usage_1h, usage_1d, usage_1w, usage_1mo")
        channel = add_channel(db, zone)
        for said in (first, late):
            rows = [minute(channel, start + n * MINUTE_US, e) for n, e in said.items()]
            store(db, rows)
            roll_all(db, most)
        stored = first | late
        by_day: dict[date, int] = {}
        for n, energy in stored.items():
            at = EPOCH + timedelta(microseconds=start + n * MINUTE_US)
            day = at.astimezone(ZoneInfo(zone)).date()
            by_day[day] = by_day.get(day, 0) + energy
        assert energy_by_day(db, "usage_1d", channel) == by_day
        by_week: dict[date, int] = {}
        by_month: dict[date, int] = {}
        for day, energy in by_day.items():
            monday, first_of_month = day - timedelta(days=day.weekday()), day.replace(day=1)
            by_week[monday] = by_week.get(monday, 0) + energy
            by_month[first_of_month] = by_month.get(first_of_month, 0) + energy
        assert energy_by_day(db, "usage_1w", channel) == by_week
        assert energy_by_day(db, "usage_1mo", channel) == by_month
        for table in ("usage_15m", "usage_1h"):
            query = f"SELECT sum(energy_uwh)::bigint FROM {table}"
            assert db.execute(query.encode()).fetchone() == (sum(stored.values()),)

    sums()


# ---------------------------------------------------------------- revisions and announcements


def test_a_quarter_hour_has_no_revision_until_it_is_complete(db: Connection):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER, 5)])
    roll_all(db)
    store(db, [minute(channel, QUARTER, 6)])
    roll_all(db)
    assert quarters(db, channel)[0][-2:] == (False, 0)
    assert unannounced_quarters(db, 10) == []
    complete_until(db, channel, QUARTER + QUARTER_US)
    roll_all(db)
    assert quarters(db, channel)[0][-2:] == (True, 1)


def test_a_quarter_hour_is_not_complete_before_its_last_minute_is(db: Connection):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER, 5)])
    complete_until(db, channel, QUARTER + QUARTER_US - MINUTE_US)
    roll_all(db)
    assert quarters(db, channel)[0][-2:] == (False, 0)


def test_the_revision_rises_when_something_changed_and_only_then(db: Connection):
    channel = add_channel(db)
    complete_until(db, channel, QUARTER + QUARTER_US)
    store(db, [minute(channel, QUARTER, 5, readings=3)])
    roll_all(db)
    assert quarters(db, channel)[0].revision == 1
    mark_for_rollup(db, [(channel, QUARTER)] * 3)
    assert roll_all(db) == 3
    assert quarters(db, channel)[0].revision == 1
    store(db, [minute(channel, QUARTER, 5, readings=4)])
    roll_all(db)
    assert quarters(db, channel)[0].revision == 2
    store(db, [minute(channel, QUARTER, 5, readings=4, power_min_w=0.0, power_avg_w=0.0,
                      power_max_w=0.0)])  # fmt: skip
    roll_all(db)
    assert quarters(db, channel)[0].revision == 3


def test_what_was_complete_stays_complete(db: Connection):
    """A channel's state can be lost with its partition's memory; its ledger cannot."""
    channel = add_channel(db)
    complete_until(db, channel, QUARTER + QUARTER_US)
    store(db, [minute(channel, QUARTER, 5)])
    roll_all(db)
    db.execute("DELETE FROM channel_state")
    store(db, [minute(channel, QUARTER, 6)])
    roll_all(db)
    (quarter,) = quarters(db, channel)
    assert (quarter.energy_uwh, quarter.complete, quarter.revision) == (6, True, 2)


def test_a_revision_is_announced_once_and_a_newer_one_again(db: Connection):
    channel = add_channel(db)
    complete_until(db, channel, QUARTER + QUARTER_US)
    store(db, [minute(channel, QUARTER, 5, quality=int(Quality.INTEGRATED))])
    roll_all(db)
    (window,) = unannounced_quarters(db, 10)
    assert (window.address, window.channel, window.window_s) == ("homesync:h/n0", "total", 900)
    assert (window.window_start_us, window.energy_uwh, window.revision) == (QUARTER, 5, 1)
    assert (window.quality, window.why) == (Quality.GAP, Why.SILENCE)
    store(db, [minute(channel, QUARTER, 6)])
    roll_all(db)
    mark_announced(db, [window])
    (newer,) = unannounced_quarters(db, 10)
    assert (newer.energy_uwh, newer.revision) == (6, 2)
    mark_announced(db, [newer])
    assert unannounced_quarters(db, 10) == []


def test_quarter_hours_are_announced_oldest_first_and_so_many_at_a_time(db: Connection):
    channel = add_channel(db)
    complete_until(db, channel, QUARTER + 4 * QUARTER_US)
    store(db, [minute(channel, QUARTER + i * QUARTER_US, 1) for i in (2, 0, 1)])
    roll_all(db)
    starts = [w.window_start_us for w in unannounced_quarters(db, 2)]
    assert starts == [QUARTER, QUARTER + QUARTER_US]


# ---------------------------------------------------------------- whose they are


def homes_told(db: Connection) -> list[tuple[int, int, str | None]]:
    """What waits to be announced: how many quarter hours after QUARTER, revision, home."""
    windows = unannounced_quarters(db, 100)
    mark_announced(db, windows)
    return [((w.window_start_us - QUARTER) // QUARTER_US, w.revision, w.home_id) for w in windows]


def test_a_quarter_hour_is_told_as_of_the_home_that_had_the_device_at_its_start(db: Connection):
    channel = add_channel(db)
    claim_device(db, "homesync:h/n0", None, "a", BANGKOK)
    set_home(db, "b")
    start = EPOCH + timedelta(microseconds=QUARTER)
    move_device(db, 1, "b", start + timedelta(minutes=20))  # within the second of four
    delete_device(db, 1)
    deleted_at = owners(db, 1)[-1].valid_to
    assert deleted_at is not None
    complete_until(db, channel, us(deleted_at) + 10**10)
    last = (us(deleted_at) - QUARTER) // QUARTER_US
    for i in (0, 1, 2, 3, last, last + 1):
        store(db, [minute(channel, QUARTER + i * QUARTER_US, 1)])
    roll_all(db)
    assert homes_told(db) == [
        (0, 1, "a"), (1, 1, "a"), (2, 1, "b"), (3, 1, "b"), (last, 1, "b"), (last + 1, 1, None),
    ]  # fmt: skip


def test_quarter_hours_are_told_again_when_they_come_to_another_home_afterwards(db: Connection):
    channel, other = add_channel(db), add_channel(db)
    recent = us(datetime.now(UTC)) // QUARTER_US * QUARTER_US - 10 * QUARTER_US
    old = recent - 10 * 24 * 60 * MINUTE_US
    for one in (channel, other):
        complete_until(db, one, recent + 4 * QUARTER_US)
        starts = [old, *(recent + i * QUARTER_US for i in range(5))]
        store(db, [minute(one, start, 1) for start in starts])
    roll_all(db)
    kept = timedelta(days=5)

    def told() -> list[tuple[int, int, int, str | None]]:
        windows = unannounced_quarters(db, 100)
        mark_announced(db, windows)
        return [
            (w.channel_id, (w.window_start_us - recent) // QUARTER_US, w.revision, w.home_id)
            for w in windows
        ]

    assert len(told()) == 10
    assert retell(db, 10, kept) == 0
    claim_device(db, "homesync:h/n0", None, "a", BANGKOK)
    assert retell(db, 10, kept) == 4
    assert told() == [(channel, i, 2, "a") for i in range(4)]
    before = [(q.start_us, q.energy_uwh, q.complete) for q in quarters(db, channel)]

    set_home(db, "b")
    move_device(db, 1, "b", EPOCH + timedelta(microseconds=recent + QUARTER_US + 1))
    assert retell(db, 10, kept) == 2
    assert told() == [(channel, i, 3, "b") for i in (2, 3)]
    assert retell(db, 10, kept) == 0
    assert [(q.start_us, q.energy_uwh, q.complete) for q in quarters(db, channel)] == before
    assert {q.revision for q in quarters(db, other)} == {0, 1}


# ---------------------------------------------------------------- dirty marks


def test_marks_are_worked_off_in_portions(db: Connection):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER + i * QUARTER_US, 1) for i in range(7)])
    assert [roll_up(db, 3) for _ in range(4)] == [3, 3, 1, 0]
    assert len(quarters(db, channel)) == 7


def test_a_mark_that_comes_meanwhile_stands_for_the_next_round(db: Connection, sinks_url: str):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER, 1)])
    with psycopg.connect(sinks_url, autocommit=True) as other:
        with db.transaction():
            assert roll_up(db, 10) == 1
            store(other, [minute(channel, QUARTER, 20)])
        assert roll_all(db) == 1
    assert quarters(db, channel)[0].energy_uwh == 20


def test_a_round_that_is_rolled_back_keeps_its_marks(db: Connection):
    channel = add_channel(db)
    store(db, [minute(channel, QUARTER, 1)])
    with db.transaction(force_rollback=True):
        roll_up(db, 10)
    assert quarters(db, channel) == []
    assert roll_all(db) == 1


def test_new_minutes_are_copied_as_the_slow_way_would_store_them(db: Connection):
    channel = add_channel(db)
    rows = [
        minute(channel, QUARTER, 5, export_uwh=6, readings=7, quality=1, why=2),
        minute(channel, QUARTER + MINUTE_US, 10**15, readings=1, power_min_w=-1.5,
               power_avg_w=0.25, power_max_w=9e6, quality=6, why=1),
    ]  # fmt: skip
    copy_new_minutes(db, [(row, 40 + i) for i, row in enumerate(rows)])
    copied = db.execute("SELECT * FROM usage_1m ORDER BY window_start").fetchall()
    db.execute("TRUNCATE usage_1m")
    revise_minutes(db, [(row, 40 + i) for i, row in enumerate(rows)])
    assert db.execute("SELECT * FROM usage_1m ORDER BY window_start").fetchall() == copied
    assert [(row[2], row[-2], row[-1]) for row in copied] == [(5, 1, 40), (10**15, 1, 41)]
