"""The poller's two works: devices over HTTP, on an event loop; healing, in a thread beside it."""

import asyncio
import contextlib
import threading
import time
from random import Random
from typing import Any

import psycopg
from structlog.typing import FilteringBoundLogger

from ingest.poller.ear import Ear
from ingest.poller.healer import Healer
from ingest.poller.http_status import CannotAsk, StatusClient, can_be_asked, password_in
from ingest.poller.metrics import PollerMetrics
from ingest.poller.raw_writer import RawWriter
from ingest.poller.settings import PollerSettings
from ingest.poller.watch import Watch
from sinks.errors import is_transient
from sinks.polled_devices import PolledDevice, polled_devices

EXIT_FATAL = 70
STEP_S = 0.2
_FLUSH_S = 5.0


class Poller:
    """`run` until `stop`. An outage of broker, Kafka or database only stops what needs it; what
    else the database complains of ends the process with `exit_code` 70.
    """

    def __init__(
        self,
        settings: PollerSettings,
        ear: Ear,
        writer: RawWriter,
        database_url: str,
        metrics: PollerMetrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._ear = ear
        self._writer = writer
        self._database_url = database_url
        self._metrics = metrics
        self._log = log
        self._healer = Healer(ear, metrics, log, settings.answer_s)
        self._stopping = threading.Event()
        self._wanted: list[PolledDevice] = []
        self._followed: dict[PolledDevice, tuple[asyncio.Task[None], Watch]] = {}
        self.exit_code = 0
        self._database_trouble: str | None = "the database has not answered yet"

    def stop(self) -> None:
        """From a signal handler: leave `run` soon."""
        self._stopping.set()

    def troubles(self) -> list[str]:
        """What keeps it from its work; a broker that is away is its work."""
        found = [self._database_trouble, self._writer.trouble]
        return [each for each in found if each is not None]

    def run(self) -> None:
        self._ear.start()
        beside = threading.Thread(target=self._work_with_database, name="database")
        beside.start()
        try:
            asyncio.run(self._follow_devices())
        finally:
            self._stopping.set()
            beside.join()
            self._ear.close()
            self._writer.close(_FLUSH_S)

    # ---- beside: the registry and the ledger

    def _work_with_database(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    self._database_url, autocommit=True, application_name="meterstream-poller"
                ) as conn:
                    self._database_trouble = None
                    self._look_and_heal(conn)
            except psycopg.Error as error:
                self._database_trouble = str(error).strip()
                self._log.warning("database_away", error=self._database_trouble)
                if not is_transient(error):
                    self._log.critical("stop", exc_info=True)
                    self.exit_code = EXIT_FATAL
                    self._stopping.set()
                self._stopping.wait(1.0)

    def _look_and_heal(self, conn: psycopg.Connection[Any]) -> None:
        look_at_s = 0.0
        while not self._stopping.wait(STEP_S):
            now_s = time.monotonic()
            if now_s >= look_at_s:
                look_at_s = now_s + self._settings.look_s
                self._wanted = [d for d in polled_devices(conn) if can_be_asked(d.address)]
                self._healer.note(conn)
                self._healer.step(conn)
            elif self._healer.is_busy:
                self._healer.step(conn)

    # ---- on the event loop: the devices

    async def _follow_devices(self) -> None:
        look: asyncio.Task[None] | None = None
        while not self._stopping.is_set():
            self._keep_tasks()
            self._count()
            self._writer.tend()
            if self._writer.is_away and (look is None or look.done()):
                look = asyncio.create_task(asyncio.to_thread(self._writer.look))
            await asyncio.sleep(STEP_S)
        for task, _ in self._followed.values():
            task.cancel()
        await asyncio.gather(*(task for task, _ in self._followed.values()), return_exceptions=True)

    def _keep_tasks(self) -> None:
        """One task a device; a changed row is another device."""
        wanted = set(self._wanted)
        if wanted == self._followed.keys():
            return
        for device in self._followed.keys() - wanted:
            self._followed.pop(device)[0].cancel()
        for device in wanted - self._followed.keys():
            chance = Random()
            watch = Watch(device.interval_s, device.silent_after_s, time.monotonic(), chance)
            task = asyncio.create_task(self._follow(device, watch))
            self._followed[device] = (task, watch)
        self._ear.listen_to({device.address for device in wanted})

    async def _follow(self, device: PolledDevice, watch: Watch) -> None:
        client: StatusClient | None = None
        try:
            while True:
                now_s = time.monotonic()
                watch.heard(self._ear.heard_s(device.address))
                if not watch.is_due(now_s, self._ear.away_s(now_s)):
                    await asyncio.sleep(STEP_S)
                    continue
                watch.asked(now_s)
                try:
                    client = client or self._client_of(device)
                    await self._ask(device, client, watch, now_s)
                except CannotAsk as error:
                    watch.breaker.failed(time.monotonic())
                    self._metrics.polls["failed"].inc()
                    self._log.warning("poll_failed", address=device.address, reason=str(error))
        finally:
            if client is not None:
                with contextlib.suppress(Exception):
                    await client.close()

    async def _ask(
        self, device: PolledDevice, client: StatusClient, watch: Watch, asked_s: float
    ) -> None:
        body = await client.fetch()
        watch.breaker.succeeded()
        if self._ear.heard_s(device.address) > asked_s:
            # Its MQTT is back: what it said of this second is newer.
            self._metrics.polls["stepped_back"].inc()
            return
        self._writer.write(client.topic, body)
        self._metrics.polls["written"].inc()

    def _client_of(self, device: PolledDevice) -> StatusClient:
        password = None
        if device.secret_file is not None:
            password = password_in(self._settings.secrets_dir, device.secret_file)
        return StatusClient(device.address, device.host, password)

    def _count(self) -> None:
        now_s = time.monotonic()
        away_s = self._ear.away_s(now_s)
        watches = [watch for _, watch in self._followed.values()]
        self._metrics.devices.set(len(watches))
        self._metrics.silent.set(sum(watch.is_silent(now_s, away_s) for watch in watches))
        self._metrics.open_breakers.set(sum(watch.breaker.is_open(now_s) for watch in watches))
        self._metrics.connected.set(self._ear.is_connected)
