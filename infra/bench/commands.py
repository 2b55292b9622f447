"""From an API call to a relay that has switched: simulated nodes on the real broker, same cores.

A command is timed from before the POST until the node has switched, as its journal says; all run
on one clock. The API's answer and the confirmed end are timed from the same instant.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psycopg

from infra.bench.cpu import of_process, of_tree
from infra.bench.results import Row, Share, spread
from infra.local import Stack, StackSettings
from infra.local.parts import Progress
from infra.local.programs import KAFKA, MOSQUITTO, OWN, SERVERS, TIMESCALE, instances
from infra.switches.fleet import Fleet
from infra.switches.journal import Journal, read_journal
from infra.switches.node import Node
from schemas.connections import MqttConnection
from schemas.units import SECOND_US

NEEDED = ("uplink", "worker", "commands", "downlink", "api")
CALLERS = 8
DEVICES_A_RATE = 1.5
"""A relay is switched at most once a second: so many devices for each command a second."""
_LEAST_DEVICES = 20
_TOGETHER = 10
_TOGGLE = {"kind": "toggle", "expires_in_s": 60}
_KNOWN_WITHIN_S, _ENDED_WITHIN_S = 300.0, 60.0


@dataclass(frozen=True)
class Load:
    name: str
    commands_per_s: float
    seconds: float
    devices_a_call: int = 1


@dataclass(frozen=True)
class Given:
    """One command: when it was asked for and answered, in µs; `command_id` None if refused."""

    asked_us: int
    answered_us: int
    command_id: str | None


class _Command(msgspec.Struct):
    id: str | None = None  # none in a problem


class _Commands(msgspec.Struct):
    items: list[_Command] = []


def loads(seconds: float) -> tuple[Load, ...]:
    return (
        Load("10 commands/s", 10, seconds),
        Load("200 commands/s", 200, seconds),
        Load(f"200 commands/s, {_TOGETHER} a call", 200, seconds, _TOGETHER),
    )


WARM_UP = Load("warming up", 50, 150)
"""Before all others: Kafka's JVM compiles for minutes, and takes twice as much meanwhile."""


def stack_of(settings: StackSettings) -> Stack:
    return Stack(settings, [*SERVERS, *(one for one in OWN if one.name in NEEDED)])


def measure(
    stack: Stack, wanted: Sequence[Load], folder: Path, progress: Progress
) -> tuple[list[Row], bool]:
    """A row a load, and whether every command was done, once. The stack is up."""
    count = max(_LEAST_DEVICES, *(round(DEVICES_A_RATE * load.commands_per_s) for load in wanted))
    nodes = [Node(f"node-{number}", "bench") for number in range(count)]
    rows, ok = [], True
    with _fleet(stack, nodes, folder / "journal.jsonl") as journal:
        progress(f"{count} nodes come online")
        device_ids = _known(stack, nodes)
        _wait_api(stack)
        for load in wanted:
            progress(f"{load.name} for {load.seconds:.0f} s")
            before_s = cpu_s(stack)
            given, took_s = _give(stack, device_ids, load)
            progress("until all have ended")
            ended = _ended(stack, [one.command_id for one in given if one.command_id])
            used_s = {name: after - before_s[name] for name, after in cpu_s(stack).items()}
            switched = [one for one in read_journal(journal) if one.command in ended]
            ran = {one.command: one.at_us for one in switched}
            row = row_of(load, given, took_s, ran, ended)
            rows.append(msgspec.structs.replace(row, processes=_shares(used_s, took_s, len(given))))
            done = [state for state, _ in ended.values()].count("done")
            ok = ok and done == len(ran) == len(switched) == len(given)
    return rows, ok


@contextmanager
def _fleet(stack: Stack, nodes: Sequence[Node], path: Path) -> Iterator[Path]:
    journal = Journal(path)
    fleet = Fleet(MqttConnection(host="127.0.0.1", port=stack.mqtt_port), nodes, journal)
    fleet.start()
    try:
        yield path
    finally:
        fleet.stop()
        journal.close()


def cpu_s(stack: Stack) -> dict[str, float]:
    """CPU so far of each process that a command meets. The callers and the nodes are one."""
    read = {"callers and nodes": time.process_time()}
    for program in OWN:
        if program.name in NEEDED:
            for one in instances(program, stack.settings):
                read[one.name] = of_tree(stack.pid(one.name))()
    for program in (MOSQUITTO, KAFKA):
        read[program.name] = of_process(stack.server_pid(program.name))()
    return read | {"postgres": of_tree(stack.server_pid(TIMESCALE.name))()}


def _shares(used_s: dict[str, float], took_s: float, commands: int) -> dict[str, Share]:
    """Of a core, while commands were given; and of each command until its end."""
    return {
        name: Share(round(100 * one / took_s, 1), round(one / commands * 1e6, 2))
        for name, one in used_s.items()
    }


def _known(stack: Stack, nodes: Sequence[Node]) -> list[int]:
    """The ids of the nodes, once the state of each one's relay is stored. Raises TimeoutError."""
    deadline = time.monotonic() + _KNOWN_WITHIN_S
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        while True:
            rows = conn.execute(
                "SELECT DISTINCT device_id FROM device_state JOIN device USING (device_id) "
                "WHERE field = 'relay' AND address = ANY (%s)",
                [[node.address for node in nodes]],
            ).fetchall()
            if len(rows) == len(nodes):
                return [device_id for (device_id,) in rows]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(rows)} of {len(nodes)} nodes have told their state")
            time.sleep(0.5)


def _wait_api(stack: Stack) -> None:
    deadline = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{stack.settings.api_port}/health").raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _give(stack: Stack, device_ids: Sequence[int], load: Load) -> tuple[list[Given], float]:
    """Give the commands, each at its time, the devices in turn; and how long that took."""
    total, together = round(load.commands_per_s * load.seconds), load.devices_a_call
    token = stack.token_file.read_text().strip()
    given: list[Given] = []
    numbers, lock = iter(range(0, total, together)), threading.Lock()
    begun = time.monotonic()

    def call() -> None:
        with closing(HTTPConnection("127.0.0.1", stack.settings.api_port, timeout=30.0)) as api:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                time.sleep(max(0.0, begun + number / load.commands_per_s - time.monotonic()))
                wanted = [
                    device_ids[at % len(device_ids)] for at in range(number, number + together)
                ]
                given.extend(_call(api, token, wanted))

    with ThreadPoolExecutor(CALLERS) as callers:
        for done in [callers.submit(call) for _ in range(CALLERS)]:
            done.result()
    return given, time.monotonic() - begun


def _call(api: HTTPConnection, token: str, device_ids: Sequence[int]) -> list[Given]:
    """With the plainest of clients: what it takes is the servers' on two cores."""
    path, asked = f"/api/v1/devices/{device_ids[0]}/commands", dict[str, object](_TOGGLE)
    if len(device_ids) > 1:
        path = "/api/v1/commands"
        asked |= {"devices": [*map(str, device_ids)], "confirm": True}
    asked_us = time.time_ns() // 1000
    api.request(
        "POST",
        path,
        msgspec.json.encode(asked),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    body = api.getresponse().read()
    answered_us = time.time_ns() // 1000
    if len(device_ids) > 1:
        taken = msgspec.json.decode(body, type=_Commands).items
    else:
        taken = [msgspec.json.decode(body, type=_Command)]
    ids = [one.id for one in taken] + [None] * (len(device_ids) - len(taken))
    return [Given(asked_us, answered_us, command_id) for command_id in ids]


def _ended(stack: Stack, command_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """By command: its state and when it ended, in µs; those that have, when the wait is over."""
    deadline = time.monotonic() + _ENDED_WITHIN_S
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        while True:
            rows = conn.execute(
                "SELECT command_id::text, state, to_us(ended_at) FROM command "
                "WHERE command_id = ANY (%s::uuid[]) AND ended_at IS NOT NULL",
                [list(command_ids)],
            ).fetchall()
            if len(rows) == len(command_ids) or time.monotonic() > deadline:
                return {command_id: (state, at_us) for command_id, state, at_us in rows}
            time.sleep(0.2)


def row_of(
    load: Load,
    given: Sequence[Given],
    took_s: float,
    ran: dict[str, int],
    ended: dict[str, tuple[str, int]],
) -> Row:
    """What came of a load. `ran`: by command, when its relay switched, in µs."""
    rate = len(given) / took_s
    to_relay = [ran[one.command_id] - one.asked_us for one in given if one.command_id in ran]
    to_end = [ended[one.command_id][1] - one.asked_us for one in given if one.command_id in ended]
    done = sum(state == "done" for state, _ in ended.values())
    figures = {
        "asked_commands_per_s": load.commands_per_s,
        "commands_per_s": rate,
        "not_done": float(len(given) - done),
        "p50_ms": _percentile_ms(to_relay, 50),
        "p99_ms": _percentile_ms(to_relay, 99),
        "answered_p50_ms": _percentile_ms([one.answered_us - one.asked_us for one in given], 50),
        "done_p50_ms": _percentile_ms(to_end, 50),
        "done_p99_ms": _percentile_ms(to_end, 99),
    }
    return Row(
        load.name,
        {name: spread([value]) for name, value in figures.items()},
        ratio=round(rate / load.commands_per_s, 3),
        ratio_to="asked",
        note=f"{len(given):,} commands in {took_s:.0f} s, {len(to_relay):,} ran, {done:,} done",
    )


def _percentile_ms(times_us: Sequence[int], percent: float) -> float:
    if not times_us:
        return float("nan")
    return float(np.percentile(times_us, percent)) / (SECOND_US / 1000)
