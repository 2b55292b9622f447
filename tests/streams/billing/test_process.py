"""`python -m streams.billing` beside a real database and Kafka: killed, cut off, two of them."""

import signal
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from infra.local import Stack
from infra.local.topics import create_topics
from schemas.bill import BILL_ISSUED, BillIssued
from schemas.topics import COST
from sinks.advisory_locks import Lock
from sinks.contracts import set_contract, set_home
from streams.tariffs.contract import Contract
from streams.tariffs.loading import known_tariffs
from tests.databases import migrated_database
from tests.streams.running_process import LONGEST_S, RunningProcess
from tests.whole_topic import read_topic

pytestmark = pytest.mark.stack

HOMES = 25
FEBRUARY = datetime(2025, 1, 31, 17, tzinfo=UTC)  # midnight in Bangkok
MARCH = datetime(2025, 2, 28, 17, tzinfo=UTC)


@pytest.fixture
def conn(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A database of homes that each used 168 kWh in February 2025; no process looks at it yet."""
    create_topics(stack.kafka_bootstrap)
    with psycopg.connect(migrated_database(stack, "billing_tests"), autocommit=True) as connection:
        for number in range(HOMES):
            home_id = f"h{number:02d}"
            set_home(connection, home_id)
            contract = Contract("mea-1.2", date(2025, 2, 1), 1, Decimal(15))
            set_contract(connection, home_id, contract, known_tariffs())
            connection.execute(
                "WITH d AS (INSERT INTO device (address, family) VALUES (%s, 'homesync') "
                "RETURNING device_id), "
                "c AS (INSERT INTO channel (device_id, name) SELECT device_id, 'total' FROM d "
                "RETURNING channel_id), "
                "m AS (INSERT INTO home_meter (home_id, channel_id, role, valid_from, valid_to) "
                "SELECT %s, channel_id, 'grid', %s, %s FROM c) "
                "INSERT INTO usage_15m (channel_id, window_start, energy_uwh, export_uwh, "
                "readings, quality, why, complete, revision) "
                "SELECT channel_id, at, 62500000, 0, 15, 0, 0, true, 1 "
                "FROM c, generate_series(%s::timestamptz, %s, interval '15 minutes') AS at",
                [
                    *(f"homesync:{home_id}/meter", home_id, FEBRUARY, MARCH),
                    *(FEBRUARY, MARCH - timedelta(minutes=15)),
                ],
            )
        yield connection


@pytest.fixture
def process(
    stack: Stack, conn: psycopg.Connection[Any], tmp_path: Path
) -> Iterator[RunningProcess]:
    info = conn.info
    url = f"postgresql://{info.user}@{info.host}:{info.port}/{info.dbname}"
    one = RunningProcess(
        "streams.billing", stack, url, tmp_path / "billing.log",
        METERSTREAM_BILLING_PAUSE_S="0.2", METERSTREAM_BILLING_QUIET_S="0",
    )  # fmt: skip
    yield one
    one.close()


def test_each_bill_is_issued_once_through_kills_a_rival_and_a_cut_connection(
    stack: Stack, conn: psycopg.Connection[Any], process: RunningProcess
):
    # the running cost's process of this database: it must keep nobody from billing
    conn.execute("SELECT pg_advisory_lock(%s)", [Lock.COST])

    def bills(version: int) -> int:
        query = "SELECT count(*) FROM bill WHERE version = %s"
        ((count,),) = conn.execute(query, [version]).fetchall()
        return int(count)

    def wait_for(count: int, version: int) -> None:
        deadline = time.monotonic() + LONGEST_S
        while bills(version) < count:
            assert time.monotonic() < deadline, f"{bills(version)} of {count} bills"
            time.sleep(0.05)

    process.start()
    wait_for(1, 1)
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert bills(1) < HOMES, "killed too late to say anything"

    process.start()
    process.start()
    wait_for(HOMES, 1)

    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'meterstream-billing' AND datname = current_database()"
    )
    conn.execute(
        "UPDATE usage_15m SET energy_uwh = 0, revision = 2, changed_at = now() "
        "WHERE window_start = %s AND channel_id <= 3",
        [FEBRUARY],
    )
    wait_for(3, 2)
    deadline = time.monotonic() + LONGEST_S
    while conn.execute("SELECT count(*) FROM bill_announcement").fetchone() != (0,):
        assert time.monotonic() < deadline, "all is announced"
        time.sleep(0.05)
    assert process.all_run
    assert [process.end(signal.SIGTERM), process.end(signal.SIGTERM)] == [0, 0]
    assert (bills(1), bills(2), bills(3)) == (HOMES, 3, 0)
    ((differing,),) = conn.execute(
        "SELECT count(DISTINCT total) FROM bill WHERE version = 1"
    ).fetchall()
    assert differing == 1

    told = told_bills(stack)
    stored = conn.execute(
        "SELECT home_id, to_char(month, 'YYYY-MM'), version, sha256, total::text, "
        "adjustment ->> 'difference' FROM bill"
    ).fetchall()
    assert len(stored) == HOMES + 3
    assert {
        identity: (one.home_id, one.month, one.version, one.sha256, one.total, one.difference)
        for identity, one in told.items()
    } == {f"bill/{row[0]}/{row[1]}/{row[2]}": row for row in stored}


def told_bills(stack: Stack) -> dict[str, BillIssued]:
    """By identity; what came more than once said the same each time."""
    found: dict[str, BillIssued] = {}
    for message in read_topic(stack.kafka_bootstrap, COST.name):
        headers = dict(message.headers() or [])
        if headers["ce_type"].decode() != BILL_ISSUED:
            continue
        said = msgspec.json.decode(message.value() or b"", type=BillIssued)
        assert message.key() == said.home_id.encode()
        assert found.setdefault(headers["ce_id"].decode(), said) == said
    return found
