"""A swarm that speaks until it is told to stop, on a thread of its own, and its accounting.

What `meterstream load` does for a given time, for who does not know how long the faults take.
"""

import asyncio
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from infra.loads.accounting import Progress, account_for, claim_devices
from infra.local.door import NEED_ANONYMOUS, knock
from infra.swarm.record import Record
from infra.swarm.swarm import Counts, Swarm, SwarmSettings, new_record
from schemas.connections import MqttConnection
from sinks.accounting import Account
from sinks.finality import wait_final

CONNECT_S = 90.0
DRAIN_S = 600.0
FINAL_S = 600.0
LOOK_S = 0.05

_NEWER = """
SELECT count(*) FROM unnest(%s::integer[]) AS c (id) WHERE EXISTS
(SELECT FROM readings WHERE channel_id = c.id AND measured_at > to_timestamp(%s))
"""


class LoadFailed(Exception):
    """The swarm ended by an error, or nothing of it is stored any more."""


class SteadyLoad:
    """Nodes that make readings at a rate together, while the block runs."""

    def __init__(
        self, settings: SwarmSettings, *, database_url: str, kafka_bootstrap: str, folder: Path
    ) -> None:
        """Raises NotLetIn where the broker wants accounts."""
        knock(MqttConnection(host=settings.host, port=settings.port), None, NEED_ANONYMOUS)
        self.settings = settings
        self.channels = claim_devices(database_url, settings)
        self.record: Record = new_record(settings, folder)
        self.counts = Counts()
        self.unacked = -1
        self.failure: BaseException | None = None
        self._database_url, self._kafka_bootstrap = database_url, kafka_bootstrap
        self._conn: psycopg.Connection[Any] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swarm")

    @property
    def addresses(self) -> list[str]:
        return [self.settings.address(node) for node in range(self.settings.devices)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._drop()

    def _run(self) -> None:
        try:
            asyncio.run(self._speak())
        except BaseException as error:
            self.failure = error

    async def _speak(self) -> None:
        async with Swarm(self.settings, self.record) as swarm:
            self.counts = swarm.counts
            await swarm.connect(CONNECT_S)
            while not self._stopping.is_set():
                await swarm.run(1.0)
            await swarm.drain(DRAIN_S)
            await swarm.finish()
            self.unacked = await swarm.drain(DRAIN_S)

    # ---- what of it is stored

    def stored_after(self, instant: float) -> int | None:
        """How many nodes have a row that was measured after this Unix time; None: nobody answers.

        Raises LoadFailed when the swarm has ended.
        """
        if self.failure is not None:
            raise LoadFailed(f"the swarm ended: {self.failure!r}") from self.failure
        ids = [node[0] for node in self.channels.values()]
        try:
            if self._conn is None:
                self._conn = psycopg.connect(
                    self._database_url,
                    autocommit=True,
                    connect_timeout=5,
                    application_name="steady-load",
                    options="-c statement_timeout=10s",
                )
            row = self._conn.execute(_NEWER, [ids, instant]).fetchone()
        except psycopg.OperationalError:
            self._drop()
            return None
        assert row is not None
        return int(row[0])

    def wait_until_stored(
        self, instant: float, *, nodes: int | None = None, timeout_s: float = 300.0
    ) -> float:
        """Wait until so many nodes (None: all) have a row measured after this Unix time.

        Returns the seconds from that time to the answer that holds it. Raises LoadFailed.
        """
        wanted = self.settings.devices if nodes is None else nodes
        until = time.monotonic() + timeout_s
        while (self.stored_after(instant) or 0) < wanted:
            if time.monotonic() > until:
                raise LoadFailed(f"no newer rows of {wanted} nodes within {timeout_s:.0f} s")
            time.sleep(LOOK_S)
        return time.time() - instant

    def _drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    # ---- the end

    def finish(self, told: Progress | None = None, *, most_named: int | None = None) -> Account:
        """Stop speaking, wait until all usage is final, and account for every reading.

        Raises LoadFailed, NotFinal.
        """
        self._stopping.set()
        while self._thread.is_alive():
            self._thread.join(0.5)
            if told is not None:
                told("draining", self.counts.acked, self.counts.made)
        if self.failure is not None:
            raise LoadFailed(f"the swarm ended: {self.failure!r}") from self.failure
        wait_final(
            self._database_url,
            self._kafka_bootstrap,
            self.addresses,
            timeout_s=FINAL_S,
            progress=None
            if told is None
            else lambda missing: told(f"until usage is final: {missing}", 0, 0),
        )
        return account_for(
            self._database_url, self.record.path, self.channels, told, most_named=most_named
        )
