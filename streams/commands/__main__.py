"""`python -m streams.commands`: brings commands to Kafka, and what comes of them back."""

import threading
import time
from typing import Any

import psycopg
import structlog

from schemas.connections import DatabaseConnection, KafkaConnection
from sinks.advisory_locks import Lock
from sinks.command_work import CHANNEL
from sinks.errors import is_transient
from streams.commands import claims
from streams.commands.outbox import OutboxRelay
from streams.commands.rounds import Sweep, take_answers
from streams.commands.settings import CommandSettings
from streams.process import run_process

log = structlog.get_logger()
_WAIT_FOR_KAFKA_S = 0.005
_LAST_WAIT_S = 3.0


def run(
    settings: CommandSettings, database_url: str, bootstrap: str, stop: threading.Event
) -> None:
    """Work until `stop` is set. An outage of the database or Kafka only slows it down.

    Raises what ends the thread that follows the downlink.
    """
    ended: list[BaseException] = []

    def follow() -> None:
        try:
            claims.follow(settings, database_url, bootstrap, stop)
        except BaseException as error:
            ended.append(error)
            stop.set()

    follower = threading.Thread(target=follow, name="claims", daemon=True)
    follower.start()
    relay = OutboxRelay(bootstrap)
    while not stop.is_set():
        try:
            with (
                _connect(database_url, "commands") as conn,
                _connect(database_url, "command-notices") as notices,
            ):
                conn.execute("SELECT pg_advisory_lock(%s)", [Lock.COMMANDS])
                notices.execute(f"LISTEN {CHANNEL}".encode())
                _work(settings, conn, notices, relay, stop)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            log.warning("database away; trying again", error=str(error).strip())
            stop.wait(1.0)
    follower.join()
    if ended:
        raise ended[0]


def _work(
    settings: CommandSettings,
    conn: psycopg.Connection[Any],
    notices: psycopg.Connection[Any],
    relay: OutboxRelay,
    stop: threading.Event,
) -> None:
    sweep, sweep_at_s = Sweep(settings), 0.0
    while not stop.is_set():
        while take_answers(conn, settings.commands_patience_s):
            relay.run(conn)
        if time.monotonic() >= sweep_at_s:
            sweep.run(conn)
            sweep_at_s = time.monotonic() + settings.commands_pause_s
        relay.run(conn)
        if relay.in_flight:
            relay.wait(_WAIT_FOR_KAFKA_S)
            relay.settle(conn)
        wait_s = _WAIT_FOR_KAFKA_S if relay.in_flight else settings.commands_pause_s
        for _ in notices.notifies(timeout=wait_s, stop_after=1):
            pass
    relay.wait(_LAST_WAIT_S)
    relay.settle(conn)


def _connect(database_url: str, name: str) -> psycopg.Connection[Any]:
    return psycopg.connect(database_url, autocommit=True, application_name=f"meterstream-{name}")


def main() -> None:
    settings = CommandSettings()
    run_process(
        "commands",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
