"""`python -m streams.cost`: keeps every home's running cost and budgets, and tells of them."""

import threading
from typing import Any

import msgspec
import psycopg
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from prometheus_client import Counter

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.cost import BudgetAlert, HomeCost
from schemas.topics import ALERT, COST, USAGE_15M
from schemas.usage import UsageWindow
from sinks import costs
from sinks.advisory_locks import Lock
from sinks.errors import is_transient
from streams.cost.job import CostJob
from streams.cost.settings import CostSettings
from streams.process import run_process
from streams.publish import Record, make_producer, publish
from streams.tariffs.loading import known_tariffs

log = structlog.get_logger()

WINDOWS = Counter("meterstream_cost_windows", "Quarter hours taken from Kafka")
ANNOUNCED = Counter("meterstream_cost_announced", "Costs and alerts that Kafka has")
REFUSED = Counter("meterstream_cost_refused", "Records that were no quarter hour")
RETRIES = Counter("meterstream_cost_retries", "Rounds tried again after an outage")

_MOST_WINDOWS, _MOST_ANNOUNCED = 5_000, 1_000
_KAFKA_TIMEOUT_S = 10.0
_SOURCE = "/meterstream/cost"
_decode = msgspec.json.Decoder(UsageWindow).decode


def run(settings: CostSettings, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down.

    Offsets are committed once Kafka has all that follows from them: what was taken before a crash
    is taken again, and says nothing new.
    """
    producer = make_producer(bootstrap)
    while not stop.is_set():
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": settings.cost_group,
             "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )  # fmt: skip
        try:
            with psycopg.connect(
                database_url, autocommit=True, application_name="meterstream-cost"
            ) as conn:
                conn.execute("SELECT pg_advisory_lock(%s)", [Lock.COST])
                consumer.assign(_where_to_begin(consumer))
                _work(settings, conn, consumer, producer, stop)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            RETRIES.inc()
            log.warning("database away; trying again", error=str(error).strip())
            stop.wait(1.0)
        except KafkaException as error:
            RETRIES.inc()
            log.warning("Kafka away; trying again", error=str(error))
            stop.wait(1.0)
        finally:
            consumer.close()


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
            pass
        announce(conn, producer)
        taken = [message for message in messages if message.error() is None]
        if taken:
            consumer.commit(offsets=_after(taken), asynchronous=False)
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


def _where_to_begin(consumer: Consumer) -> list[TopicPartition]:
    """All partitions, after what was committed: one process needs no group to share them out.

    Asked for here and not left to `assign`, which stands still for good when the coordinator
    does not answer just then. Raises KafkaException.
    """
    parts = [TopicPartition(USAGE_15M.name, part) for part in range(USAGE_15M.partitions)]
    found = consumer.committed(parts, timeout=_KAFKA_TIMEOUT_S)
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return [
        TopicPartition(
            one.topic, one.partition, one.offset if one.offset >= 0 else OFFSET_BEGINNING
        )
        for one in found
    ]


def _after(messages: list[Message]) -> list[TopicPartition]:
    """The offsets after the last message of each partition."""
    last = {message.partition(): message.offset() for message in messages}
    return [TopicPartition(USAGE_15M.name, part, offset + 1) for part, offset in last.items()]


def main() -> None:
    settings = CostSettings()
    run_process(
        "cost",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
