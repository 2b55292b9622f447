"""By which limits a channel's windows were made is stored with the windows, whoever makes them."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from schemas.units import MINUTE_US
from sinks.device_registry import changed_devices
from sinks.stored_checks import channel_facts
from streams.fold import fold, missing_channels
from streams.partition import Partition
from streams.records import decode_chunks
from streams.registry_changes import apply
from streams.store import Store
from streams.takeover import resolve, take_over
from tests.databases import migrated_database
from tests.streams.test_fold import Log

pytestmark = pytest.mark.stack

PART = 3

Connection = psycopg.Connection[Any]


@pytest.fixture
def db(stack: Stack) -> Iterator[Connection]:
    with psycopg.connect(migrated_database(stack, "limits_tests"), autocommit=True) as conn:
        yield conn


class Worker:
    """Reads a log that goes on wherever the worker before has stopped."""

    def __init__(self, db: Connection, log: Log) -> None:
        self.db, self.log = db, log
        self.partition: Partition = take_over(db, PART)

    def follow(self) -> None:
        apply([self.partition], changed_devices(self.db, 0))

    def store(self) -> None:
        records, self.log.waiting = self.log.waiting, []
        chunks, samples = decode_chunks([(self.partition, records)])
        resolve(self.db, missing_channels(chunks), {PART: self.partition})
        Store(self.db).store(fold(chunks, samples), {})


def test_limits_are_known_with_the_first_window_that_they_judge(db: Connection):
    log = Log()
    seconds = iter(range(0, 100_000, 30))

    def speak(times: int) -> None:
        for _ in range(times):
            second = next(seconds)
            log.reading(second, seq=second, power_w=100.0)
            log.tick(second)

    def known() -> tuple[int | None, int | None, int | None]:
        """Gap limit, power, and since when, as `verify` takes them."""
        (facts,) = channel_facts(db, [1])
        return facts.gap_limit_s, facts.max_power_w, facts.limits_since_us

    def complete_until_us() -> int:
        (facts,) = channel_facts(db, [1])
        assert facts.complete_until_us is not None
        return facts.complete_until_us

    first = Worker(db, log)
    speak(20)
    first.store()
    assert known() == (300, 100_000, None)

    db.execute("UPDATE device SET gap_limit_s = 60")
    assert known() == (300, 100_000, None), "until the worker judges by it"
    first.follow()
    judged_from_us = complete_until_us()
    speak(1)
    first.store()
    assert known() == (60, 100_000, judged_from_us)
    first.follow()
    speak(20)
    first.store()
    assert known() == (60, 100_000, judged_from_us), "it has not changed since"
    assert complete_until_us() >= judged_from_us + 9 * MINUTE_US

    db.execute("UPDATE device SET max_power_w = 5000")
    judged_from_us = complete_until_us()
    second = Worker(db, log)
    speak(10)
    second.store()
    assert known() == (60, 5000, judged_from_us), "changed while nobody worked"

    third = Worker(db, log)
    speak(10)
    third.store()
    assert known() == (60, 5000, judged_from_us)
