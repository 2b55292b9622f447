"""Bills and running costs under faults: a street of homes whose days come late, one at a time.

Most of a past month is in the log before the first fault; each day that is held back makes a next
version of a bill, another running cost, and what is told of both. In the end every bill is the one
that the registers alone make, and each version of it was told.
"""

import random
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from infra.bench.log import LogWriter
from infra.local import Stack
from infra.trials.month import AROUND, Arrival
from infra.trials.street import PureBill, Street, street
from schemas.bill import BILL_ISSUED, BillIssued
from schemas.cost import HomeCost
from schemas.topics import COST
from schemas.units import DAY_US, SECOND_US
from sinks.bills import Issued, versions_of
from sinks.costs import cost_of
from sinks.finality import NotFinal, log_ends, wait_final

READINGS, HOMES = 30_000, 2
HELD_BACK_DAYS = 10
BETWEEN_DAYS_S = 4.0
SETTLED_WITHIN_S = 300.0
LOOK_S = 0.5


class Money:
    """A street of a stack. While the block runs, days that were held back come late."""

    def __init__(self, stack: Stack, name: str, seed: int) -> None:
        self._stack = stack
        self._street: Street = street(name, READINGS, HOMES, seed)
        self._out = LogWriter(stack.kafka_bootstrap)
        self._received_us = (self._street.month.at_s(0)) * SECOND_US + 40 * DAY_US
        self._late = self._held_back(random.Random(seed))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="late days")

    def __enter__(self) -> Self:
        with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
            self._street.set_up(conn)
        late = set(self._late)
        month = self._street.month
        for home in self._street.homes:
            for day in range(-1, month.cycle.days + 1):
                if (home, day) not in late:
                    self._write(home, day)
        self._out.flush()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def settle(self) -> list[str]:
        """Send what is still held back, wait until all is billed; what is not as it should be."""
        self._stopping.set()
        self._thread.join()
        while self._late:
            self._write(*self._late.pop())
        self._out.flush()
        try:
            wait_final(
                self._stack.database_url,
                self._stack.kafka_bootstrap,
                self._street.addresses,
                timeout_s=SETTLED_WITHIN_S,
            )
        except NotFinal as error:
            return [f"the ledgers of the bills: {error}"]
        until = time.monotonic() + SETTLED_WITHIN_S
        while (wrong := self._wrong()) and time.monotonic() < until:
            time.sleep(LOOK_S)
        return wrong or self._untold()

    # ---- the days

    def _held_back(self, chance: random.Random) -> list[tuple[int, int]]:
        days = range(self._street.month.cycle.days)
        return chance.sample(
            [(home, day) for home in self._street.homes for day in days],
            HELD_BACK_DAYS * HOMES,
        )

    def _deliver(self) -> None:
        while self._late and not self._stopping.wait(BETWEEN_DAYS_S):
            self._write(*self._late.pop())

    def _write(self, home: int, day: int) -> None:
        """The readings of a civil day; the days around the month hold what is around it."""
        month = self._street.month
        a_day = 86_400 // month.step_s
        numbers = np.flatnonzero(month.kept[home])
        wanted = numbers[(numbers - AROUND) // a_day == day]
        self._street.write(self._out, self._arriving(home, wanted.tolist()))

    def _arriving(self, home: int, numbers: list[int]) -> Iterator[Arrival]:
        for number in numbers:
            self._received_us += 1
            yield Arrival(home, number, self._received_us)

    # ---- what became of them

    def _wrong(self) -> list[str]:
        """What the tables do not say as the registers do; empty when they do."""
        with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
            found = [
                f"{home_id}: its ledger is not what its register says"
                for home_id in sorted(self._street.other_ledgers(conn))
            ]
            for home_id, bill in self._street.bills().items():
                found += wrong_bills(home_id, versions_of(conn, home_id), bill)
                found += wrong_cost(home_id, cost_of(conn, home_id), bill)
            ((waiting,),) = conn.execute(
                "SELECT (SELECT count(*) FROM bill_announcement) "
                "+ (SELECT count(*) FROM home_cost WHERE NOT announced)"
            ).fetchall()
        return found + [f"{waiting} bills and costs are not announced"] * bool(waiting)

    def _untold(self) -> list[str]:
        """What `energy.cost.v1` does not say of the newest costs and of each version of a bill."""
        told = told_of(self._stack.kafka_bootstrap, set(self._street.bills()))
        with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
            stored: set[Any] = set()
            for home_id in self._street.bills():
                stored |= {(home_id, one.version, one.sha256) for one in versions_of(conn, home_id)}
                cost = cost_of(conn, home_id)
                stored.add((home_id, None if cost is None else cost.revision))
        return [f"{COST.name} does not tell of {one}" for one in sorted(stored - told, key=str)]


def wrong_bills(home_id: str, versions: list[Issued], wanted: PureBill) -> list[str]:
    """Whether the versions follow each other, say their differences, and end where they must."""
    if not versions:
        return [f"{home_id} has no bill"]
    found = []
    if [one.version for one in versions] != list(range(1, len(versions) + 1)):
        found.append(f"{home_id} has the versions {[one.version for one in versions]}")
    for before, after in pairwise(versions):
        difference = Decimal((after.adjustment or {}).get("difference", "NaN"))
        if difference != after.total - before.total:
            found.append(f"{home_id}: version {after.version} says a difference of {difference}")
        if before.sha256 == after.sha256:
            found.append(f"{home_id}: version {after.version} changes nothing")
    if versions[-1].sha256 != wanted.sha256:
        found.append(
            f"{home_id}: version {versions[-1].version} of {versions[-1].total} is not the bill of "
            f"its registers, {wanted.total}"
        )
    return found


def wrong_cost(home_id: str, cost: HomeCost | None, wanted: PureBill) -> list[str]:
    """Whether the cost of the cycle so far, which is over, is its bill."""
    if cost is None or cost.cycle is None:
        return [f"{home_id} has no running cost: {cost}"]
    if Decimal(cost.cycle.with_service) != wanted.total:
        return [f"{home_id}: the cost is {cost.cycle.with_service}, the bill {wanted.total}"]
    return []


def told_of(bootstrap: str, homes: set[str]) -> set[Any]:
    """(home, version, hash) of each bill and (home, revision) of each cost on `energy.cost.v1`."""
    ends = {part: end for part, end in log_ends(bootstrap, COST.name).items() if end}
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap, "group.id": "meterstream-chaos",
        "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0,
    }  # fmt: skip
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(COST.name, part, OFFSET_BEGINNING) for part in ends])
    left, told = set(ends), set[Any]()
    until = time.monotonic() + SETTLED_WITHIN_S
    try:
        while left:
            if time.monotonic() > until:
                raise TimeoutError(f"{COST.name}: partitions {sorted(left)} are not read")
            for message in consumer.consume(5000, 0.2):
                if message.error():
                    left.discard(message.partition())
                elif (message.key() or b"").decode() in homes:
                    told.add(_told(message.headers() or [], message.value() or b""))
    finally:
        consumer.close()
    return told


def _told(headers: Any, value: bytes) -> tuple[object, ...]:
    if dict(headers)["ce_type"].decode() == BILL_ISSUED:
        bill = msgspec.json.decode(value, type=BillIssued)
        return bill.home_id, bill.version, bill.sha256
    cost = msgspec.json.decode(value, type=HomeCost)
    return cost.home_id, cost.revision
