"""How a process of ours runs: its logs, its metrics, outages, and an end that is asked for."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import psycopg
import structlog
from confluent_kafka import KafkaException
from prometheus_client import Counter

from sinks.advisory_locks import Lock
from sinks.errors import is_transient
from streams.logs import configure_logs
from streams.rounds import ROUNDS
from streams.serving import serve

_LATEST_END_S = 10
_AFTER_AN_OUTAGE_S = 1.0
_ASKS_AGAIN_S = 0.5


def run_process(name: str, metrics_port: int, work: Callable[[threading.Event], None]) -> None:
    """Run `work` until SIGTERM or SIGINT sets its event; metrics and health on `metrics_port`.

    Port 0: none. It is healthy as long as `work` tells `ROUNDS` that it gets on. Work that does not
    end in 10 s, as while Kafka is away, is left: what is not announced then is announced after the
    next start.
    """
    configure_logs()
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        threading.Thread(target=_leave_late, daemon=True).start()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    if metrics_port:
        serve(metrics_port, ROUNDS.health)
    structlog.get_logger().info(f"{name} starts")
    work(stop)


def outlast_outages(
    name: str,
    database_url: str,
    stop: threading.Event,
    work: Callable[[psycopg.Connection[Any]], None],
    retries: Counter,
) -> None:
    """Call `work` with a new connection, and again when the database or Kafka was away.

    Ends when `stop` is set and `work` has returned. Errors that do not pass by themselves are
    raised.
    """
    log = structlog.get_logger()
    while not stop.is_set():
        try:
            with psycopg.connect(
                database_url, autocommit=True, application_name=f"meterstream-{name}"
            ) as conn:
                work(conn)
            continue
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            log.warning("database away; trying again", error=str(error).strip())
        except KafkaException as error:
            log.warning("Kafka away; trying again", error=str(error))
        retries.inc()
        stop.wait(_AFTER_AN_OUTAGE_S)


def alone(conn: psycopg.Connection[Any], lock: Lock, stop: threading.Event) -> bool:
    """Wait for what one process does at a time; whoever waits is well. False: `stop` came first."""
    while conn.execute("SELECT pg_try_advisory_lock(%s)", [lock]).fetchone() != (True,):
        ROUNDS.note()
        if stop.wait(_ASKS_AGAIN_S):
            return False
    return True


def _leave_late() -> None:
    time.sleep(_LATEST_END_S)
    os._exit(0)
