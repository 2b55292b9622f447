"""Commands under reconnects, duplicates, disorder, power cuts and kills: did each run once at most?

A stack of its own, relays of every family (`infra.switches`), commands accepted as the API accepts
them, and the journal of what really ran held against the database in the end.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from infra.local import Stack, StackSettings
from infra.local.errors import StackError
from infra.local.programs import OWN, SERVERS
from infra.switches.device import Switch
from infra.switches.families import devices_of
from infra.switches.fleet import Fleet, Whims
from infra.switches.journal import Journal
from infra.trials.echo import Echo
from infra.trials.relays import Relays
from infra.trials.switching import Account
from schemas.command import Kind
from schemas.connections import MqttConnection
from sinks.command_errors import CommandError
from sinks.commands import Ask, accept

NEEDED = ("uplink", "worker", "commands", "downlink")
KILLED = ("mosquitto", "downlink", "commands", "uplink", "worker")
ISSUER = "user:trial"
COMMANDS_A_DEVICE = 50
LEAST_DEVICES = 14
KNOWN_WITHIN_S = 300.0
ENDED_WITHIN_S = 600.0
EXPIRES_S = (4.0, 45.0)
WHIMS = Whims(
    cut_before=0.01, cut_after=0.01, twice=0.05, replayed=0.05, held=0.03, session_lost=0.2
)
Progress = Callable[[str, float, float], None]
"""What is done, how much of it, and of how much."""


@dataclass(frozen=True)
class CommandTrial:
    seed: int
    devices: int
    relays: int
    accepted: int
    refused: dict[str, int]
    states: dict[str, int]
    faults: dict[str, int]
    events: dict[str, int]
    duration_s: float
    account: Account
    open: int = 0
    kills: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.account.faults and not self.open


def run_trial(
    commands: int, seed: int, kill_every_s: float, rate: float, progress: Progress
) -> CommandTrial:
    """Raises TimeoutError where devices stay unknown, StackError where a stack does not start."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meterstream-commands-") as folder:
        programs = [*SERVERS, *(one for one in OWN if one.name in NEEDED)]
        stack = Stack(StackSettings.free(Path(folder) / "state"), programs)
        journal = Journal(Path(folder) / "journal.jsonl")
        try:
            stack.up(lambda text: progress(text, 0, 0))
            count = max(LEAST_DEVICES, commands // COMMANDS_A_DEVICE)
            trial = _Trial(stack, devices_of(count, "trial"), journal, seed, progress)
            return trial.run(commands, kill_every_s, rate, begun)
        finally:
            stack.wipe()


class _Trial:
    def __init__(
        self, stack: Stack, devices: Sequence[Switch], journal: Journal, seed: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._stack = stack
        self._devices = devices
        self._relays = Relays(devices, journal)
        self._seed = seed
        self._chance = random.Random(seed)
        self._progress = progress
        self._ids: dict[str, int] = {}
        self._refused: Counter[str] = Counter()
        self._kills: list[str] = []
        connection = MqttConnection(host="127.0.0.1", port=stack.mqtt_port)
        self._fleet = Fleet(connection, devices, journal, seed)

    def run(self, commands: int, kill_every_s: float, rate: float, begun: float) -> CommandTrial:
        fleet = self._fleet
        fleet.start()
        echo = Echo(self._stack.kafka_bootstrap, self._seed)
        try:
            with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
                self._wait_known(conn)
                fleet.worry(WHIMS)
                echo.start()
            accepted = self._ask(commands, kill_every_s, rate)
            echo.stop()
            fleet.calm()
            with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
                still_open = self._wait_ended(conn)
                found = self._relays.account(conn)
                rows = conn.execute("SELECT state, count(*) FROM command GROUP BY 1").fetchall()
                states = {str(state): int(count) for state, count in rows}
        finally:
            echo.stop()
            fleet.stop()
        return CommandTrial(
            seed=self._seed,
            devices=len(self._devices),
            relays=self._relays.count,
            accepted=accepted,
            refused=dict(self._refused),
            states=states,
            faults={name: len(value) for name, value in found.faults.items()},
            events=dict(fleet.counts) | {"requests sent twice": echo.count},
            duration_s=round(time.monotonic() - begun, 1),
            account=found,
            open=still_open,
            kills=self._kills,
        )

    # ---- asking

    def _ask(self, commands: int, kill_every_s: float, rate: float) -> int:
        """Have so many commands accepted, with a kill, power cuts and pressed switches between."""
        chance = self._chance
        relays = [(device, relay) for device in self._devices for relay in range(len(device.on))]
        accepted, kill_due = 0, time.monotonic() + kill_every_s
        with psycopg.connect(self._stack.database_url, autocommit=True) as conn:
            while accepted < commands:
                turn_begun = time.monotonic()
                device, relay = chance.choice(relays)
                ask = Ask(
                    chance.choice([Kind.ON, Kind.OFF, Kind.TOGGLE]),
                    device.channel(relay),
                    expires_in_s=round(chance.uniform(*EXPIRES_S), 3),
                    queue_while_offline=chance.random() < 0.5,
                )
                try:
                    accept(conn, self._ids[device.address], ask, ISSUER)
                    accepted += 1
                except CommandError as error:
                    self._refused[type(error).__name__] += 1
                if chance.random() < 0.02:
                    self._fleet.press(device.address, relay)
                if chance.random() < 0.01:
                    self._fleet.cut_power(device.address, chance.uniform(0.5, 8))
                if time.monotonic() >= kill_due:
                    kill_due = time.monotonic() + kill_every_s * chance.uniform(0.6, 1.4)
                    self._kill(chance.choice(KILLED))
                if accepted % 100 == 0:
                    self._progress("commands", accepted, commands)
                time.sleep(max(0.0, 1 / rate - (time.monotonic() - turn_begun)))
        return accepted

    def _kill(self, name: str) -> None:
        with suppress(StackError, ProcessLookupError):
            os.kill(self._stack.pid(name), signal.SIGKILL)
            self._kills.append(name)

    # ---- waiting

    def _wait_known(self, conn: psycopg.Connection[Any]) -> None:
        """Until the state of every relay is stored; then commands may come at any pace."""
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while unknown := self._relays.unknown(conn):
            self._progress("devices", self._relays.count - len(unknown), self._relays.count)
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody knows {unknown[:3]}")
            time.sleep(0.5)
        self._ids = self._relays.device_ids(conn)
        self._relays.without_interlock(conn)

    def _wait_ended(self, conn: psycopg.Connection[Any]) -> int:
        """Until every command has ended and every relay is believed to be as it is."""
        deadline = time.monotonic() + ENDED_WITHIN_S
        while not self._relays.is_settled(conn) and time.monotonic() < deadline:
            self._progress("open commands", self._relays.open(conn), 0)
            time.sleep(0.5)
        return self._relays.open(conn)
