"""Bills in the real database: issued once, never changed, followed by versions."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from schemas.usage import Quality
from sinks.bill_drafts import draft, draft_of_device
from sinks.bills import bill_of_id, issued_bill, keep_utility_bill, utility_bill, versions_of
from sinks.contracts import AmbiguousMeters, NoMeter, set_contract, set_home
from sinks.registry import resolve_device
from streams.billing.canonical import sha256_of
from streams.billing.job import Billing, BillingSettings
from streams.tariffs.contract import Contract
from streams.tariffs.errors import BadUsage, NotKnown, TariffError, UnknownTariff
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
KWH = 10**9
FEBRUARY, MARCH = Month(2026, 2), Month(2026, 3)
LATER = max(datetime.now(UTC), datetime(2026, 12, 31, tzinfo=UTC)) + timedelta(days=1)


def bangkok(month: int, day: int = 1) -> datetime:
    return datetime(2026, month, day, tzinfo=UTC) - timedelta(hours=7)


class Home:
    """A home with a contract and one meter from February 2026 to `until`, and its ledger."""

    def __init__(
        self,
        db: Connection,
        home_id: str = "h1",
        contract: Contract = Contract("mea-1.2", date(2026, 2, 1), 1, Decimal(15)),
        until: datetime = bangkok(3),
    ) -> None:
        self.db, self.home_id, self.until = db, home_id, until
        set_home(db, home_id)
        set_contract(db, home_id, contract, known_tariffs())
        self.channel_id = self.channel(f"homesync:{home_id}/meter", "total")
        self.meter(self.channel_id)

    def channel(self, address: str, name: str) -> int:
        row = self.db.execute(
            "WITH d AS (INSERT INTO device (address, family) VALUES (%s, 'homesync') "
            "ON CONFLICT (address) DO UPDATE SET family = excluded.family RETURNING device_id) "
            "INSERT INTO channel (device_id, name) SELECT device_id, %s FROM d "
            "RETURNING channel_id",
            [address, name],
        ).fetchone()
        assert row is not None
        return int(row[0])

    def meter(self, channel_id: int) -> None:
        self.db.execute(
            "INSERT INTO home_meter (home_id, channel_id, role, valid_from, valid_to) "
            "VALUES (%s, %s, 'grid', %s, %s)",
            [self.home_id, channel_id, bangkok(2), self.until],
        )

    def used(
        self,
        start: datetime,
        end: datetime,
        uwh: int,
        quality: Quality = Quality.MEASURED,
        complete: bool = True,
    ) -> None:
        """Each quarter hour of `[start, end)` used so much, whatever was known of it before."""
        self.db.execute(
            """
            INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, readings,
                                   quality, why, complete, revision)
            SELECT %s, at, %s, 0, 15, %s, 0, %s, 1
            FROM generate_series(%s::timestamptz, %s::timestamptz - interval '1 minute',
                                 interval '15 minutes') AS at
            ON CONFLICT (channel_id, window_start) DO UPDATE
            SET energy_uwh = excluded.energy_uwh, quality = excluded.quality,
                complete = excluded.complete, revision = usage_15m.revision + 1,
                changed_at = now()""",
            [self.channel_id, uwh, quality, complete, start, end],
        )

    def february(self, uwh: int = KWH // 8, **more: Any) -> None:
        self.used(bangkok(2), bangkok(3), uwh, **more)


@pytest.fixture
def bill_now(db: Connection) -> Callable[..., list[tuple[str, str, int]]]:
    """A process that starts, makes one round and ends: (home, month, version) of what it issued."""

    def once(
        now: datetime = LATER, tariffs: str = "t", **settings: float
    ) -> list[tuple[str, str, int]]:
        given = BillingSettings.model_validate({"billing_quiet_s": 0, **settings})
        billing = Billing(known_tariffs(), tariffs, given)
        return [
            (bill.home_id, f"{bill.month:%Y-%m}", bill.version)
            for bill in billing.work_off(db, now)
        ]

    return once


BillNow = Callable[..., list[tuple[str, str, int]]]


def test_a_complete_cycle_is_issued_once(db: Connection, bill_now: BillNow):
    home = Home(db)
    home.february()
    assert bill_now(bangkok(3)) == [("h1", "2026-02", 1)]
    assert bill_now(bangkok(3)) == []
    bill = issued_bill(db, "h1", FEBRUARY)
    assert bill is not None
    assert sha256_of(bill.text) == bill.sha256 == draft(db, known_tariffs(), "h1", FEBRUARY).sha256
    #  28 days of 96 quarter hours of 0.125 kWh
    assert (bill.document["energy_kwh"], bill.document["total"]) == ("336", str(bill.total))
    assert bill_of_id(db, bill.bill_id) == bill


def test_a_day_45_days_late_makes_a_second_version_beside_the_first(
    db: Connection, bill_now: BillNow
):
    late_day = (bangkok(2, 10), bangkok(2, 11))
    home = Home(db)
    home.used(bangkok(2), late_day[0], KWH // 8)
    home.used(*late_day, 0, quality=Quality.GAP)
    home.used(late_day[1], bangkok(3), KWH // 8)
    assert bill_now() == [("h1", "2026-02", 1)]
    first = issued_bill(db, "h1", FEBRUARY)
    assert first is not None
    assert first.document["by_quality"]["gap"]["quarter_hours"] == 96

    home.used(*late_day, KWH // 8)
    assert bill_now() == [("h1", "2026-02", 2)]
    assert bill_now() == []
    second = issued_bill(db, "h1", FEBRUARY)
    assert second is not None

    #  the same energy, all in time, in a home of its own
    scratch = Home(db, "scratch")
    scratch.february()
    assert bill_now() == [("scratch", "2026-02", 1)]
    from_scratch = issued_bill(db, "scratch", FEBRUARY)
    assert from_scratch is not None
    assert _but_home(second.document) == _but_home(from_scratch.document)

    assert second.adjustment is not None
    assert Decimal(second.adjustment["difference"]) == second.total - first.total > 0
    assert second.adjustment["energy_kwh"] == "12"
    assert issued_bill(db, "h1", FEBRUARY, version=1) == first
    before = second.issued_at - timedelta(microseconds=1)
    assert issued_bill(db, "h1", FEBRUARY, as_of=before) == first
    assert issued_bill(db, "h1", FEBRUARY, as_of=second.issued_at) == second
    assert issued_bill(db, "h1", FEBRUARY, as_of=bangkok(1)) is None
    assert versions_of(db, "h1") == [first, second]


def _but_home(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("home", "meters")}


def test_rows_that_change_and_say_the_same_make_no_version(db: Connection, bill_now: BillNow):
    home = Home(db)
    home.february()
    bill_now()
    home.february()  # higher revisions, the same energy
    assert bill_now() == []


def test_a_next_version_waits_until_its_ledger_rests(db: Connection, bill_now: BillNow):
    home = Home(db)
    home.february()
    bill_now()
    home.used(bangkok(2, 3), bangkok(2, 4), KWH)
    soon = db.execute("SELECT now()").fetchone()
    assert soon is not None
    assert bill_now(soon[0], billing_quiet_s=3600) == []
    assert bill_now(soon[0] + timedelta(hours=2), billing_quiet_s=3600) == [("h1", "2026-02", 2)]


def test_an_incomplete_cycle_waits_three_days_and_what_nobody_measured_is_shown(
    db: Connection, bill_now: BillNow
):
    home = Home(db)
    home.used(bangkok(2), bangkok(2, 28), KWH // 8)
    home.used(bangkok(2, 28), bangkok(3), KWH // 8, complete=False)
    db.execute(
        "DELETE FROM usage_15m WHERE window_start >= %s AND window_start < %s",
        [bangkok(2, 3), bangkok(2, 4)],
    )
    assert bill_now(bangkok(3, 4) - timedelta(seconds=1)) == []
    assert bill_now(bangkok(3, 4)) == [("h1", "2026-02", 1)]
    bill = issued_bill(db, "h1", FEBRUARY)
    assert bill is not None
    assert bill.document["by_quality"]["gap"] == {"energy_kwh": "0", "quarter_hours": 96}
    assert bill.document["energy_kwh"] == "324"


@pytest.mark.parametrize(
    "statement",
    ["UPDATE bill SET total = 0", "DELETE FROM bill", "TRUNCATE bill CASCADE"],
)
def test_an_issued_bill_cannot_be_changed_in_sql(db: Connection, bill_now: BillNow, statement: str):
    Home(db).february()
    bill_now()
    with pytest.raises(psycopg.errors.RestrictViolation, match="never changes"):
        db.execute(statement.encode())
    assert issued_bill(db, "h1", FEBRUARY) is not None


def test_what_is_missing_is_an_error_and_no_bill(db: Connection, bill_now: BillNow):
    def refused(home_id: str, error: type[Exception], said: str, month: Month = FEBRUARY) -> None:
        with pytest.raises(error, match=said):
            draft(db, known_tariffs(), home_id, month)

    set_home(db, "bare")
    refused("bare", BadUsage, "no tariff for 2026-02")

    gone = Home(db, "gone")
    db.execute("UPDATE contract SET tariff_id = 'mea-9' WHERE home_id = 'gone'")
    refused("gone", UnknownTariff, "mea-9")

    tou = Contract("mea-1.3.2", date(2026, 2, 1), 1, Decimal(15))
    future = Home(db, "future", tou, until=bangkok(12))
    future.used(bangkok(8), bangkok(11), KWH)
    refused("future", NotKnown, "the rates of 2026-10 are not known", Month(2026, 10))
    refused("gone", TariffError, "no tariff for 2020-01", Month(2020, 1))

    unmetered = Home(db, "unmetered")
    db.execute("DELETE FROM home_meter WHERE home_id = 'unmetered'")
    refused("unmetered", NoMeter, "no grid meter from")

    twice = Home(db, "twice")
    twice.meter(twice.channel("homesync:twice/meter", "l1"))
    refused("twice", AmbiguousMeters, "'l1'")

    for home in (gone, unmetered, twice):
        home.february()
    Home(db, "whole").february()
    assert bill_now(bangkok(3)) == [("whole", "2026-02", 1)]
    assert bill_now() == [("future", "2026-08", 1)]


def test_a_month_without_ft_has_no_bill(db: Connection):
    Home(db, until=datetime(2030, 1, 1, tzinfo=UTC))
    known = known_tariffs().surcharge("ft").customers["home"]
    after = max(value.until for value in known)
    with pytest.raises(NotKnown, match=f"ft of home customers is not known for {after}"):
        draft(db, known_tariffs(), "h1", after)


def test_three_large_months_move_the_category_and_late_data_moves_it_back(
    db: Connection, bill_now: BillNow
):
    home = Home(db, "h1", Contract("mea-1.1", date(2026, 2, 1), 1, Decimal(5)), bangkok(6))
    for month in (2, 3, 4, 5):
        home.used(bangkok(month), bangkok(month + 1), KWH // 15)  # 179 to 198 kWh
    issued = bill_now(bangkok(6))
    assert issued == [("h1", f"2026-{month:02d}", 1) for month in (2, 3, 4, 5)]
    assert [bill.tariff_id for bill in reversed(versions_of(db, "h1"))] == [
        *["mea-1.1"] * 3,
        "mea-1.2",
    ]

    home.used(bangkok(3), bangkok(3, 20), 0)
    assert bill_now() == [("h1", "2026-03", 2), ("h1", "2026-05", 2)]
    may = issued_bill(db, "h1", Month(2026, 5))
    assert may is not None
    assert may.tariff_id == "mea-1.1"


def test_a_contract_that_was_wrong_makes_another_version(db: Connection, bill_now: BillNow):
    home = Home(db)
    home.february()
    bill_now()
    tou = Contract("mea-1.3.2", date(2026, 2, 1), 1, Decimal(15))
    set_contract(db, "h1", tou, known_tariffs())
    assert bill_now() == [("h1", "2026-02", 2)]
    assert bill_now() == []


def test_other_tariff_data_make_each_bill_be_looked_at_again(db: Connection, bill_now: BillNow):
    home = Home(db)
    home.february()
    bill_now()
    for table in ("contract", "home_meter"):
        db.execute(f"UPDATE {table} SET set_at = set_at - interval '1 hour'".encode())
    db.execute("SET session_replication_role = replica")  # as if rated by other rates
    db.execute("UPDATE bill SET sha256 = repeat('0', 64)")
    db.execute("RESET session_replication_role")
    assert bill_now() == []
    assert bill_now(tariffs="other") == [("h1", "2026-02", 2)]


def test_another_tariff_and_a_device_alone_are_drafts(db: Connection):
    home = Home(db)
    home.february()
    tou = draft(db, known_tariffs(), "h1", FEBRUARY, "mea-1.3.2")
    assert (tou.bill.tariff_id, tou.document["contract"]) == ("mea-1.3.2", None)
    device = resolve_device(db, "homesync:h1/meter")
    alone = draft_of_device(db, known_tariffs(), device, FEBRUARY, "mea-1.3.2")
    assert alone.bill == tou.bill
    assert alone.document["by_quality"] == tou.document["by_quality"]
    none = draft_of_device(db, known_tariffs(), device, Month(2025, 2), "mea-1.3.2")
    assert none.document["energy_kwh"] == "0"
    assert none.document["by_quality"] == {"gap": {"energy_kwh": "0", "quarter_hours": 2688}}


def test_the_utilitys_bill_is_kept_and_replaced(db: Connection):
    Home(db)
    assert utility_bill(db, "h1", FEBRUARY) is None
    keep_utility_bill(db, "h1", FEBRUARY, {"total": Decimal("100.10")})
    keep_utility_bill(db, "h1", FEBRUARY, {"total": Decimal("100.20"), "vat": Decimal("7")})
    assert utility_bill(db, "h1", FEBRUARY) == {
        "total": Decimal("100.20"),
        "vat": Decimal("7"),
    }
