"""What the billing process does each minute: issue what is due, look again at what has changed."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog
from confluent_kafka import Producer
from prometheus_client import Counter
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.bill import BILL_ISSUED, BillIssued
from schemas.topics import COST
from sinks.advisory_locks import Lock
from sinks.bill_announcements import mark_announced, unannounced_bills
from sinks.billing_work import (
    HomeMonth,
    NotYet,
    changed,
    due,
    issue_when_final,
    issued_after,
    keep_progress,
    progress,
    reachable,
)
from sinks.bills import Issued
from sinks.contracts import HomeError
from streams.process import alone, outlast_outages
from streams.publish import Record, make_producer, publish
from streams.rounds import ROUNDS
from streams.tariffs.catalogue import Catalogue
from streams.tariffs.errors import TariffError

log = structlog.get_logger()

ISSUED = Counter("meterstream_bills_issued", "First versions of bills")
REISSUED = Counter("meterstream_bills_reissued", "Later versions of bills")
REFUSED = Counter("meterstream_bills_refused", "Times that something kept a bill from being made")
ANNOUNCED = Counter("meterstream_bills_announced", "Issued versions that Kafka has")
RETRIES = Counter("meterstream_billing_retries", "Rounds tried again after an outage")

_MOST_ANNOUNCED = 1_000
_SOURCE = "/meterstream/billing"


class BillingSettings(BaseSettings):
    """`billing_quiet_s`: how long a ledger must rest before a next version is made of it.

    `billing_wait_s`: after how long a bill that could not be issued is tried again.
    """

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    billing_pause_s: float = Field(default=60.0, gt=0)
    billing_quiet_s: float = Field(default=60.0, ge=0)
    billing_wait_s: float = Field(default=900.0, ge=0)
    metrics_port: int = Field(default=9104, ge=0, le=65535)


@dataclass
class Billing:
    """Rounds of work with one catalogue. It remembers what to leave alone for a while."""

    catalogue: Catalogue
    tariffs_sha256: str
    settings: BillingSettings
    _not_before: dict[HomeMonth, float] = field(default_factory=dict)

    def work_off(self, conn: psycopg.Connection[Any], now: datetime) -> list[Issued]:
        """One round at `now` (aware); what it issued."""
        return [*self._first_versions(conn, now), *self._next_versions(conn, now)]

    def _first_versions(self, conn: psycopg.Connection[Any], now: datetime) -> Iterable[Issued]:
        clock_s = time.monotonic()
        self._not_before = {work: at for work, at in self._not_before.items() if at > clock_s}
        for work in due(conn, self.catalogue, now):
            if work in self._not_before:
                continue
            try:
                if bill := self._issue(conn, work, now):
                    ISSUED.inc()
                    yield bill
                    continue
            except NotYet:
                pass
            self._not_before[work] = clock_s + self.settings.billing_wait_s

    def _next_versions(self, conn: psycopg.Connection[Any], now: datetime) -> Iterable[Issued]:
        """What changed stays in view until each bill of it was compared."""
        since = progress(conn)
        reached = reachable(conn, since, self.tariffs_sha256)
        again = since.tariffs_sha256 != self.tariffs_sha256
        works = deque(issued_after(conn) if again else changed(conn, self.catalogue, since))
        seen, settled = set(works), True
        while works:
            work = works.popleft()
            try:
                bill = self._issue(conn, work, now)
            except NotYet:
                settled = False
                continue
            if bill is None:
                continue
            REISSUED.inc()
            yield bill
            if self.catalogue.category(bill.tariff_id) is not None:
                later = issued_after(conn, work.home_id, bill.month)
                works.extend(one for one in later if one not in seen)
                seen.update(later)
        if settled and reached != since:
            keep_progress(conn, reached)

    def _issue(
        self, conn: psycopg.Connection[Any], work: HomeMonth, now: datetime
    ) -> Issued | None:
        ROUNDS.note()  # the bills of a month's end are many
        quiet = timedelta(seconds=self.settings.billing_quiet_s)
        try:
            bill = issue_when_final(conn, self.catalogue, work, now, quiet)
        except (TariffError, HomeError) as error:
            REFUSED.inc()
            log.warning("no bill", home=work.home_id, month=str(work.month), why=str(error))
            return None
        if bill is not None:
            log.info(
                "bill issued",
                home=bill.home_id,
                month=str(work.month),
                version=bill.version,
                total=str(bill.total),
                currency=bill.currency,
            )
        return bill


def run(billing: Billing, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set, one process at a time. An outage only slows it down."""
    producer = make_producer(bootstrap)

    def work(conn: psycopg.Connection[Any]) -> None:
        if not alone(conn, Lock.BILLING, stop):
            return
        announce(conn, producer)
        while not stop.is_set():
            billing.work_off(conn, datetime.now(UTC))
            announce(conn, producer)
            ROUNDS.note()
            ROUNDS.rest(stop, billing.settings.billing_pause_s)

    outlast_outages("billing", database_url, stop, work, RETRIES)


def announce(conn: psycopg.Connection[Any], producer: Producer) -> None:
    """Publish the issued versions that Kafka does not have yet, and wait until it has.

    Raises RuntimeError if Kafka refuses.
    """
    while told := unannounced_bills(conn, _MOST_ANNOUNCED):
        publish(producer, map(_record, told), _SOURCE)
        mark_announced(conn, told)
        ANNOUNCED.inc(len(told))


def _record(bill: BillIssued) -> Record:
    identity = f"bill/{bill.home_id}/{bill.month}/{bill.version}"
    return Record(COST, bill.home_id, identity, bill, BILL_ISSUED)
