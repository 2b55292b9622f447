"""`python -m streams.rollup`: keeps the ledger and the roll-ups above it up to date."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import msgspec
import psycopg
import structlog
from confluent_kafka import KafkaError, Producer
from prometheus_client import Counter, start_http_server
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.topics import USAGE_15M
from schemas.usage import UsageWindow
from sinks.errors import is_transient
from sinks.rollup import mark_announced, roll_up, unannounced_quarters
from streams.logs import configure_logs

log = structlog.get_logger()

MARKS = Counter("meterstream_rollup_marks", "Dirty quarter hours worked off")
ANNOUNCED = Counter("meterstream_rollup_announced", "Quarter hours announced")
RETRIES = Counter("meterstream_rollup_retries", "Rounds tried again after an outage")

_ONE_ROLLUP = 7302
_MOST_MARKS, _MOST_ANNOUNCED = 5_000, 5_000


class RollupSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    rollup_pause_s: float = Field(default=1.0, gt=0)
    metrics_port: int = Field(default=9102, ge=0, le=65535)


def announce(producer: Producer, windows: list[UsageWindow]) -> None:
    """Publish quarter hours and wait until Kafka has them. Raises RuntimeError if it refuses."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    encode = msgspec.json.Encoder().encode
    for window in windows:
        key = window.home_id or window.address
        identity = f"{window.channel_id}/{window.window_start_us}/{window.revision}"
        producer.produce(
            USAGE_15M.name,
            key=key.encode(),
            value=encode(window),
            headers=[
                ("ce_id", identity.encode()),
                ("ce_type", USAGE_15M.name.encode()),
                ("ce_source", b"/meterstream/rollup"),
                ("content-type", b"application/json"),
            ],
            on_delivery=delivered,
        )
        producer.poll(0)
    producer.flush()
    if failed:
        raise RuntimeError(f"Kafka refused {len(failed)} quarter hours: {failed[0]}")


def work_off(conn: psycopg.Connection[Any], producer: Producer) -> bool:
    """One round; returns whether there was anything to do."""
    marks = roll_up(conn, _MOST_MARKS)
    MARKS.inc(marks)
    windows = unannounced_quarters(conn, _MOST_ANNOUNCED)
    if windows:
        announce(producer, windows)
        mark_announced(conn, windows)
        ANNOUNCED.inc(len(windows))
    return bool(marks or windows)


def run(settings: RollupSettings, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 0,
         "compression.type": "lz4"}
    )  # fmt: skip
    while not stop.is_set():
        try:
            with psycopg.connect(
                database_url, autocommit=True, application_name="meterstream-rollup"
            ) as conn:
                conn.execute("SELECT pg_advisory_lock(%s)", [_ONE_ROLLUP])
                while not stop.is_set():
                    if not work_off(conn, producer):
                        stop.wait(settings.rollup_pause_s)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            RETRIES.inc()
            log.warning("database away; trying again", error=str(error).strip())
            stop.wait(1.0)


def main() -> None:
    configure_logs()
    settings = RollupSettings()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        threading.Thread(target=_leave_late, daemon=True).start()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, addr="127.0.0.1")
    log.info("rollup starts")
    run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop)


def _leave_late() -> None:
    """Kafka away at the end: what is not announced is announced after the next start."""
    time.sleep(10)
    os._exit(0)


if __name__ == "__main__":
    main()
