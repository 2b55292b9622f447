"""`python -m streams.cost`: keeps every home's running cost and budgets, and tells of them."""

import threading
from typing import Any

import msgspec
import psycopg
import structlog
from confluent_kafka import Consumer, Message, Producer
from prometheus_client import Counter

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.cost import BudgetAlert, HomeCost
from schemas.topics import ALERT, COST, USAGE_15M
from schemas.usage import UsageWindow
from sinks import costs
from sinks.advisory_locks import Lock
from streams.cost.job import CostJob
from streams.cost.settings import CostSettings
from streams.following import commit_after, following
from streams.process import alone, outlast_outages, run_process
from streams.publish import Record, make_producer, publish
from streams.rounds import ROUNDS
from streams.tariffs.loading import known_tariffs

log = structlog.get_logger()

WINDOWS = Counter("meterstream_cost_windows", "Quarter hours taken from Kafka")
ANNOUNCED = Counter("meterstream_cost_announced", "Costs and alerts that Kafka has")
REFUSED = Counter("meterstream_cost_refused", "Records that were no quarter hour")
RETRIES = Counter("meterstream_cost_retries", "Rounds tried again after an outage")

_MOST_WINDOWS, _MOST_ANNOUNCED = 5_000, 1_000
_SOURCE = "/meterstream/cost"
_decode = msgspec.json.Decoder(UsageWindow).decode


def run(settings: CostSettings, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down.

    Offsets are committed once Kafka has all that follows from them: what was taken before a crash
    is taken again, and says nothing new.
    """
    producer = make_producer(bootstrap)

    def work(conn: psycopg.Connection[Any]) -> None:
        if not alone(conn, Lock.COST, stop):
            return
        with following(bootstrap, settings.cost_group, USAGE_15M) as consumer:
            _work(settings, conn, consumer, producer, stop)

    outlast_outages("cost", database_url, stop, work, RETRIES)


def _work(
    settings: CostSettings,
    conn: psycopg.Connection[Any],
    consumer: Consumer,
    producer: Producer,
    stop: threading.Event,
) -> None:
    job = CostJob(conn, known_tariffs())
    announce(conn, producer)
    while not stop.is_set():
        messages = consumer.consume(_MOST_WINDOWS, settings.cost_pause_s)
        job.usage_changed(changed_by(messages))
        while job.terms_changed() and not stop.is_set():
            ROUNDS.note()
        announce(conn, producer)
        ROUNDS.note()
        taken = [message for message in messages if message.error() is None]
        if taken:
            commit_after(consumer, taken)
            WINDOWS.inc(len(taken))


def changed_by(messages: list[Message]) -> dict[int, set[int]]:
    """By channel: the starts of the quarter hours that the messages tell of, in µs."""
    changed: dict[int, set[int]] = {}
    for message in messages:
        if message.error() is not None:
            log.warning("Kafka says", error=str(message.error()))
            continue
        try:
            window = _decode(message.value() or b"")
        except msgspec.DecodeError as error:
            REFUSED.inc()
            log.error("not a quarter hour; passed over", offset=message.offset(), error=str(error))
            continue
        changed.setdefault(window.channel_id, set()).add(window.window_start_us)
    return changed


def announce(conn: psycopg.Connection[Any], producer: Producer) -> None:
    """Publish what Kafka does not have yet, and wait until it has.

    A crash after that and before the database knows publishes it again, with the same identity.
    Raises RuntimeError if Kafka refuses.
    """
    while True:
        told = costs.unannounced_costs(conn, _MOST_ANNOUNCED)
        alerts = costs.unannounced_alerts(conn, _MOST_ANNOUNCED)
        if not told and not alerts:
            return
        publish(producer, [*map(_cost_record, told), *map(_alert_record, alerts)], _SOURCE)
        costs.mark_announced(conn, told, alerts)
        ANNOUNCED.inc(len(told) + len(alerts))


def _cost_record(cost: HomeCost) -> Record:
    return Record(COST, cost.home_id, f"{cost.home_id}/{cost.revision}", cost)


def _alert_record(alert: BudgetAlert) -> Record:
    return Record(ALERT, alert.home_id, alert.alert_id, alert)


def main() -> None:
    settings = CostSettings()
    run_process(
        "cost",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
