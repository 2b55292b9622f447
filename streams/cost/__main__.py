"""`python -m streams.cost`: keeps every home's running cost and budgets, and tells of them."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import msgspec
import psycopg
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from prometheus_client import Counter, start_http_server

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.cost import BudgetAlert, HomeCost
from schemas.topics import ALERT, COST, PARTITIONER, USAGE_15M, Topic
from schemas.usage import UsageWindow
from sinks import costs
from sinks.errors import is_transient
from streams.cost.job import CostJob
from streams.cost.settings import CostSettings
from streams.logs import configure_logs
from streams.tariffs.loading import known_tariffs

log = structlog.get_logger()

WINDOWS = Counter("meterstream_cost_windows", "Quarter hours taken from Kafka")
ANNOUNCED = Counter("meterstream_cost_announced", "Costs and alerts that Kafka has")
REFUSED = Counter("meterstream_cost_refused", "Records that were no quarter hour")
RETRIES = Counter("meterstream_cost_retries", "Rounds tried again after an outage")

_ONE_COST = 7303
_MOST_WINDOWS, _MOST_ANNOUNCED = 5_000, 1_000
_KAFKA_TIMEOUT_S = 10.0
_SOURCE = b"/meterstream/cost"
_decode = msgspec.json.Decoder(UsageWindow).decode


def run(settings: CostSettings, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down.

    Offsets are committed once Kafka has all that follows from them: what was taken before a crash
    is taken again, and says nothing new.
    """
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 0,
         "compression.type": "lz4", "partitioner": PARTITIONER}
    )  # fmt: skip
    while not stop.is_set():
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": settings.cost_group,
             "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )  # fmt: skip
        try:
            with psycopg.connect(
                database_url, autocommit=True, application_name="meterstream-cost"
            ) as conn:
                conn.execute("SELECT pg_advisory_lock(%s)", [_ONE_COST])
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
        failed: list[KafkaError] = []
        for cost in told:
            _produce(producer, COST, cost, f"{cost.home_id}/{cost.revision}", failed)
        for alert in alerts:
            _produce(producer, ALERT, alert, alert.alert_id, failed)
        producer.flush()
        if failed:
            raise RuntimeError(f"Kafka refused {len(failed)} records: {failed[0]}")
        costs.mark_announced(conn, told, alerts)
        ANNOUNCED.inc(len(told) + len(alerts))


def _produce(
    producer: Producer,
    topic: Topic,
    said: HomeCost | BudgetAlert,
    identity: str,
    failed: list[KafkaError],
) -> None:
    def delivered(error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    producer.produce(
        topic.name,
        key=said.home_id.encode(),
        value=msgspec.json.encode(said),
        headers=[
            ("ce_id", identity.encode()),
            ("ce_type", topic.name.encode()),
            ("ce_source", _SOURCE),
            ("content-type", b"application/json"),
        ],
        on_delivery=delivered,
    )
    producer.poll(0)


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
    configure_logs()
    settings = CostSettings()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        threading.Thread(target=_leave_late, daemon=True).start()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr="127.0.0.1")
    log.info("cost starts")
    run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop)


def _leave_late() -> None:
    """Kafka away at the end: what is not announced is announced after the next start."""
    time.sleep(10)
    os._exit(0)


if __name__ == "__main__":
    main()
