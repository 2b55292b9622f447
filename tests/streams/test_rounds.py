"""What `/health` says of a process that only does rounds of work, and that all of them say it."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from infra.local.topics import create_topics
from sinks.advisory_locks import Lock
from streams.billing.job import Billing, BillingSettings
from streams.commands.settings import CommandSettings
from streams.cost.settings import CostSettings
from streams.presence.settings import PresenceSettings
from streams.rollup import RollupSettings
from streams.rounds import Rounds
from streams.serving import serve
from streams.tariffs.loading import known_tariffs, known_tariffs_sha256
from tests.databases import migrated_database

LONGEST_S = 200.0


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def get(port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_health_fails_when_a_part_has_finished_no_round_for_a_minute():
    clock = Clock()
    rounds = Rounds(clock)
    server = serve(0, rounds.health)
    try:

        def health() -> tuple[int, Any]:
            status, kind, body = get(server.server_address[1], "/health")
            assert kind == "application/json"
            return status, json.loads(body)

        clock.now_s += 59.9
        assert health() == (200, {"ok": True, "seconds_since_round": {"work": 59.9}})
        clock.now_s += 0.1
        assert health() == (503, {"ok": False, "seconds_since_round": {"work": 60.0}})
        rounds.note()
        rounds.note("claims")
        assert health() == (200, {"ok": True, "seconds_since_round": {"work": 0, "claims": 0}})
        clock.now_s += 60
        rounds.note()
        assert health() == (503, {"ok": False, "seconds_since_round": {"work": 0, "claims": 60}})
        assert get(server.server_address[1], "/metrics")[0] == 200
        assert get(server.server_address[1], "/")[0] == 404
    finally:
        server.shutdown()
        server.server_close()


def test_who_rests_between_rounds_is_well_however_long():
    clock = Clock()
    rounds = Rounds(clock)
    healthy = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now_s += timeout or 0
            healthy.append(rounds.health()[0])
            return clock.now_s >= 1180

    rounds.rest(Stop(), 152.0)
    assert clock.now_s == 1152.0
    rounds.rest(Stop(), 152.0)
    assert clock.now_s == 1182.0, "it was to stop"
    assert all(healthy)


Run = Callable[[str, str, threading.Event], None]


def running(name: str, settings: Any) -> Run:
    module = import_module(name)
    return lambda *servers: module.run(settings(), *servers)


def billing() -> Billing:
    return Billing(known_tariffs(), known_tariffs_sha256(), BillingSettings())


RUNS = {
    "rollup": (running("streams.rollup", RollupSettings), ["streams.rollup"]),
    "cost": (running("streams.cost.__main__", CostSettings), ["streams.cost.__main__"]),
    "billing": (running("streams.billing.job", billing), ["streams.billing.job"]),
    "presence": (
        running("streams.presence.__main__", PresenceSettings),
        ["streams.presence.__main__"],
    ),
    "commands": (
        running("streams.commands.__main__", CommandSettings),
        ["streams.commands.__main__", "streams.commands.claims"],
    ),
}


@pytest.fixture(scope="module")
def database_url(stack: Stack) -> str:
    create_topics(stack.kafka_bootstrap)
    return migrated_database(stack, "rounds_tests")


@pytest.mark.stack
@pytest.mark.timeout(600)
@pytest.mark.parametrize("waits", [False, True], ids=["works", "waits for another to end"])
@pytest.mark.parametrize("name", RUNS)
def test_a_process_says_that_it_gets_on(
    stack: Stack, database_url: str, name: str, waits: bool, monkeypatch: pytest.MonkeyPatch
):
    run, modules = RUNS[name]
    clock, stop = Clock(), threading.Event()
    rounds = Rounds(clock)
    other = psycopg.connect(database_url, autocommit=True)
    if waits:
        other.execute("SELECT pg_advisory_lock(%s)", [Lock[name.upper()]])
    for module in ("streams.process", *modules):
        monkeypatch.setattr(f"{module}.ROUNDS", rounds)
    work = threading.Thread(target=run, args=(database_url, stack.kafka_bootstrap, stop))
    work.start()
    try:
        for _ in range(2):
            clock.now_s += 61
            assert not rounds.health()[0]
            deadline = time.monotonic() + LONGEST_S
            while not rounds.health()[0]:
                assert work.is_alive()
                assert time.monotonic() < deadline, f"{rounds.health()[1]}"
                time.sleep(0.05)
        if name == "commands":
            assert rounds.health()[1]["seconds_since_round"].keys() == {"work", "claims"}
    finally:
        stop.set()
        work.join(LONGEST_S)
        other.close()
    assert not work.is_alive()
    clock.now_s += 61
    assert not rounds.health()[0]
