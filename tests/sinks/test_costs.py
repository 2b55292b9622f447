"""The cost job over a real database: what it reads, writes, and holds in memory."""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from schemas.cost import BudgetPeriod, CostState, Level, Turn
from sinks import costs
from sinks.bill_drafts import draft
from sinks.budgets import BadBudget, UnknownBudget, budgets, remove_budget, set_budget
from sinks.contracts import UnknownHome, set_contract, set_home
from streams.cost.job import CostJob
from streams.tariffs.contract import Contract
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
KNOWN = known_tariffs()
QUARTER, DAY = timedelta(minutes=15), timedelta(days=1)
FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
KWH = 10**9
UWH = 10**8
"""0.1 kWh, of a quarter hour: 9.6 kWh a day."""


def add_home(db: Connection, home_id: str, tariff_id: str | None = "mea-1.2") -> int:
    """A home with one meter that counts since ever; returns its channel."""
    set_home(db, home_id)
    address = f"homesync:{home_id}/meter"
    channel = db.execute(
        """
        WITH d AS (INSERT INTO device (address, family, home_id) VALUES (%s, 'homesync', %s)
                   RETURNING device_id)
        INSERT INTO channel (device_id, name) SELECT device_id, 'total' FROM d
        RETURNING channel_id""",
        (address, home_id),
    ).fetchone()
    assert channel is not None
    db.execute(
        "INSERT INTO home_meter (home_id, channel_id, role, valid_from) "
        "VALUES (%s, %s, 'grid', '1970-01-01Z')",
        (home_id, channel[0]),
    )
    if tariff_id is not None:
        contract = Contract(tariff_id, date(2025, 1, 1), 1, Decimal(30))
        set_contract(db, home_id, contract, KNOWN)
    return int(channel[0])


def fill(db: Connection, channel_id: int, start: datetime, energies_uwh: Sequence[int]) -> None:
    """Complete quarter hours from `start` on."""
    with db.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO usage_15m AS u (channel_id, window_start, energy_uwh, export_uwh, readings,
                                        quality, why, complete, revision)
            VALUES (%s, %s, %s, 0, 15, 0, 0, true, 1)
            ON CONFLICT (channel_id, window_start) DO UPDATE
            SET energy_uwh = excluded.energy_uwh, revision = u.revision + 1, changed_at = now()""",
            [
                (channel_id, start + index * QUARTER, energy)
                for index, energy in enumerate(energies_uwh)
            ],
        )


def told(channel_id: int, start: datetime, quarters: int) -> dict[int, set[int]]:
    """As the messages of these quarter hours tell them."""
    first_us = round(start.timestamp()) * 1_000_000
    return {channel_id: {first_us + index * 900_000_000 for index in range(quarters)}}


@pytest.fixture
def job(db: Connection) -> CostJob:
    return CostJob(db, KNOWN)


def cost_of(db: Connection, home_id: str = "h1"):
    found = costs.cost_of(db, home_id)
    assert found is not None
    return found


def test_the_running_cost_is_the_draft_of_the_bill(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    fill(db, channel_id, FEBRUARY - 20 * DAY, [UWH] * 96 * 30)
    job.terms_changed()
    cost = cost_of(db)
    assert (cost.state, cost.at) == (CostState.RUNNING, FEBRUARY + 10 * DAY)
    bill = draft(db, KNOWN, "h1", Month(2026, 2)).bill
    assert Decimal(cost.cycle.with_service) == bill.total
    assert cost.cycle.energy_kwh == "96"
    assert cost.tariff_id == bill.tariff_id


def test_use_moves_the_category_as_it_does_for_the_bill(db: Connection, job: CostJob):
    """A meter of 5 A above 150 kWh for three months is billed as 1.2 in the fourth."""
    channel_id = add_home(db, "h1", None)
    contract = Contract("mea-1.1", date(2025, 11, 1), 1, Decimal(5))
    set_contract(db, "h1", contract, KNOWN)
    november = datetime(2025, 10, 31, 17, tzinfo=UTC)
    fill(db, channel_id, november, [UWH] * 96 * (30 + 31 + 31 + 5))
    job.terms_changed()
    assert cost_of(db).tariff_id == "mea-1.2"
    bill = draft(db, KNOWN, "h1", Month(2026, 2)).bill
    assert (bill.tariff_id, bill.total) == ("mea-1.2", Decimal(cost_of(db).cycle.with_service))
    #  a late correction of December: 149 kWh
    fill(db, channel_id, november + 30 * DAY, [0] * 96 * 16)
    job.usage_changed(told(channel_id, november + 30 * DAY, 1))
    assert cost_of(db).tariff_id == "mea-1.1"
    bill = draft(db, KNOWN, "h1", Month(2026, 2)).bill
    assert (bill.tariff_id, bill.total) == ("mea-1.1", Decimal(cost_of(db).cycle.with_service))


def test_only_what_changed_is_read_again(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    fill(db, channel_id, FEBRUARY, [UWH] * 96 * 10)
    job.terms_changed()
    before = costs_read(job)
    end = FEBRUARY + 10 * DAY
    for number in range(3):
        fill(db, channel_id, end + number * QUARTER, [UWH])
        assert job.usage_changed(told(channel_id, end + number * QUARTER, 1)) == 1
    assert costs_read(job) - before == 3  # today, three times
    late = FEBRUARY + 2 * DAY
    fill(db, channel_id, late, [3 * UWH] * 96)
    job.usage_changed(told(channel_id, late, 96))
    assert costs_read(job) - before == 4
    assert (
        Decimal(cost_of(db).cycle.with_service) == draft(db, KNOWN, "h1", Month(2026, 2)).bill.total
    )
    assert cost_of(db).cycle.energy_kwh == "115.5"


def costs_read(_job: CostJob) -> float:
    from streams.cost.job import DAYS_READ

    return DAYS_READ._value.get()


def test_a_row_that_says_nothing_new_keeps_its_revision(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    fill(db, channel_id, FEBRUARY, [UWH] * 96)
    job.terms_changed()
    assert [one.revision for one in costs.unannounced_costs(db, 10)] == [1]
    costs.mark_announced(db, costs.unannounced_costs(db, 10), [])
    job.usage_changed(told(channel_id, FEBRUARY, 96))
    assert costs.unannounced_costs(db, 10) == []
    fill(db, channel_id, FEBRUARY, [2 * UWH])
    job.usage_changed(told(channel_id, FEBRUARY, 1))
    (told_again,) = costs.unannounced_costs(db, 10)
    assert told_again.revision == 2
    told_again.revision = 1
    costs.mark_announced(db, [told_again], [])
    assert len(costs.unannounced_costs(db, 10)) == 1, "Kafka has the first one only"


def test_homes_without_meter_contract_or_energy_say_so(db: Connection, job: CostJob):
    add_home(db, "no-energy")
    fill(db, add_home(db, "no-contract", None), FEBRUARY, [UWH])
    set_home(db, "no-meter")
    set_contract(db, "no-meter", Contract("mea-1.2", date(2025, 1, 1), 1, Decimal(30)), KNOWN)
    channel_id = add_home(db, "late-meter")
    fill(db, channel_id, FEBRUARY, [UWH] * 96)
    db.execute(
        "UPDATE home_meter SET valid_from = %s WHERE channel_id = %s",
        (FEBRUARY + timedelta(hours=1), channel_id),
    )
    assert job.terms_changed() == 4
    found = {one.home_id: one for one in costs.unannounced_costs(db, 10)}
    assert {home_id: one.state for home_id, one in found.items()} == {
        "no-energy": CostState.NO_ENERGY,
        "no-contract": CostState.NO_CONTRACT,
        "no-meter": CostState.NO_METER,
        "late-meter": CostState.NO_METER,
    }
    assert "meterstream meter set" in found["late-meter"].problem
    assert "meterstream meter set" in found["no-meter"].problem
    assert job.terms_changed() == 0


def test_a_contract_that_is_set_later_is_heard_of(db: Connection, job: CostJob):
    fill(db, add_home(db, "h1", None), FEBRUARY, [UWH] * 96)
    job.terms_changed()
    set_contract(db, "h1", Contract("mea-1.2", date(2026, 2, 1), 1, Decimal(30)), KNOWN)
    assert job.terms_changed() == 1
    assert cost_of(db).state is CostState.RUNNING


def test_many_homes_are_read_by_few_queries(db: Connection, job: CostJob):
    """120 homes, three batches; what each costs is its own."""
    changed: dict[int, set[int]] = {}
    for number in range(120):
        channel_id = add_home(db, f"home-{number:03d}")
        fill(db, channel_id, FEBRUARY, [UWH * (number + 1)] * 4)
        changed |= told(channel_id, FEBRUARY, 4)
    assert job.usage_changed(changed) == 120
    for number in (0, 57, 119):
        used = Decimal(cost_of(db, f"home-{number:03d}").today.energy_kwh)
        assert used == Decimal("0.4") * (number + 1)


def test_two_meters_of_a_home_are_added(db: Connection, job: CostJob):
    first, second = add_home(db, "h1"), add_home(db, "h2")
    db.execute("DELETE FROM home_meter WHERE channel_id = %s", [second])
    db.execute(
        "INSERT INTO home_meter VALUES ('h1', %s, 'grid', %s, NULL)", (second, FEBRUARY + QUARTER)
    )
    fill(db, first, FEBRUARY, [UWH] * 4)
    fill(db, second, FEBRUARY, [10 * UWH] * 3)
    job.terms_changed()
    assert cost_of(db).today.energy_kwh == "2.4"
    assert cost_of(db).at == FEBRUARY + 4 * QUARTER


def test_what_is_held_in_memory_is_what_a_new_process_reads(db: Connection, job: CostJob):
    """Forty rounds of rows that come, come late, or are corrected: a new one says the same."""
    chance = random.Random(11)
    channel_id = add_home(db, "h1")
    budget = {"valid_from": date(2026, 1, 1), "amount": Decimal(300)}
    set_budget(db, "h1", "day", BudgetPeriod.DAY, **budget)
    set_budget(db, "h1", "month", BudgetPeriod.MONTH, **budget)
    fill(db, channel_id, FEBRUARY - 20 * DAY, [UWH] * 96 * 25)
    job.terms_changed()
    at = FEBRUARY + 5 * DAY
    for _ in range(40):
        count = chance.choice((1, 1, 4, 96, 130))
        start = at
        if chance.random() < 0.4:
            start = at - chance.randrange(1, 96 * 24) * QUARTER
        fill(db, channel_id, start, [chance.randrange(3 * UWH) for _ in range(count)])
        at = max(at, start + count * QUARTER)
        job.usage_changed(told(channel_id, start, count))
        known = cost_of(db)
        assert known.at == at
        CostJob(db, KNOWN).usage_changed(told(channel_id, start, count))
        assert cost_of(db) == known
    bill = draft(db, KNOWN, "h1", Month(*map(int, known.month.split("-")))).bill
    assert Decimal(known.cycle.with_service) == bill.total


def test_rows_of_a_meter_that_does_not_count_any_more_change_nothing(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    set_budget(
        db, "h1", "day", BudgetPeriod.DAY, energy_kwh=Decimal(5), valid_from=date(2026, 1, 1)
    )
    fill(db, channel_id, FEBRUARY, [UWH] * 96 * 3)
    db.execute("UPDATE home_meter SET valid_to = %s", [FEBRUARY + DAY])
    job.terms_changed()
    known = cost_of(db)
    assert (known.at, known.today.energy_kwh) == (FEBRUARY + DAY, "9.6")
    job.usage_changed(told(channel_id, FEBRUARY + 2 * DAY, 96))
    assert cost_of(db) == known
    assert {one[0].split("/")[3] for one in alerts(db)} == {"2026-02-01"}


# ---------------------------------------------------------------- budgets


def alerts(db: Connection) -> list[tuple[str, Level, Turn]]:
    rows = reversed(costs.alerts_of(db, "h1", 100))
    return [(one.alert_id, one.level, one.turn) for one in rows]


def test_each_alert_is_written_once_also_by_a_new_process(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    budget = set_budget(
        db, "h1", "day", BudgetPeriod.DAY, energy_kwh=Decimal(9), valid_from=date(2026, 1, 1)
    )
    identity = f"budget/{budget.budget_id}/day/2026-02-01"
    job.terms_changed()
    for number in range(96):
        fill(db, channel_id, FEBRUARY + number * QUARTER, [UWH])
        one = job if number % 2 else CostJob(db, KNOWN)  # as after a crash
        one.usage_changed(told(channel_id, FEBRUARY, number + 1))
    #  projected 9.6 at once; 7.2 kWh after 72 quarter hours; 9 after 90
    assert alerts(db) == [
        (f"{identity}/1", Level.PROJECTED, Turn.RAISED),
        (f"{identity}/2", Level.WARNED, Turn.RAISED),
        (f"{identity}/3", Level.EXCEEDED, Turn.RAISED),
    ]
    assert [one.at for one in reversed(costs.alerts_of(db, "h1", 9))] == [
        FEBRUARY + QUARTER,
        FEBRUARY + 72 * QUARTER,
        FEBRUARY + 90 * QUARTER,
    ]


def test_late_data_clears_an_alert_of_a_day_that_is_over(db: Connection, job: CostJob):
    channel_id = add_home(db, "h1")
    set_budget(
        db, "h1", "day", BudgetPeriod.DAY, energy_kwh=Decimal(15), valid_from=date(2026, 1, 1)
    )
    fill(db, channel_id, FEBRUARY, [2 * UWH] * 96 + [UWH] * 96 * 40)
    job.usage_changed(told(channel_id, FEBRUARY, 1))
    assert [one[1:] for one in alerts(db)] == [
        (Level.WARNED, Turn.RAISED),
        (Level.EXCEEDED, Turn.RAISED),
    ]
    fill(db, channel_id, FEBRUARY, [UWH] * 96)
    job.usage_changed(told(channel_id, FEBRUARY, 96))
    assert [one[1:] for one in alerts(db)][2:] == [
        (Level.WARNED, Turn.CLEARED),
        (Level.EXCEEDED, Turn.CLEARED),
    ]
    assert cost_of(db).budgets[0].used == "9.6"


def test_a_greater_budget_takes_its_alerts_back(db: Connection, job: CostJob):
    fill(db, add_home(db, "h1"), FEBRUARY, [UWH] * 96)
    given = {"valid_from": date(2026, 1, 1)}
    set_budget(db, "h1", "b", BudgetPeriod.CYCLE, amount=Decimal(50), **given)
    job.terms_changed()
    set_budget(db, "h1", "b", BudgetPeriod.CYCLE, amount=Decimal(5000))
    assert budgets(db, "h1")[0].valid_from == date(2026, 1, 1)
    job.terms_changed()
    assert [one[1:] for one in alerts(db)] == [
        (Level.WARNED, Turn.RAISED),
        (Level.EXCEEDED, Turn.RAISED),
        (Level.WARNED, Turn.CLEARED),
        (Level.EXCEEDED, Turn.CLEARED),
    ]


def test_the_same_budget_again_is_no_change_and_another_period_another_budget(
    db: Connection, job: CostJob
):
    set_home(db, "h1")
    first = set_budget(db, "h1", "b", BudgetPeriod.DAY, amount=Decimal("40.50"))
    db.execute("TRUNCATE cost_dirty")
    assert set_budget(db, "h1", "b", BudgetPeriod.DAY, amount=Decimal("40.5")) == first
    assert job.terms_changed() == 0
    month = set_budget(db, "h1", "b", BudgetPeriod.MONTH, amount=Decimal(40))
    assert month.budget_id != first.budget_id
    assert job.terms_changed() == 1
    assert budgets(db, "h1") == [month]
    remove_budget(db, "h1", "b")
    with pytest.raises(UnknownBudget, match="budget list"):
        remove_budget(db, "h1", "b")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "money or of energy"),
        ({"amount": Decimal(1), "energy_kwh": Decimal(1)}, "one of them"),
        ({"amount": Decimal(0)}, "above 0"),
        ({"energy_kwh": Decimal("NaN")}, "above 0"),
        (
            {"amount": Decimal(5), "valid_from": date(2026, 2, 2), "valid_to": date(2026, 2, 2)},
            "later",
        ),
    ],
)
def test_a_budget_that_cannot_be_says_why(db: Connection, given, why: str):
    set_home(db, "h1")
    with pytest.raises(BadBudget, match=why):
        set_budget(db, "h1", "b", BudgetPeriod.DAY, **given)
    assert budgets(db, "h1") == []


def test_a_budget_needs_a_home(db: Connection):
    with pytest.raises(UnknownHome, match="home set"):
        set_budget(db, "nobody", "b", BudgetPeriod.DAY, amount=Decimal(1))
