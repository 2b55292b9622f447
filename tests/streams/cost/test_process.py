"""`python -m streams.cost` with real Kafka and TimescaleDB, killed with -9 again and again.

The quarter hours are put into the ledger by hand and announced by the roll-up's own code.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.local import Stack
from infra.local.topics import create_topics
from schemas.cost import BudgetAlert, BudgetPeriod, CostState, HomeCost, Level, Turn
from schemas.topics import ALERT, COST, USAGE_15M, Topic
from sinks.bill_drafts import draft
from sinks.budgets import set_budget
from sinks.contracts import set_contract, set_home
from sinks.costs import cost_of
from sinks.finality import log_ends
from streams.cost.settings import CostSettings
from streams.rollup import work_off
from streams.tariffs.contract import Contract, cycle_for, rate_contract
from streams.tariffs.ledger import Ledger
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import QUARTER, Month
from tests.databases import migrated_database
from tests.streams.running_process import LONGEST_S, RunningProcess
from tests.whole_topic import read_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

KNOWN = known_tariffs()
CONTRACT = Contract("mea-1.2", date(2025, 1, 1), 1, Decimal(30))
FEBRUARY = datetime(2026, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
DAYS, KILLS = 2, 4
REACHED = (Level.EXCEEDED, Level.WARNED)


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    create_topics(stack.kafka_bootstrap)
    return migrated_database(stack, "cost_tests")


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def process(stack: Stack, database_url: str, tmp_path: Path) -> Iterator[RunningProcess]:
    one = RunningProcess(
        "streams.cost", stack, database_url, tmp_path / "cost.log", METERSTREAM_COST_PAUSE_S="0.1"
    )
    yield one
    one.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LONGEST_S:.0f} s: {what}"
        time.sleep(0.05)


def read(stack: Stack, topic: Topic) -> list[tuple[str, bytes]]:
    """Identity and value of each record, in the order of its partition."""
    found = []
    for message in read_topic(stack.kafka_bootstrap, topic.name):
        headers = dict(message.headers() or [])
        if headers["ce_type"] != topic.name.encode():
            continue  # an issued bill of another test
        assert message.key() == b"h1"
        found.append((headers["ce_id"].decode(), message.value() or b""))
    return found


def new_home(conn: psycopg.Connection[Any]) -> int:
    set_home(conn, "h1")
    row = conn.execute(
        """
        WITH d AS (INSERT INTO device (address, family, home_id)
                   VALUES ('homesync:h1/meter', 'homesync', 'h1') RETURNING device_id)
        INSERT INTO channel (device_id, name) SELECT device_id, 'total' FROM d
        RETURNING channel_id"""
    ).fetchone()
    assert row is not None
    conn.execute(
        "INSERT INTO home_meter (home_id, channel_id, role, valid_from) "
        "VALUES ('h1', %s, 'grid', '1970-01-01Z')",
        [row[0]],
    )
    set_contract(conn, "h1", CONTRACT, KNOWN)
    return int(row[0])


def complete(
    conn: psycopg.Connection[Any], channel_id: int, start: datetime, energy_uwh: int
) -> None:
    """A quarter hour as the roll-up leaves it when it is complete, or was corrected."""
    conn.execute(
        """
        INSERT INTO usage_15m AS u (channel_id, window_start, energy_uwh, export_uwh, readings,
                                    quality, why, complete, revision)
        VALUES (%s, %s, %s, 0, 15, 0, 0, true, 1)
        ON CONFLICT (channel_id, window_start) DO UPDATE
        SET energy_uwh = excluded.energy_uwh, revision = u.revision + 1, changed_at = now(),
            announced = false""",
        (channel_id, start, energy_uwh),
    )


def bill_until(energies_uwh: list[int], quarters: int) -> Decimal:
    cycle = cycle_for(KNOWN, CONTRACT, Month(2026, 2))
    energy = np.zeros(cycle.quarters, np.int64)
    energy[:quarters] = energies_uwh[:quarters]
    ledger = Ledger(cycle.start, cycle.end, energy, energy * 0)
    return rate_contract(KNOWN, CONTRACT, Month(2026, 2), ledger).total


def test_killed_at_any_time_it_tells_no_wrong_cost_and_each_alert_once(
    stack: Stack, conn: psycopg.Connection[Any], process: RunningProcess
):
    """Two days of 9.6 kWh with a budget of 9 a day, four kills with -9, then a late correction."""
    chance = random.Random(7)
    channel_id = new_home(conn)
    budget = set_budget(
        conn, "h1", "day", BudgetPeriod.DAY, energy_kwh=Decimal(9), valid_from=date(2026, 1, 1)
    )
    energies = [10**8] * 96 * DAYS
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 0})
    due = threading.Semaphore(0)

    def feed() -> None:
        with psycopg.connect(conn.info.dsn, autocommit=True) as feeding:
            for index, energy in enumerate(energies):
                assert due.acquire(timeout=LONGEST_S)
                complete(feeding, channel_id, FEBRUARY + index * QUARTER, energy)
                work_off(feeding, producer)

    process.start()
    wait_for(lambda: cost_of(conn, "h1") is not None, "the process has seen the home")
    feeding = threading.Thread(target=feed)
    feeding.start()
    end = FEBRUARY + len(energies) * QUARTER
    for _ in range(KILLS):
        before = cost_of(conn, "h1").at
        due.release(len(energies) // KILLS)
        wait_for(lambda before=before: cost_of(conn, "h1").at not in (None, before), "it works")
        time.sleep(chance.uniform(0, 0.5))
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        process.start()
    feeding.join()
    settled(conn, end)

    wait_for(lambda: committed(stack) == log_ends(stack.kafka_bootstrap, USAGE_15M.name), "offsets")

    said = told_costs(stack)
    for cost in said:
        if cost.state is not CostState.RUNNING:
            assert (cost.state, cost.at) == (CostState.NO_ENERGY, None)
            continue
        quarters = (cost.at - FEBRUARY) // QUARTER
        assert Decimal(cost.cycle.with_service) == bill_until(energies, quarters)
        assert Decimal(cost.cycle.energy_kwh) == Decimal("0.1") * quarters
    assert said[-1].at == end
    bill = draft(conn, KNOWN, "h1", Month(2026, 2)).bill
    assert Decimal(said[-1].cycle.with_service) == bill.total

    alerts = told_alerts(stack)
    days = {FEBRUARY + 96 * number * QUARTER for number in range(DAYS)}
    told = [(one.start_at, one.level) for one in alerts if one.level is not Level.PROJECTED]
    assert sorted(told) == sorted((day, level) for day in days for level in REACHED)
    foretold = [one.start_at for one in alerts if one.level is Level.PROJECTED]
    assert len(foretold) == len(set(foretold)), "each once, where the process saw the day's start"
    assert {one.turn for one in alerts} == {Turn.RAISED}
    prefix = f"budget/{budget.budget_id}/day/2026-02-0"
    assert all(one.alert_id.startswith(prefix) for one in alerts)

    #  the first day was half of that: late, while nobody works
    process.wait_up()
    assert process.end(signal.SIGTERM) == 0
    for index in range(96):
        energies[index] //= 2
        complete(conn, channel_id, FEBRUARY + index * QUARTER, energies[index])
    while work_off(conn, producer):
        pass
    process.start()
    expected = bill_until(energies, len(energies))
    wait_for(
        lambda: Decimal(cost_of(conn, "h1").cycle.with_service) == expected, "the day is corrected"
    )
    settled(conn, end)
    assert Decimal(told_costs(stack)[-1].cycle.with_service) == expected
    cleared = [one for one in told_alerts(stack) if one.turn is Turn.CLEARED]
    assert [(one.level, one.turn) for one in cleared if one.start_at == FEBRUARY] == [
        (Level.WARNED, Turn.CLEARED),
        (Level.EXCEEDED, Turn.CLEARED),
    ]
    assert process.end(signal.SIGTERM) == 0


def settled(conn: psycopg.Connection[Any], end: datetime) -> None:
    """Wait until the cost reaches `end` and Kafka has all that the database has."""
    wait_for(lambda: cost_of(conn, "h1").at == end, f"the cost at {end}")
    left = (
        "SELECT (SELECT count(*) FROM home_cost WHERE NOT announced) "
        "+ (SELECT count(*) FROM budget_alert WHERE NOT announced)"
    )
    wait_for(lambda: conn.execute(left).fetchone() == (0,), "all is announced")


def committed(stack: Stack) -> dict[int, int]:
    """The group's offsets; 0 where it has none."""
    consumer = Consumer(
        {"bootstrap.servers": stack.kafka_bootstrap, "group.id": CostSettings().cost_group}
    )
    parts = [TopicPartition(USAGE_15M.name, part) for part in range(USAGE_15M.partitions)]
    found = {one.partition: max(one.offset, 0) for one in consumer.committed(parts, timeout=10)}
    consumer.close()
    return found


def told_costs(stack: Stack) -> list[HomeCost]:
    """By revision; one that came more than once said the same each time."""
    found: dict[str, bytes] = {}
    for identity, value in read(stack, COST):
        assert found.setdefault(identity, value) == value, identity
    costs = [msgspec.json.decode(value, type=HomeCost) for value in found.values()]
    assert set(found) == {f"h1/{cost.revision}" for cost in costs}
    return sorted(costs, key=lambda cost: cost.revision)


def told_alerts(stack: Stack) -> list[BudgetAlert]:
    found: dict[str, bytes] = {}
    for identity, value in read(stack, ALERT):
        assert found.setdefault(identity, value) == value, identity
    return [msgspec.json.decode(value, type=BudgetAlert) for value in found.values()]
