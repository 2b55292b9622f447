"""A swarm that speaks until it is told to stop, and the accounting of it afterwards.

What `meterstream load` does for a given time, for tests that do not know how long their kills take.
"""

import asyncio
import threading
from pathlib import Path
from typing import Self

from infra.cli.load import account_for, claim_devices
from infra.swarm.record import Record
from infra.swarm.swarm import Counts, Swarm, SwarmSettings, new_record
from sinks.accounting import Account
from tests.system.conftest import Pipeline, wait_for

CONNECT_S = 60.0
DRAIN_S = 120.0
FINAL_S = 200.0


class SteadyLoad:
    """Nodes that make `rate` messages a second together, on a thread of their own."""

    def __init__(
        self, pipeline: Pipeline, folder: Path, home: str, *, devices: int, rate: float,
        seed: int = 7, phases: int = 1, believe: str = "ack",
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self.settings = SwarmSettings(
            home=home, devices=devices, rate=rate, seed=seed, phases=phases,
            believe="puback" if believe == "puback" else "ack", port=pipeline.stack.mqtt_port,
        )  # fmt: skip
        self.channels = claim_devices(pipeline.stack.database_url, self.settings)
        self._record: Record = new_record(self.settings, folder)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swarm")
        self._failure: BaseException | None = None
        self.counts = Counts()
        self.unacked = -1

    @property
    def addresses(self) -> list[str]:
        return [self.settings.address(node) for node in range(self.settings.devices)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._speak())
        except BaseException as error:
            self._failure = error

    async def _speak(self) -> None:
        async with Swarm(self.settings, self._record) as swarm:
            self.counts = swarm.counts
            await swarm.connect(CONNECT_S)
            while not self._stopping.is_set():
                await swarm.run(1.0)
            await swarm.drain(DRAIN_S)
            await swarm.finish()
            self.unacked = await swarm.drain(DRAIN_S)

    def stored_after(self, instant: float) -> int:
        """How many nodes have a row that was measured after this Unix time."""
        ids = [node[0] for node in self.channels.values()]
        return int(
            self._pipeline.value(
                "SELECT count(*) FROM unnest(%s::integer[]) AS c (id) WHERE EXISTS "
                "(SELECT FROM readings WHERE channel_id = c.id AND measured_at > to_timestamp(%s))",
                ids, instant,
            )
        )  # fmt: skip

    def wait_until_stored(self, instant: float, timeout_s: float = 60.0) -> None:
        """Wait until every node has a row that was measured after this Unix time."""

        def every_node() -> bool:
            assert self._failure is None, self._failure
            return self.stored_after(instant) == self.settings.devices

        wait_for(every_node, "rows of every node flow again", timeout_s)

    def finish(self) -> Account:
        """Stop speaking, wait until all usage is final, and account for every reading."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._pipeline.final(*self.addresses, timeout_s=FINAL_S)
        return account_for(self._pipeline.stack.database_url, self._record.path, self.channels)
