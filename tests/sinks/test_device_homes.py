"""Claims, moves and deletions in the real database: each home keeps its time, bills and all."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from sinks import claims
from sinks.bills import versions_of
from sinks.claims import AlreadyClaimed, BadClaim, TooManyClaims
from sinks.contracts import UnknownHome, set_contract, set_home
from sinks.device_homes import BadMove, delete_device, move_device, owners
from sinks.device_registry import known_devices
from sinks.home_meters import SINCE_EVER, BadMeter, list_meters, set_meter
from sinks.home_usage import home_usage
from sinks.registry import NameTaken, UnknownDevice, claim_device, resolve_device
from streams.billing.job import Billing, BillingSettings
from streams.tariffs.contract import Contract
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
LATER = max(datetime.now(UTC), datetime(2026, 12, 31, tzinfo=UTC)) + timedelta(days=1)
ADDRESS = "homesync:x/meter"
QUARTER_UWH = 10**8
QUARTER = timedelta(minutes=15)


def bangkok(month: int, day: int = 1, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC) - timedelta(hours=7)


def device_of(db: Connection, address: str, channel: str = "total") -> tuple[int, int]:
    """An unclaimed device with one channel: their ids."""
    row = db.execute(
        "WITH d AS (INSERT INTO device (address, family) VALUES (%s, 'homesync') "
        "RETURNING device_id) INSERT INTO channel (device_id, name) SELECT device_id, %s FROM d "
        "RETURNING device_id, channel_id",
        [address, channel],
    ).fetchone()
    assert row is not None
    return row


def us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def homes(db: Connection, *home_ids: str) -> None:
    for home_id in home_ids:
        set_home(db, home_id)
        contract = Contract("mea-1.2", date(2026, 2, 1), 1, Decimal(15))
        set_contract(db, home_id, contract, known_tariffs())


def used(db: Connection, channel_id: int, start: datetime, end: datetime) -> None:
    db.execute(
        """
        INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings, quality,
                               why, complete, revision)
        SELECT %s, at, %s, 0, 15, 0, 0, true, 1
        FROM generate_series(%s::timestamptz, %s::timestamptz - interval '1 minute',
                             interval '15 minutes') AS at""",
        [channel_id, QUARTER_UWH, start, end],
    )


def bill_all(db: Connection) -> None:
    settings = BillingSettings.model_validate({"billing_quiet_s": 0})
    list(Billing(known_tariffs(), "t", settings).work_off(db, datetime.now(UTC)))


def issued(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT home_id, to_char(month, 'YYYY-MM'), version, sha256, total FROM bill ORDER BY 1, 2"
    ).fetchall()


def energy_kwh(db: Connection, home_id: str, start: datetime, end: datetime) -> Decimal:
    row = db.execute(
        "SELECT coalesce(sum(energy_kwh), 0) FROM home_ledger "
        "WHERE home_id = %s AND window_start >= %s AND window_start < %s",
        [home_id, start, end],
    ).fetchone()
    assert row is not None
    return row[0]


# ---------------------------------------------------------------- moves


def test_a_moved_device_leaves_the_old_homes_bill_and_shows_the_new_one_nothing_before(
    db: Connection,
):
    homes(db, "old", "new")
    device_id, channel_id = device_of(db, ADDRESS)
    claim_device(db, ADDRESS, "Meter", "old", "Asia/Bangkok")
    set_meter(db, "old", resolve_device(db, "Meter"), None, "grid")
    used(db, channel_id, bangkok(2), bangkok(4))
    bill_all(db)
    before = issued(db)
    assert before[0][:3] == ("old", "2026-02", 1)
    assert {row[0] for row in before} == {"old"}
    last = db.execute("SELECT max(cycle_end) FROM bill").fetchone()
    assert last is not None

    with pytest.raises(BadMove, match=r"the bill 20..-.. of home 'old' is issued"):
        move_device(db, device_id, "new", last[0] - timedelta(days=1))
    moved_at = datetime.now(UTC)
    edge = moved_at - (moved_at - SINCE_EVER) % QUARTER + QUARTER
    used(db, channel_id, edge - 3 * QUARTER, edge + 5 * QUARTER)
    spans = move_device(db, device_id, "new", moved_at)

    assert [(one.home_id, one.valid_from, one.valid_to) for one in spans] == [
        ("old", SINCE_EVER, moved_at),
        ("new", moved_at, None),
    ]
    (ended,) = list_meters(db, "old")
    assert ended.valid_to == edge, "the quarter hour of the move is the old one's"
    assert list_meters(db, "new") == []
    with pytest.raises(BadMeter, match="what it measured before is another home's"):
        set_meter(db, "new", resolve_device(db, "Meter"), None, "grid", valid_from=edge - QUARTER)
    with pytest.raises(BadMeter, match="belongs to home 'new'"):
        set_meter(db, "old", resolve_device(db, "Meter"), None, "grid", valid_from=edge)
    new = set_meter(db, "new", resolve_device(db, "Meter"), None, "grid")
    assert new.valid_from == edge

    assert energy_kwh(db, "new", SINCE_EVER, edge) == 0
    assert energy_kwh(db, "new", SINCE_EVER, LATER) == 5 * Decimal("0.1")
    old_quarters = (bangkok(4) - bangkok(2)) // QUARTER + 3
    assert energy_kwh(db, "old", SINCE_EVER, LATER) == old_quarters * Decimal("0.1")
    bill_all(db)
    assert [row for row in issued(db) if row in before] == before, "not a byte has changed"
    assert len(versions_of(db, "old", Month(2026, 3))) == 1


def test_a_device_moves_there_and_back(db: Connection):
    homes(db, "a", "b")
    device_id, _ = device_of(db, ADDRESS)
    claim_device(db, ADDRESS, "Meter", "a", "Asia/Bangkok")
    first, second = bangkok(3, 5), bangkok(3, 9, 1, 1)
    move_device(db, device_id, "b", first)
    spans = move_device(db, device_id, "a", second)
    assert [(one.home_id, one.valid_from, one.valid_to) for one in spans] == [
        ("a", SINCE_EVER, first),
        ("b", first, second),
        ("a", second, None),
    ]
    assert [
        (home, since, until) for since, until, home in known_devices(db, [ADDRESS])[0].homes
    ] == [
        ("a", 0, us(first)),
        ("b", us(first), us(second)),
        ("a", us(second), None),
    ]


def test_moves_that_cannot_be_are_refused_and_change_nothing(db: Connection):
    homes(db, "a", "b")
    device_id, _ = device_of(db, ADDRESS)
    with pytest.raises(BadMove, match="nobody has the device"):
        move_device(db, device_id, "b")
    claim_device(db, ADDRESS, None, "a", "Asia/Bangkok")
    move_device(db, device_id, "b", bangkok(3))
    before = owners(db, device_id)
    for home_id, at, error, why in (
        ("b", None, BadMove, "already"),
        ("a", LATER, BadMove, "still to come"),
        ("a", bangkok(3), BadMove, "give a later time"),
        ("nowhere", None, UnknownHome, "nowhere"),
    ):
        with pytest.raises(error, match=why):
            move_device(db, device_id, home_id, at)
    with pytest.raises(UnknownDevice):
        move_device(db, device_id + 1, "a")
    assert owners(db, device_id) == before


def test_claiming_for_another_home_ends_the_meters_of_the_old_one(db: Connection):
    homes(db, "a", "b")
    device_of(db, ADDRESS)
    claim_device(db, ADDRESS, "Meter", "a", "Asia/Bangkok")
    set_meter(db, "a", resolve_device(db, "Meter"), None, "grid")
    claim_device(db, ADDRESS, "Meter", "b", "Asia/Bangkok")
    (ended,) = list_meters(db, "a")
    assert ended.valid_to is not None
    assert timedelta(0) <= ended.valid_to - datetime.now(UTC) + timedelta(minutes=1)


# ---------------------------------------------------------------- deleting


def test_a_deleted_device_frees_its_name_and_keeps_its_past(db: Connection):
    homes(db, "a", "b")
    device_id, channel_id = device_of(db, ADDRESS)
    claim_device(db, ADDRESS, "Meter", "a", "Asia/Bangkok")
    set_meter(db, "a", resolve_device(db, "Meter"), None, "grid")
    used(db, channel_id, bangkok(2), bangkok(3))
    bill_all(db)
    before = issued(db)
    usage = home_usage(db, set_home(db, "a"), "1mo", bangkok(2), bangkok(3))
    assert before
    assert usage

    delete_device(db, device_id)

    with pytest.raises(UnknownDevice):
        resolve_device(db, "Meter")
    with pytest.raises(UnknownDevice, match="deleted"):
        delete_device(db, device_id)
    found = resolve_device(db, ADDRESS)
    assert (found.device_id, found.home_id, found.claimed_at) == (device_id, None, None)
    bill_all(db)
    assert issued(db) == before
    assert home_usage(db, set_home(db, "a"), "1mo", bangkok(2), bangkok(3)) == usage
    device_of(db, "homesync:x/other")
    claim_device(db, "homesync:x/other", "Meter", "a", "Asia/Bangkok")

    code, _ = claims.make_code(db, device_id, "operator")
    assert claims.claim_by_code(db, "u", code, "b") == device_id
    first, second = owners(db, device_id)
    assert (first.home_id, second.home_id) == ("a", "b")
    assert first.valid_to is not None
    assert first.valid_to <= second.valid_from
    assert db.execute("SELECT deleted_at FROM device WHERE name IS NULL").fetchall() == [(None,)]


# ---------------------------------------------------------------- codes


def test_a_code_claims_its_device_once(db: Connection):
    homes(db, "a", "b")
    device_id, _ = device_of(db, ADDRESS)
    code, expires_at = claims.make_code(db, device_id, "operator")
    assert len(code) == 8
    assert not set(code) & set("01IO")
    assert expires_at > datetime.now(UTC) + timedelta(days=29)
    stored = db.execute("SELECT * FROM claim_code").fetchall()
    assert code not in repr(stored), "only its hash"

    typed = f"{code[:4].lower()}-{code[4:]} "
    assert claims.claim_by_code(db, "u", typed, "a", "Meter") == device_id
    found = resolve_device(db, "Meter")
    assert (found.home_id, found.zone) == ("a", "Asia/Bangkok")
    with pytest.raises(BadClaim):
        claims.claim_by_code(db, "u", code, "b")
    with pytest.raises(AlreadyClaimed):
        claims.make_code(db, device_id, "operator")
    assert resolve_device(db, "Meter").home_id == "a"


def test_a_code_that_is_old_replaced_or_of_a_claimed_device_is_refused(db: Connection):
    homes(db, "a")
    device_id, _ = device_of(db, ADDRESS)
    first, _ = claims.make_code(db, device_id, "operator")
    second, _ = claims.make_code(db, device_id, "operator", code="abcd-efgh")
    assert second == "ABCDEFGH"
    with pytest.raises(BadClaim):
        claims.claim_by_code(db, "u", first, "a")
    db.execute("UPDATE claim_code SET expires_at = now() - interval '1 second'")
    with pytest.raises(BadClaim):
        claims.claim_by_code(db, "u", second, "a")
    third, _ = claims.make_code(db, device_id, "operator")
    claim_device(db, ADDRESS, "Meter", "elsewhere", "Asia/Bangkok")
    with pytest.raises(AlreadyClaimed):
        claims.claim_by_code(db, "u", third, "a")
    for bad in ("ABCD", "ABCDEFG0", "ABCDEFGHJ", ""):
        with pytest.raises(BadClaim):
            claims.make_code(db, device_id, "operator", code=bad)
    assert resolve_device(db, "Meter").home_id == "elsewhere"


def test_a_taken_name_leaves_the_code_unused(db: Connection):
    homes(db, "a")
    device_id, _ = device_of(db, ADDRESS)
    other, _ = device_of(db, "homesync:x/other")
    claim_device(db, "homesync:x/other", "Meter", "a", "Asia/Bangkok")
    code, _ = claims.make_code(db, device_id, "operator")
    with pytest.raises(NameTaken):
        claims.claim_by_code(db, "u", code, "a", "Meter")
    assert claims.claim_by_code(db, "u", code, "a", "Meter 2") == device_id != other


def test_guessing_is_cut_off_for_the_guesser_alone(db: Connection):
    homes(db, "a")
    device_id, _ = device_of(db, ADDRESS)
    code, _ = claims.make_code(db, device_id, "operator")
    for _ in range(claims.MOST_ATTEMPTS):
        claims.count_attempt(db, "guesser")
        with pytest.raises(BadClaim):
            claims.claim_by_code(db, "guesser", "AAAAAAAA", "a")
    with pytest.raises(TooManyClaims):
        claims.count_attempt(db, "guesser")
    claims.count_attempt(db, "owner")
    assert claims.claim_by_code(db, "owner", code, "a") == device_id
    left = db.execute("SELECT count(*) FROM claim_attempt WHERE who = 'owner'").fetchone()
    assert left == (0,), "what succeeded is not held against anybody"
    db.execute("UPDATE claim_attempt SET at = at - interval '16 minutes'")
    claims.count_attempt(db, "guesser")


# ---------------------------------------------------------------- standing beside it


def said(db: Connection, device_id: int, name: str, offset: int) -> None:
    db.execute(
        "INSERT INTO device_event (part, log_offset, number, device_id, name, measured_at, "
        "attributes) VALUES (3, %s, 0, %s, %s, now(), '{}')",
        [offset, device_id, name],
    )


def relay(db: Connection, device_id: int, on: bool, offset: int) -> None:
    db.execute(
        "INSERT INTO device_state (device_id, channel, field, value, measured_at, log_offset) "
        "VALUES (%s, 'switch:0', 'relay', %s, now(), %s) ON CONFLICT (device_id, channel, field) "
        "DO UPDATE SET value = excluded.value, log_offset = excluded.log_offset",
        [device_id, Jsonb(on), offset],
    )


@pytest.fixture
def stranger(db: Connection) -> int:
    """An unclaimed device with a relay that is off; the stream is at offset 100 of partition 3."""
    homes(db, "a", "b")
    device_id, _ = device_of(db, "shelly:plug", "switch:0")
    db.execute(
        "INSERT INTO stream_progress (topic, part, epoch, pid, next_offset, published_offset) "
        "VALUES ('energy.raw.v1', 3, 1, 1, 100, 0)"
    )
    relay(db, device_id, False, 50)
    said(db, device_id, "sys_btn_push", 99)
    return device_id


def test_pressing_the_button_after_being_asked_claims(db: Connection, stranger: int):
    proof = claims.ask_for_proof(db, stranger, "a", "u", "Plug")
    assert claims.claim_by_proof(db, proof.proof_id, "u") is None, "the press was before"
    said(db, stranger, "config_changed", 100)
    relay(db, stranger, False, 101)
    assert claims.claim_by_proof(db, proof.proof_id, "u") is None
    said(db, stranger, "sys_btn_push", 102)
    with pytest.raises(BadClaim):
        claims.claim_by_proof(db, proof.proof_id, "somebody else")
    assert claims.claim_by_proof(db, proof.proof_id, "u") == stranger
    assert resolve_device(db, "Plug").home_id == "a"
    with pytest.raises(BadClaim):
        claims.claim_by_proof(db, proof.proof_id, "u")


def test_switching_the_relay_claims_and_saying_its_state_again_does_not(
    db: Connection, stranger: int
):
    proof = claims.ask_for_proof(db, stranger, "a", "u", None)
    assert claims.claim_by_proof(db, proof.proof_id, "u") is None
    relay(db, stranger, True, 103)
    assert claims.claim_by_proof(db, proof.proof_id, "u") == stranger


def test_one_at_a_time_asks_and_not_for_ever(db: Connection, stranger: int):
    proof = claims.ask_for_proof(db, stranger, "a", "u", None)
    with pytest.raises(BadClaim, match="somebody else"):
        claims.ask_for_proof(db, stranger, "b", "v", None)
    db.execute("UPDATE claim_proof SET expires_at = now() - interval '1 second'")
    said(db, stranger, "sys_btn_push", 105)
    with pytest.raises(BadClaim, match="time is over"):
        claims.claim_by_proof(db, proof.proof_id, "u")
    later = claims.ask_for_proof(db, stranger, "b", "v", None)
    assert claims.claim_by_proof(db, later.proof_id, "v") == stranger
    assert resolve_device(db, "shelly:plug").home_id == "b"
    with pytest.raises(AlreadyClaimed):
        claims.ask_for_proof(db, stranger, "a", "u", None)
