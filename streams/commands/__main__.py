"""`python -m streams.commands`: brings commands to Kafka, and what comes of them back."""

import threading
import time
from typing import Any

import psycopg

from schemas.connections import DatabaseConnection, KafkaConnection
from sinks.advisory_locks import Lock
from sinks.command_work import CHANNEL, URGENT
from streams.commands import claims
from streams.commands.outbox import OutboxRelay
from streams.commands.rounds import MOST_ANSWERS, Sweep, take_answers
from streams.commands.settings import CommandSettings
from streams.process import alone, outlast_outages, run_process
from streams.rounds import ROUNDS

_BREATH_S = 0.01  # between rounds that follow each other, so that each does several at once
_UNHURRIED_S = 0.03  # the same for what no relay waits for
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

    def work(conn: psycopg.Connection[Any]) -> None:
        with psycopg.connect(
            database_url, autocommit=True, application_name="meterstream-command-notices"
        ) as notices:
            if not alone(conn, Lock.COMMANDS, stop):
                return
            notices.execute(f"LISTEN {CHANNEL}".encode())
            _work(settings, conn, notices, relay, stop)

    outlast_outages("commands", database_url, stop, work, claims.RETRIES)
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
    sweep, sweep_at_s, answers_at_s = Sweep(settings), 0.0, 0.0
    while not stop.is_set():
        begun_s = time.monotonic()
        if begun_s >= answers_at_s:
            while take_answers(conn, settings.commands_patience_s) == MOST_ANSWERS:
                relay.run(conn)
            answers_at_s = begun_s + _UNHURRIED_S
        if begun_s >= sweep_at_s:
            sweep.run(conn)
            sweep_at_s = begun_s + settings.commands_pause_s
        relay.run(conn)
        ROUNDS.note()
        rest_until_s = answers_at_s if relay.in_flight else sweep_at_s
        _rest(notices, stop, begun_s + _BREATH_S, answers_at_s, rest_until_s)
    relay.wait(_LAST_WAIT_S)
    relay.run(conn)


def _rest(
    notices: psycopg.Connection[Any],
    stop: threading.Event,
    urgent_s: float,
    noticed_s: float,
    until_s: float,
) -> None:
    """Until there is something to do: a request from `urgent_s` on, other news from `noticed_s`,
    and in any case at `until_s`; all on the monotonic clock.
    """
    while (wait_s := until_s - time.monotonic()) > 0:
        for notice in notices.notifies(timeout=wait_s, stop_after=1):
            until_s = min(until_s, urgent_s if notice.payload == URGENT else noticed_s)
        if until_s == urgent_s:
            stop.wait(max(0.0, urgent_s - time.monotonic()))
            return


def main() -> None:
    settings = CommandSettings()
    run_process(
        "commands",
        settings.metrics_port,
        lambda stop: run(settings, DatabaseConnection().url, KafkaConnection().bootstrap, stop),
    )


if __name__ == "__main__":
    main()
