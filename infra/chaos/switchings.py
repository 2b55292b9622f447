"""Commands under faults: nodes with relays are switched while everything is hit.

Nodes with our firmware only: what they are sent late they refuse by their own clock, however long a
stopped broker or a stalled hop held it. In the end each command ran once at most, none after its
expiry, and each relay is as the last acknowledged command wants it. Who switched is not asked for:
these nodes keep no outbox, and one that was cut off for a minute tells of a change too late.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from infra.local import Stack
from infra.switches.fleet import Fleet
from infra.switches.journal import Journal
from infra.switches.node import Node
from infra.trials.relays import Relays
from schemas.command import Kind
from schemas.connections import MqttConnection
from sinks.command_errors import CommandError
from sinks.commands import Ask, accept
from sinks.registry import claim_device

NODES = 6
EVERY_S = 2.0
EXPIRES_S = (5.0, 30.0)
KNOWN_WITHIN_S = 120.0
SETTLED_WITHIN_S = 300.0
LOOK_S = 0.5
MOST_SAID = 20
ISSUER, ZONE = "user:chaos", "Asia/Bangkok"


class NotSettled(Exception):
    """What was to be seen of the commands has not come; the text says what."""


class Switchings:
    """While the block runs a command is given every other second; the database may be away."""

    def __init__(self, stack: Stack, mqtt_port: int, folder: Path, home: str, seed: int) -> None:
        self._database_url = stack.database_url
        self._home = home
        self._chance = random.Random(seed)
        self._nodes = [Node(f"relay-{number}", home) for number in range(NODES)]
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / f"{home}.jsonl")
        self._relays = Relays(self._nodes, self._journal)
        connection = MqttConnection(host="127.0.0.1", port=mqtt_port)
        self._fleet = Fleet(connection, self._nodes, self._journal, seed)
        self._ids: list[int] = []
        self._asking = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="switchings")
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Raises NotSettled where the nodes stay unknown."""
        with self._connected() as conn:
            for node in self._nodes:
                claim_device(conn, node.address, None, self._home, ZONE)
        self._fleet.start()
        try:
            with self._connected() as conn:
                until = time.monotonic() + KNOWN_WITHIN_S
                while unknown := self._relays.unknown(conn):
                    if time.monotonic() > until:
                        raise NotSettled(f"nobody knows the relays {unknown}")
                    time.sleep(LOOK_S)
                self._relays.without_interlock(conn)
                self._ids = sorted(self._relays.device_ids(conn).values())
        except BaseException:
            self._fleet.stop()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_asking()
        self._fleet.stop()
        self._journal.close()

    @contextmanager
    def none_open(self) -> Iterator[None]:
        """No command is under way or given: for what brings an older state of the database back."""
        with self._asking:
            until = time.monotonic() + SETTLED_WITHIN_S
            while not self._is_settled():
                if time.monotonic() > until:
                    raise NotSettled("commands do not end")
                time.sleep(LOOK_S)
            yield

    def settle(self) -> list[str]:
        """Give no more, wait until all have ended; what is not as it should be."""
        self._stop_asking()
        until = time.monotonic() + SETTLED_WITHIN_S
        while not self._is_settled() and time.monotonic() < until:
            time.sleep(LOOK_S)
        self._fleet.stop()
        with self._connected() as conn:
            account, still_open = self._relays.account(conn), self._relays.open(conn)
            rows = conn.execute(
                "SELECT state, count(*) FROM command WHERE device_id = ANY (%s) GROUP BY 1",
                [self._ids],
            ).fetchall()
        self.counts |= Counter({str(state): int(count) for state, count in rows})
        self.counts["ran"] = account.ran
        found = [
            f"commands, {name}: {text}"
            for name, texts in account.faults.items()
            if name != "unattributed"
            for text in texts[:MOST_SAID]
        ]
        if still_open:
            found.append(f"{still_open} commands have not ended")
        if self.counts["given"] and not self.counts["done"]:
            found.append(f"of {self.counts['given']} commands none was done")
        return found

    def _stop_asking(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _ask_on(self) -> None:
        while not self._stopping.wait(EVERY_S):
            with self._asking:
                self._ask()

    def _ask(self) -> None:
        chance = self._chance
        ask = Ask(
            chance.choice([Kind.ON, Kind.OFF, Kind.TOGGLE]),
            expires_in_s=round(chance.uniform(*EXPIRES_S), 3),
            queue_while_offline=chance.random() < 0.5,
        )
        try:
            with self._connected() as conn:
                accept(conn, chance.choice(self._ids), ask, ISSUER)
                self.counts["given"] += 1
        except CommandError:
            self.counts["refused"] += 1
        except psycopg.Error:
            self.counts["not heard"] += 1  # the database is away; whether it was taken, it knows

    def _is_settled(self) -> bool:
        try:
            with self._connected() as conn:
                return self._relays.is_settled(conn)
        except psycopg.Error:
            return False

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._database_url, autocommit=True, connect_timeout=5)
