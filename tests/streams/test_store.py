"""What a transaction of the stream leaves in the database."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from schemas.decoded import Decoded, Reason
from schemas.device import State
from schemas.reading import Source
from schemas.topics import RAW
from schemas.units import SECOND_US
from sinks.copy_block import ReadingRow
from sinks.migrate import migrate
from sinks.progress import FencedOut, take_over
from streams.energy import Limits
from streams.partition import Channel, Device, Partition
from streams.records import Chunk, Message
from streams.store import Store
from streams.work import Advance, StateChange, Work
from tests.value_rows import value_row

pytestmark = pytest.mark.stack

_DATABASE = "store_tests"
T0 = 1_763_700_000 * SECOND_US
BEYOND_TIME = 9_223_372_036_854_775_000 + 946_684_800_000_000 - 400
"""Fits eight bytes, and PostgreSQL has no such instant."""

Connection = psycopg.Connection[Any]


@pytest.fixture
def db(stack: Stack) -> Iterator[Connection]:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {_DATABASE}".encode())
        conn.execute(f"CREATE DATABASE {_DATABASE}".encode())
    url = stack.database_url.rpartition("/")[0] + f"/{_DATABASE}"
    migrate(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("INSERT INTO device (address, family) VALUES ('homesync:h/n1', 'homesync')")
        conn.execute("INSERT INTO channel (device_id, name) VALUES (1, 'total')")
        yield conn


def work_of(db: Connection, rows: list[ReadingRow], late: list[ReadingRow]) -> Work:
    """A transaction of a partition, each row from a message of its own."""
    taken = take_over(db, RAW.name, 3)
    partition = Partition(3, taken.epoch, 0, 0, 0, {})
    limits = Limits(300 * SECOND_US, 10**8)
    device = Device(1, "homesync:h/n1", (), limits)
    device.channels["total"] = Channel(1, "total", device, None)
    partition.devices[device.address] = device
    messages = [
        Message(row[3], T0, Source.MQTT, Decoded(device.address), "a/b", b"%d" % row[3], None)
        for row in rows + late
    ]
    end = max(row[3] for row in rows + late) + 1
    return Work(
        advances=[Advance(3, taken.epoch, 0, end, T0, {})],
        rows=rows,
        late_rows=late,
        chunks=[Chunk(partition, list(messages), end)],
    )


def row(at_us: int, offset: int) -> ReadingRow:
    return (1, at_us, T0, offset, None, 0, 0, value_row(power_w=float(offset)))


@pytest.mark.parametrize("is_late", [False, True])
def test_a_row_that_cannot_be_stored_is_refused_alone(db: Connection, is_late: bool):
    good = [row(T0 + i, i) for i in range(6)]
    poisoned = [*good[:3], row(BEYOND_TIME, 7), *good[3:]]
    work = work_of(db, [] if is_late else poisoned, poisoned if is_late else [])
    Store(db).store(work, {})
    stored = db.execute("SELECT log_offset, power_w FROM readings ORDER BY 1").fetchall()
    assert stored == [(i, float(i)) for i in range(6)]
    assert work.stored == 6
    refused = db.execute("SELECT part, log_offset, address, reason, payload FROM refused")
    assert refused.fetchall() == [(3, 7, "homesync:h/n1", Reason.UNSTORABLE.value, b"7")]
    assert [r.offset for r in work.refused] == [7], "and announced as refused"
    assert db.execute("SELECT next_offset FROM stream_progress").fetchone() == (8,)


def test_a_transaction_whose_answer_was_lost_is_not_stored_twice(db: Connection):
    work = work_of(db, [row(T0, 0)], [])
    store = Store(db)
    store.store(work, {})
    store.store(work, {})
    assert db.execute("SELECT count(*) FROM readings").fetchone() == (1,)


def test_nothing_is_stored_for_a_partition_that_somebody_else_has_taken(db: Connection):
    work = work_of(db, [row(T0, 0)], [row(T0 - 1, 1)])
    take_over(db, RAW.name, 3)
    with pytest.raises(FencedOut):
        Store(db).store(work, {})
    assert db.execute("SELECT count(*) FROM readings").fetchone() == (0,)


def test_each_change_of_a_relay_keeps_what_its_own_message_named_as_the_cause(db: Connection):
    """A command and the wall switch within one transaction: neither takes the other's word."""
    work = work_of(db, [row(T0, 0)], [])
    device = work.chunks[0].partition.devices["homesync:h/n1"]
    work.states = [
        StateChange(device, offset, State(T0 + offset, fields, "relay:0"))
        for offset, fields in enumerate(
            [
                {"relay": False},
                {"relay": True, "switched_by": "command"},
                {"relay": False, "switched_by": "wall"},
                {"switched_by": "timer"},
                {"relay": True},
            ]
        )
    ]
    Store(db).store(work, {})
    told = db.execute("SELECT was_on, is_on, said_by FROM command_answer ORDER BY answer_no")
    assert told.fetchall() == [
        (None, False, None), (False, True, "command"), (True, False, "wall"), (False, True, None),
    ]  # fmt: skip
