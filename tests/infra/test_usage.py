"""`meterstream usage`, and finding the device that it is asked for, in a real database."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from infra.cli import usage
from infra.local import Stack
from schemas.usage import Quality, Why
from sinks.migrate import migrate
from sinks.registry import (
    AmbiguousDevice,
    NameTaken,
    UnknownDevice,
    UnknownZone,
    claim_device,
    resolve_device,
    summed_channels,
)

pytestmark = pytest.mark.stack
MIDNIGHT = datetime(2026, 2, 5, 17, tzinfo=UTC)  # 2026-02-06 00:00 in Bangkok


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    migrate(stack.database_url)
    return stack.database_url


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE device, channel, device_state, device_event, usage_1m, usage_15m, usage_1h, "
            "usage_1d, usage_1w, usage_1mo, rollup_dirty, refused CASCADE"
        )
        yield connection


def new_device(conn: psycopg.Connection, address: str, name: str, *channels: str) -> list[int]:
    device_id = claim_device(conn, address, name, "home-1", "Asia/Bangkok")
    rows = [
        conn.execute(
            "INSERT INTO channel (device_id, name) VALUES (%s, %s) RETURNING channel_id",
            [device_id, channel],
        ).fetchone()
        for channel in channels
    ]
    return [row[0] for row in rows if row is not None]


def add_quarters(conn: psycopg.Connection, channel_id: int, energies_uwh: list[int]) -> None:
    for i, energy in enumerate(energies_uwh):
        conn.execute(
            "INSERT INTO usage_15m VALUES (%s, %s, %s, 7, %s, %s, %s, 15, %s, %s, true, %s)",
            [
                channel_id,
                MIDNIGHT + i * timedelta(minutes=15),
                energy,
                10.0 + i,
                20.0 + i,
                30.0 + i,
                Quality.INTEGRATED if i else Quality.GAP,
                Why.NOTHING if i else Why.SILENCE,
                i + 1,
            ],
        )


def run(database_url: str, *arguments: str) -> tuple[int, str, str]:
    app = typer.Typer()
    usage.register(app)
    app.callback()(lambda: None)
    result = CliRunner().invoke(
        app, ["usage", *arguments], env={"METERSTREAM_DATABASE_URL": database_url}
    )
    return result.exit_code, result.stdout, result.stderr


def test_quarter_hours_are_shown_exactly_with_their_quality_and_revision(conn, database_url):
    (channel_id,) = new_device(conn, "homesync:home-1/meter", "House 2", "total")
    add_quarters(conn, channel_id, [1_234_567, 290_400_000_001])
    code, out, _ = run(database_url, "House 2", "--bucket", "15m", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "start": "2026-02-06T00:00:00+07:00",
            "end": "2026-02-06T00:15:00+07:00",
            "energy_wh": 1.234567,
            "export_wh": 0.000007,
            "power_min_w": 10.0,
            "power_avg_w": 20.0,
            "power_max_w": 30.0,
            "count": 15,
            "quality": "gap",
            "revision": 1,
        },
        {
            "start": "2026-02-06T00:15:00+07:00",
            "end": "2026-02-06T00:30:00+07:00",
            "energy_wh": 290_400.000001,
            "export_wh": 0.000007,
            "power_min_w": 11.0,
            "power_avg_w": 21.0,
            "power_max_w": 31.0,
            "count": 15,
            "quality": "integrated",
            "revision": 2,
        },
    ]
    code, out, _ = run(database_url, "homesync:home-1/meter", "--bucket", "15m")
    assert "1.235" in out
    assert "290400.000" in out


def test_from_and_to_choose_buckets_by_their_start(conn, database_url):
    (channel_id,) = new_device(conn, "homesync:home-1/meter", "House", "total")
    add_quarters(conn, channel_id, [1_000_000, 2_000_000, 3_000_000, 4_000_000])
    for start, end in (
        ("2026-02-06T00:15:00", "2026-02-06T00:45:00"),
        ("2026-02-05T17:15:00Z", "2026-02-05T18:45:00+01:00"),
    ):
        _, out, _ = run(
            database_url, "House", "--bucket", "15m", "--from", start, "--to", end, "--json"
        )
        assert [row["energy_wh"] for row in json.loads(out)] == [2.0, 3.0]
    _, out, _ = run(
        database_url, "House", "--bucket", "total", "--from", "2026-02-06T00:15", "--json"
    )
    (total,) = json.loads(out)
    assert (total["energy_wh"], total["count"], total["power_max_w"]) == (9.0, 45, 33.0)
    assert total["end"] == "2026-02-06T01:00:00+07:00"
    code, out, err = run(database_url, "House", "--from", "yesterday")
    assert code == 2
    assert "yesterday" in err


def test_days_weeks_and_months_are_those_of_the_device(conn, database_url):
    (channel_id,) = new_device(conn, "homesync:home-1/meter", "House", "total")
    for table, day in (
        ("usage_1d", date(2026, 2, 28)),
        ("usage_1w", date(2026, 2, 23)),
        ("usage_1mo", date(2026, 2, 1)),
    ):
        conn.execute(
            f"INSERT INTO {table} VALUES (%s, %s, 5000000, 0, 1, 2, 3, 96, 1)", [channel_id, day]
        )
    spans = {}
    for bucket in ("1d", "1w", "1mo"):
        _, out, _ = run(database_url, "House", "--bucket", bucket, "--json")
        (row,) = json.loads(out)
        spans[bucket] = row["start"], row["end"]
        assert row["revision"] is None
    assert spans == {
        "1d": ("2026-02-28T00:00:00+07:00", "2026-03-01T00:00:00+07:00"),
        "1w": ("2026-02-23T00:00:00+07:00", "2026-03-02T00:00:00+07:00"),
        "1mo": ("2026-02-01T00:00:00+07:00", "2026-03-01T00:00:00+07:00"),
    }
    _, out, _ = run(database_url, "House", "--from", "2026-03-01", "--json")
    assert json.loads(out) == []


def test_without_a_total_the_channels_that_do_not_overlap_are_added(conn, database_url):
    first, second = new_device(conn, "shelly:pro2", "Pair", "switch:0", "switch:1")
    add_quarters(conn, first, [1_000_000])
    add_quarters(conn, second, [2_000_000])
    _, out, _ = run(database_url, "Pair", "--bucket", "15m", "--json")
    (row,) = json.loads(out)
    assert (row["energy_wh"], row["power_avg_w"], row["power_max_w"]) == (3.0, 40.0, None)
    _, out, _ = run(database_url, "Pair", "--bucket", "15m", "--channel", "switch:1", "--json")
    assert json.loads(out)[0]["energy_wh"] == 2.0
    code, _, err = run(database_url, "Pair", "--channel", "switch:2")
    assert code == 1
    assert "switch:0, switch:1" in err


def test_a_device_is_found_by_name_address_or_id(conn):
    new_device(conn, "homesync:home-1/meter", "House 2")
    new_device(conn, "shelly:shellies/plus1pm", "Plug")
    by_name = resolve_device(conn, "House 2")
    assert resolve_device(conn, "homesync:home-1/meter") == by_name
    assert resolve_device(conn, str(by_name.device_id)) == by_name
    assert resolve_device(conn, "house 2") == by_name
    assert resolve_device(conn, "meter") == by_name
    assert resolve_device(conn, "shellies/plus1pm").name == "Plug"
    with pytest.raises(UnknownDevice, match="did you mean House 2"):
        resolve_device(conn, "Hous 2")


def test_an_ambiguous_device_ends_with_65_and_names_them(conn, database_url):
    new_device(conn, "homesync:home-1/meter", "One")
    new_device(conn, "homesync:home-2/meter", "Two")
    with pytest.raises(AmbiguousDevice, match=r"homesync:home-1/meter.*homesync:home-2/meter"):
        resolve_device(conn, "meter")
    code, _, err = run(database_url, "meter")
    assert code == 65
    assert "homesync:home-2/meter" in err
    device = resolve_device(conn, "One")
    new_device(conn, "homesync:home-3/x", str(device.device_id))
    with pytest.raises(AmbiguousDevice):
        resolve_device(conn, str(device.device_id))


def test_claiming_again_changes_the_zone_and_has_its_days_added_up_anew(conn):
    (channel_id,) = new_device(conn, "homesync:home-1/meter", "House", "total")
    add_quarters(conn, channel_id, [1, 2])
    before = resolve_device(conn, "House")
    claim_device(conn, "homesync:home-1/meter", "House", "home-1", "Asia/Bangkok")
    assert resolve_device(conn, "House") == before
    assert conn.execute("SELECT count(*) FROM rollup_dirty").fetchone() == (0,)
    claim_device(conn, "homesync:home-1/meter", "House", "home-1", "Europe/London", gap_limit_s=60)
    after = resolve_device(conn, "House")
    assert (after.zone, after.gap_limit_s, after.claimed_at) == (
        "Europe/London",
        60,
        before.claimed_at,
    )
    assert conn.execute("SELECT count(*) FROM rollup_dirty").fetchone() == (2,)


def test_a_name_belongs_to_one_device_and_a_zone_must_exist(conn):
    new_device(conn, "homesync:home-1/meter", "House")
    with pytest.raises(NameTaken, match="House"):
        claim_device(conn, "homesync:home-1/other", "House", "home-1", "Asia/Bangkok")
    with pytest.raises(UnknownZone, match="Asia/Bangkok"):
        claim_device(conn, "homesync:home-1/other", "Other", "home-1", "Asia/Bangkock")
    assert conn.execute("SELECT count(*) FROM device").fetchone() == (1,)


@pytest.mark.parametrize(
    ("channels", "summed"),
    [
        (["l1", "l2", "l3", "total"], ["total"]),
        (["l1", "l2", "l3", "n"], ["l1", "l2", "l3"]),
        (["switch:0", "switch:1"], ["switch:0", "switch:1"]),
        (["em:1:l1", "em:1:total", "em1:0"], ["em1:0", "em:1:total"]),
        (["device:ac", "device:ac:l1"], ["device:ac"]),
        ([], []),
    ],
)
def test_channels_that_overlap_are_not_added(channels: list[str], summed: list[str]):
    assert summed_channels(channels) == summed


def test_an_absent_database_is_told_in_one_line():
    code, _, err = run("postgresql://meterstream@127.0.0.1:1/meterstream", "House")
    assert code == 1
    assert "meterstream up" in err
    assert err.count("\n") == 1
