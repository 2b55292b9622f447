"""`python -m streams.rollup`: keeps the ledger and the roll-ups above it up to date."""

import threading
from datetime import timedelta
from typing import Any

import psycopg
from confluent_kafka import Producer
from prometheus_client import Counter
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.topics import USAGE_15M
from schemas.usage import UsageWindow
from sinks.advisory_locks import Lock
from sinks.rollup import mark_announced, retell, roll_up, unannounced_quarters
from streams.process import alone, outlast_outages, run_process
from streams.publish import Record, make_producer, publish
from streams.rounds import ROUNDS

MARKS = Counter("meterstream_rollup_marks", "Dirty quarter hours worked off")
ANNOUNCED = Counter("meterstream_rollup_announced", "Quarter hours announced")
RETRIES = Counter("meterstream_rollup_retries", "Rounds tried again after an outage")

_MOST_MARKS, _MOST_ANNOUNCED, _MOST_RETOLD = 5_000, 5_000, 500
_KEPT = timedelta(milliseconds=int(USAGE_15M.config["retention.ms"]))


class RollupSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    rollup_pause_s: float = Field(default=1.0, gt=0)
    metrics_port: int = Field(default=9102, ge=0, le=65535)


def announce(producer: Producer, windows: list[UsageWindow]) -> None:
    """Publish quarter hours and wait until Kafka has them. Raises RuntimeError if it refuses."""
    publish(producer, map(_record, windows), "/meterstream/rollup")


def _record(window: UsageWindow) -> Record:
    key = window.home_id or window.address
    identity = f"{window.channel_id}/{window.window_start_us}/{window.revision}"
    return Record(USAGE_15M, key, identity, window)


def work_off(conn: psycopg.Connection[Any], producer: Producer) -> bool:
    """One round; returns whether there was anything to do."""
    marks = roll_up(conn, _MOST_MARKS)
    MARKS.inc(marks)
    retell(conn, _MOST_RETOLD, _KEPT)
    windows = unannounced_quarters(conn, _MOST_ANNOUNCED)
    if windows:
        announce(producer, windows)
        mark_announced(conn, windows)
        ANNOUNCED.inc(len(windows))
    return bool(marks or windows)


def run(settings: RollupSettings, database_url: str, bootstrap: str, stop: threading.Event) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down."""
    producer = make_producer(bootstrap)

    def work(conn: psycopg.Connection[Any]) -> None:
        if not alone(conn, Lock.ROLLUP, stop):
            return
        while not stop.is_set():
            something = work_off(conn, producer)
            ROUNDS.note()
            if not something:
                ROUNDS.rest(stop, settings.rollup_pause_s)

    outlast_outages("rollup", database_url, stop, work, RETRIES)


def main() -> None:
    settings = RollupSettings()
    run_process(
        "rollup",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
