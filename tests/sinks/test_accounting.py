"""A checker that was never seen to fail proves nothing: each planted difference is found and named.

Half of it is `meterstream load`'s question (is what was sent stored?), half `meterstream verify`'s
(does what is stored add up?), both over rows written by hand.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from infra.cli import verify
from infra.local import Stack
from infra.local.topics import create_topics
from schemas.families import FAMILIES
from schemas.topics import RAW
from schemas.units import HOUR_US, MINUTE_US, QUARTER_US, SECOND_US
from sinks import accounting, stored_checks
from sinks.accounting import Account, Energy, SentReading
from sinks.finality import log_ends
from sinks.rollup import roll_up
from sinks.stored_checks import Check
from sinks.usage_windows import GapRecord, copy_new_minutes, mark_for_rollup, revise_gaps
from streams.energy import minutes_of
from streams.partition import limits_of
from streams.store import minute_record, point_of_stored
from tests.databases import migrated_database

pytestmark = pytest.mark.stack

START_US = 1_770_310_830 * SECOND_US  # 2026-02-05 17:00:30, in Bangkok half a minute into Friday


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    create_topics(stack.kafka_bootstrap)
    return migrated_database(stack, "accounting_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute(
            "TRUNCATE device, channel, readings, reading_conflict, usage_1m, gap_energy, "
            "usage_15m, usage_1h, usage_1d, usage_1w, usage_1mo, rollup_dirty, channel_state, "
            "channel_limits, window_dirty, refused, log_gap, stream_progress CASCADE"
        )
        yield connection


def at(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def new_channel(conn: psycopg.Connection[Any], address: str = "homesync:h/n1") -> int:
    row = conn.execute(
        "WITH d AS (INSERT INTO device (address, family) VALUES (%s, 'homesync') "
        "RETURNING device_id) INSERT INTO channel (device_id, name) "
        "SELECT device_id, 'total' FROM d RETURNING channel_id",
        [address],
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_reading(
    conn: psycopg.Connection[Any], channel: int, us: int, seq: int, power_w: float, import_wh: float
) -> None:
    conn.execute(
        "INSERT INTO readings (channel_id, measured_at, received_at, log_offset, seq, clock, "
        "source, power_w, voltage_v, import_total_wh) "
        "VALUES (%s, %s, %s, %s, %s, 0, 0, %s, 230.5, %s)",
        [channel, at(us), at(us), seq, seq, power_w, import_wh],
    )


# ---- what was sent ----


def sent_reading(channel: int, seq: int) -> SentReading:
    power_w, import_wh = 1000.125 + seq, 5_000.000_001 + seq
    values = (power_w, 230.5, None, None, None, import_wh, None)
    return SentReading(channel, START_US + seq * SECOND_US, seq, values)


def load_sent_by_rows(conn: psycopg.Connection[Any], sent: list[SentReading]) -> None:
    """`load_sent` takes meters that say all fields; these say three."""
    accounting.load_sent(conn, [])
    for reading in sent:
        conn.execute(
            "INSERT INTO sent VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [reading.channel_id, at(reading.measured_us), reading.seq, *reading.values],
        )


def account(
    conn: psycopg.Connection[Any],
    channel: int,
    *,
    acked: int = 10,
    refused: tuple[int, ...] = (),
    energy: Energy = Energy(0, 0),
) -> Account:
    found = Account()
    with conn.transaction():
        load_sent_by_rows(conn, [sent_reading(channel, seq) for seq in range(1, 11)])
        accounting.load_marks(conn, [(channel, acked)], [(channel, seq) for seq in refused])
        accounting.account_of_sent(conn, found, {channel: "n1 total"}, {channel: energy})
    return found


@pytest.fixture
def stored(conn: psycopg.Connection[Any]) -> int:
    """A channel with readings 1…10, as `sent_reading` has them."""
    channel = new_channel(conn)
    for seq in range(1, 11):
        reading = sent_reading(channel, seq)
        power_w, import_wh = reading.values[0], reading.values[5]
        assert power_w is not None
        assert import_wh is not None
        add_reading(conn, channel, reading.measured_us, seq, power_w, import_wh)
    return channel


def texts(found: Account) -> list[str]:
    return [failure.text for failure in found.failures]


def test_all_that_was_sent_is_stored(conn: psycopg.Connection[Any], stored: int):
    found = account(conn, stored)
    assert found == Account(sent=10, acked=10, stored=10)
    assert found.ok


def test_a_missing_reading_that_was_acknowledged_is_lost(
    conn: psycopg.Connection[Any], stored: int
):
    conn.execute("DELETE FROM readings WHERE seq = 4")
    found = account(conn, stored)
    assert (found.lost, found.duplicates, found.invented) == (1, 0, 0)
    assert not found.ok
    assert found.failures[0].channel == "n1 total"
    assert found.failures[0].at == "2026-02-05T17:00:34.000000+00:00"
    assert texts(found) == ["lost: seq 4 was acknowledged and is not stored"]


def test_a_missing_reading_that_nobody_acknowledged_is_not_lost(
    conn: psycopg.Connection[Any], stored: int
):
    conn.execute("DELETE FROM readings WHERE seq = 10")
    found = account(conn, stored, acked=9)
    assert found.ok
    assert (found.sent, found.acked, found.stored) == (10, 9, 9)


def test_a_refused_reading_is_not_lost(conn: psycopg.Connection[Any], stored: int):
    conn.execute("DELETE FROM readings WHERE seq = 4")
    found = account(conn, stored, refused=(4,))
    assert found.ok
    assert found.refused == 1


@pytest.mark.parametrize(
    "change",
    [
        "power_w = power_w + 1e-9",
        "import_total_wh = import_total_wh + 1e-6",
        "voltage_v = NULL",
        "current_a = 1",
        "temperature_c = 20",
    ],
)
def test_a_changed_value_is_a_loss(conn: psycopg.Connection[Any], stored: int, change: str):
    conn.execute(f"UPDATE readings SET {change} WHERE seq = 7".encode())
    found = account(conn, stored)
    assert texts(found) == ["lost: seq 7 is stored with other values"]


def test_a_reading_stored_at_two_instants_is_a_duplicate(
    conn: psycopg.Connection[Any], stored: int
):
    add_reading(conn, stored, START_US + 60 * SECOND_US, 3, 1.0, 2.0)
    found = account(conn, stored)
    assert (found.lost, found.duplicates, found.invented) == (0, 1, 0)
    assert texts(found) == ["duplicate: seq 3 is stored once more"]


def test_a_reading_that_nobody_sent_is_invented(conn: psycopg.Connection[Any], stored: int):
    add_reading(conn, stored, START_US + 60 * SECOND_US, 99, 1.0, 2.0)
    found = account(conn, stored)
    assert (found.lost, found.duplicates, found.invented) == (0, 0, 1)
    assert not found.ok


def test_a_contradiction_set_aside_is_a_duplicate(conn: psycopg.Connection[Any], stored: int):
    conn.execute(
        "INSERT INTO reading_conflict VALUES (%s, %s, 77, 5, '{}')", [stored, at(START_US)]
    )
    assert account(conn, stored).duplicates == 1


def test_a_key_that_is_there_twice_is_a_duplicate(database_url: str, conn, stored: int):
    with psycopg.connect(database_url) as own:
        own.execute("ALTER TABLE readings DROP CONSTRAINT readings_pkey")
        own.execute("INSERT INTO readings SELECT * FROM readings WHERE seq = 5")
        found = account(own, stored)
        keys = Check("keys")
        stored_checks.check_keys(own, keys, {stored: "n1 total"}, None)
        own.rollback()
    assert (found.lost, found.duplicates, found.invented) == (0, 1, 0)
    assert keys.failed == 1
    assert keys.failures[0].text == "readings has this key 2 times"


@pytest.mark.parametrize("table", ["usage_1m", "gap_energy", "usage_15m"])
def test_one_microwatthour_too_much_is_found(
    conn: psycopg.Connection[Any], stored: int, table: str
):
    expected = Energy(1_000, 0)
    add_windows(conn, stored, 600, 400)
    assert account(conn, stored, energy=expected).ok
    conn.execute(f"UPDATE {table} SET energy_uwh = energy_uwh + 1".encode())
    found = account(conn, stored, energy=expected)
    off = (found.windows_difference_uwh, found.ledger_difference_uwh)
    assert off == ((0, 1) if table == "usage_15m" else (1, 0))
    assert not found.ok
    assert "+1 µWh import" in texts(found)[0]


def add_windows(conn: psycopg.Connection[Any], channel: int, minute: int, gap: int) -> None:
    start = at(START_US // QUARTER_US * QUARTER_US)
    conn.execute(
        "INSERT INTO usage_1m VALUES (%s, %s, %s, 0, NULL, NULL, NULL, 1, 0, 0, 1, 1)",
        [channel, start, minute],
    )
    conn.execute(
        "INSERT INTO gap_energy VALUES (%s, %s, %s, %s, 0, 1, 1, 1)",
        [channel, start, start + timedelta(hours=3), gap],
    )
    conn.execute(
        "INSERT INTO usage_15m VALUES (%s, %s, %s, 0, NULL, NULL, NULL, 1, 0, 0, true, 1)",
        [channel, start, minute + gap],
    )


# ---- what is stored ----


@pytest.fixture
def ledger(stack: Stack, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """40 minutes of readings, three hours of silence, 20 minutes more, and all that follows."""
    monkeypatch.setattr(verify, "CATCH_UP_S", 0.5)
    for name, value in (("DATABASE_URL", conn.info.dsn), ("KAFKA_BOOTSTRAP", None)):
        monkeypatch.setenv(f"METERSTREAM_{name}", value or stack.kafka_bootstrap)
    channel = new_channel(conn)
    instants = [START_US + k * 10 * SECOND_US for k in range(240)]
    instants += [instants[-1] + 3 * HOUR_US + k * 10 * SECOND_US for k in range(120)]
    for k, us in enumerate(instants):
        wh = 1_000 + k * 2.000_001 + (5_000.000_003 if k >= 240 else 0)
        add_reading(conn, channel, us, k + 1, 500.0 + k % 7, wh)
    complete = instants[-1] // MINUTE_US * MINUTE_US
    conn.execute(
        "INSERT INTO channel_state VALUES (%s, 0, %s, %s, %s, true, false, false, true)",
        [channel, at(complete), at(complete - MINUTE_US), at(instants[-1])],
    )
    rows = conn.execute(
        "SELECT to_us(measured_at), power_w, import_total_wh, export_total_wh, interval_s, "
        "interval_import_wh FROM readings ORDER BY 1"
    ).fetchall()
    limits = limits_of(FAMILIES["homesync"], None, None)
    start = START_US // MINUTE_US * MINUTE_US
    done = minutes_of([point_of_stored(row) for row in rows], start, complete, limits)
    copy_new_minutes(conn, [(minute_record(channel, minute), 1) for minute in done.minutes])
    assert len(done.gaps) == 1
    revise_gaps(conn, [(GapRecord(channel, *gap), 1) for gap in done.gaps])
    first, last = START_US // QUARTER_US, complete // QUARTER_US
    mark_for_rollup(conn, [(channel, quarter * QUARTER_US) for quarter in range(first, last + 1)])
    roll_up(conn, 1_000)
    for part, end in log_ends(stack.kafka_bootstrap).items():
        conn.execute(
            "INSERT INTO stream_progress (topic, part, epoch, pid, next_offset, published_offset) "
            "VALUES (%s, %s, 1, 1, %s, %s)",
            [RAW.name, part, end, end],
        )
    return channel


def run_verify(stack: Stack, database_url: str, since: datetime | None = None) -> dict[str, Check]:
    checks = verify.verify_stored(database_url, stack.kafka_bootstrap, since=since)
    return {check.name: check for check in checks}


def failed(checks: dict[str, Check]) -> dict[str, int]:
    return {name: check.failed for name, check in checks.items() if not check.ok}


def test_a_sound_ledger_passes_every_check(stack: Stack, database_url: str, ledger: int):
    checks = run_verify(stack, database_url)
    assert failed(checks) == {}
    assert [check.name for check in checks.values()] == [
        *("progress", "log_gaps", "minutes", "gap_energy", "quarters"),
        *("hours", "days", "weeks", "months", "keys"),
    ]
    assert checks["minutes"].checked == 61
    assert checks["gap_energy"].checked == 1
    assert checks["quarters"].checked == 16
    assert checks["hours"].checked == 4
    assert checks["days"].checked == checks["weeks"].checked == checks["months"].checked == 1


DIFFERENCES = [
    ("DELETE FROM readings WHERE seq = 50", {"minutes": 1}),
    ("UPDATE readings SET import_total_wh = import_total_wh + 1e-6 WHERE seq = 52", {"minutes": 2}),
    ("UPDATE readings SET power_w = 900 WHERE seq = 50", {"minutes": 1}),
    ("UPDATE usage_1m SET energy_uwh = energy_uwh + 1 WHERE window_start = '{minute}'",
     {"minutes": 1, "quarters": 1}),
    ("UPDATE usage_1m SET export_uwh = 1 WHERE window_start = '{minute}'",
     {"minutes": 1, "quarters": 1}),
    ("UPDATE usage_1m SET quality = 4 WHERE window_start = '{minute}'", {"minutes": 1}),
    ("DELETE FROM usage_1m WHERE window_start = '{minute}'", {"minutes": 1, "quarters": 1}),
    ("INSERT INTO usage_1m SELECT channel_id, '{silent}', 5, 0, 1, 1, 1, 1, 0, 0, 1, 1 "
     "FROM channel", {"minutes": 1, "quarters": 1}),
    # three hours: one µWh more a second, in each of the 13 quarters that the gap touches
    ("UPDATE gap_energy SET energy_uwh = energy_uwh + 10800", {"gap_energy": 1, "quarters": 13}),
    ("DELETE FROM gap_energy", {"gap_energy": 1, "quarters": 13}),
    ("UPDATE usage_15m SET energy_uwh = energy_uwh + 1 WHERE window_start = '{quarter}'",
     {"quarters": 1, "hours": 1, "days": 1, "weeks": 1, "months": 1}),
    ("DELETE FROM usage_15m WHERE window_start = '{quarter}'",
     {"quarters": 1, "hours": 1, "days": 1, "weeks": 1, "months": 1}),
    ("UPDATE usage_1h SET energy_uwh = energy_uwh + 1 WHERE window_start = '{hour}'", {"hours": 1}),
    ("UPDATE usage_1d SET energy_uwh = energy_uwh + 1", {"days": 1}),
    ("UPDATE usage_1w SET day = day - 7", {"weeks": 2}),
    ("DELETE FROM usage_1mo", {"months": 1}),
    ("INSERT INTO log_gap VALUES ('energy.raw.v1', 3, 10, 20)", {"log_gaps": 1}),
    ("UPDATE stream_progress SET next_offset = next_offset - 1 WHERE part = 3", {"progress": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), DIFFERENCES)
def test_a_planted_difference_turns_its_checks_red(
    stack: Stack,
    conn: psycopg.Connection[Any],
    database_url: str,
    ledger: int,
    change: str,
    expected: dict[str, int],
):
    if "stream_progress" in change and not log_ends(stack.kafka_bootstrap)[3]:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": stack.kafka_bootstrap})
        producer.produce(RAW.name, b"", partition=3)
        producer.flush(10)
        conn.execute("UPDATE stream_progress SET next_offset = 1 WHERE part = 3")
    minute = START_US // MINUTE_US * MINUTE_US + 5 * MINUTE_US
    text = change.format(
        minute=at(minute),
        silent=at(minute + HOUR_US),
        quarter=at(minute // QUARTER_US * QUARTER_US),
        hour=at(minute // HOUR_US * HOUR_US),
    )
    assert conn.execute(text.encode()).rowcount >= 1
    checks = run_verify(stack, database_url)
    assert failed(checks) == expected
    for name in expected:
        failure = checks[name].failures[0]
        assert failure.channel == (
            "energy.raw.v1[3]" if name in ("progress", "log_gaps") else "homesync:h/n1 total"
        )
        datetime.fromisoformat(failure.at)


def test_what_the_stream_is_about_to_change_is_left_out(
    stack: Stack,
    conn: psycopg.Connection[Any],
    database_url: str,
    ledger: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(verify, "ANOTHER_LOOK_S", 0.01)
    minute = START_US // MINUTE_US * MINUTE_US + 5 * MINUTE_US
    conn.execute("UPDATE usage_1m SET energy_uwh = 1 WHERE window_start = %s", [at(minute)])
    conn.execute(
        "INSERT INTO window_dirty VALUES (0, 1, %s, %s, %s)", [ledger, at(minute), at(minute)]
    )
    mark_for_rollup(conn, [(ledger, minute // QUARTER_US * QUARTER_US)])
    checks = run_verify(stack, database_url)
    assert failed(checks) == {}
    assert checks["minutes"].pending == checks["quarters"].pending == checks["hours"].pending == 1


def test_windows_that_are_not_complete_yet_are_tolerated(
    stack: Stack, conn: psycopg.Connection[Any], database_url: str, ledger: int
):
    for k in range(1, 20):
        add_reading(conn, ledger, START_US + 4 * HOUR_US + k * 10 * SECOND_US, 400 + k, 1.0, 1e6)
    assert failed(run_verify(stack, database_url)) == {}


def test_since_looks_only_at_what_came_after(
    stack: Stack, conn: psycopg.Connection[Any], database_url: str, ledger: int
):
    early = START_US // MINUTE_US * MINUTE_US + 5 * MINUTE_US
    late = START_US // HOUR_US * HOUR_US + 3 * HOUR_US + 45 * MINUTE_US
    conn.execute("UPDATE usage_1m SET energy_uwh = 1 WHERE window_start = %s", [at(early)])
    checks = run_verify(stack, database_url, since=at(late))
    assert failed(checks) == {}
    assert 0 < checks["minutes"].checked < 21
    conn.execute("UPDATE usage_1m SET energy_uwh = 1 WHERE window_start = %s", [at(late)])
    assert failed(run_verify(stack, database_url, since=at(late))) == {"minutes": 1, "quarters": 1}


def test_windows_that_other_limits_made_are_counted_and_only_their_sums_are_checked(
    stack: Stack, conn: psycopg.Connection[Any], database_url: str, ledger: int
):
    early = START_US // MINUTE_US * MINUTE_US + 5 * MINUTE_US
    since = START_US // HOUR_US * HOUR_US + 3 * HOUR_US + 45 * MINUTE_US
    conn.execute("UPDATE device SET gap_limit_s = 1")  # no window was judged by that yet
    conn.execute("INSERT INTO channel_limits VALUES (%s, 300, 100000, NULL)", [ledger])
    checks = run_verify(stack, database_url)
    assert failed(checks) == {}
    assert checks["minutes"].outdated == checks["gap_energy"].outdated == 0
    whole = checks["minutes"].checked

    conn.execute("UPDATE channel_limits SET since = %s", [at(since)])
    conn.execute("UPDATE usage_1m SET energy_uwh = 1 WHERE window_start = %s", [at(early)])
    checks = run_verify(stack, database_url)
    assert failed(checks) == {"quarters": 1}
    assert 0 < checks["minutes"].checked < 21
    assert checks["minutes"].checked + checks["minutes"].outdated == whole
    assert (checks["gap_energy"].checked, checks["gap_energy"].outdated) == (0, 1)

    conn.execute("UPDATE channel_limits SET gap_limit_s = 1")
    assert failed(run_verify(stack, database_url))["minutes"] == checks["minutes"].checked


def test_the_command_prints_one_document_and_fails_when_a_check_does(
    conn: psycopg.Connection[Any], ledger: int
):
    app = typer.Typer()
    verify.register(app)
    app.callback()(lambda: None)
    done = CliRunner().invoke(app, ["verify", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["ok"] is True
    conn.execute("UPDATE usage_1d SET energy_uwh = energy_uwh + 1")
    done = CliRunner().invoke(app, ["verify", "--json"])
    assert done.exit_code == 1
    (bad,) = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert bad["name"] == "days"
    assert bad["failures"][0]["channel"] == "homesync:h/n1 total"
    assert bad["failures"][0]["at"].startswith("2026-02-06")
    done = CliRunner().invoke(app, ["verify"])
    assert "FAILED" in done.stdout
    assert CliRunner().invoke(app, ["verify", "--since", "yesterday"]).exit_code == 2
