"""Faust's wiring: one agent on the raw topic, which hands its chunks to the pipeline."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import faust
import psycopg
import structlog

from schemas.connections import DatabaseConnection, KafkaConnection
from schemas.topics import RAW
from streams import metrics, transport
from streams.pipeline import Pipeline, Waiting
from streams.settings import WorkerSettings

log = structlog.get_logger()

STUCK_S = 60.0
MOST_IN_A_FETCH, MOST_FETCHES = 2_000, 8  # what waits in Faust while the database is away
HOLD_S = 0.5  # how often a worker says that it holds its name
SILENT_S = 3.0  # a holder that has not said so for so long is stopped, or cut off


class App(faust.App):  # type: ignore[misc]
    """A Faust app whose offsets come from the database."""

    pipeline: Pipeline

    async def release(self) -> None:
        await self.pipeline.release()

    async def positions(self, parts: Sequence[int], seek: int) -> dict[int, int]:
        return await self.pipeline.positions(parts, seek)


def create_app(
    settings: WorkerSettings, kafka: KafkaConnection, database: DatabaseConnection
) -> App:
    transport.register()
    broker = ";".join(f"{transport.SCHEME}://{host}" for host in kafka.bootstrap.split(","))
    app = App(
        settings.worker_group,
        broker=broker,
        datadir=str(settings.state_dir / f"faust-{settings.worker_id}"),
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_processing_timeout=1e9,  # Faust's own alarm knows nothing of chunks that wait
        stream_buffer_maxsize=MOST_FETCHES,
        agent_supervisor="mode.CrashingSupervisor",
        broker_commit_interval=1.0,
        broker_max_poll_records=MOST_IN_A_FETCH,
        broker_session_timeout=15.0,
        broker_heartbeat_interval=3.0,
        consumer_max_fetch_size=1024 * 1024,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.worker_id,
        producer_compression_type="lz4",
    )
    app.pipeline = Pipeline(
        database_url=database.url,
        bootstrap=kafka.bootstrap,
        most_records=settings.worker_most_records,
        pace_s=settings.worker_pace_ms / 1000,
    )
    raw = app.topic(RAW.name, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(raw, name="store")  # type: ignore[untyped-decorator]
    async def store(stream: Any) -> AsyncIterator[None]:
        async for event in stream.noack().events():
            await app.pipeline.put(
                Waiting(event.value, lambda event=event: stream.ack(event))  # type: ignore[misc]
            )
            yield

    @app.task  # type: ignore[untyped-decorator]
    async def run() -> None:
        await _guarded(app.pipeline.run())

    @app.task  # type: ignore[untyped-decorator]
    async def note_published() -> None:
        await _guarded(app.pipeline.note_published())

    @app.task  # type: ignore[untyped-decorator]
    async def follow_registry() -> None:
        await _guarded(app.pipeline.follow_registry())

    @app.task  # type: ignore[untyped-decorator]
    async def watch() -> None:
        await _guarded(app.pipeline.watch())

    @app.task  # type: ignore[untyped-decorator]
    async def serve_delivery_reports() -> None:
        threading.Thread(target=app.pipeline.poll_forever, daemon=True, name="reports").start()

    return app


async def _guarded(forever: Any) -> None:
    """A task that ends by an error ends the process: nothing works without it."""
    try:
        await forever
    except asyncio.CancelledError:
        raise
    except Exception as error:
        Pipeline.die(f"{type(error).__name__}: {error}")


_END_SILENT_HOLDER = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 2
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint = hashtext('meterstream-worker')::bigint & 4294967295
  AND objid::bigint = hashtext(%s)::bigint & 4294967295
  AND state_change < clock_timestamp() - %s * interval '1 second'
"""

_END_ITS_TRANSACTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'meterstream-worker' AND wait_event = 'ClientRead'
  AND xact_start < clock_timestamp() - %s * interval '1 second'
"""


_HOLDER = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint = hashtext('meterstream-worker')::bigint & 4294967295
  AND objid::bigint = hashtext(%s)::bigint & 4294967295
"""


def hold_worker_id(
    database_url: str, worker_id: str, *, lost_pid: int | None = None
) -> psycopg.Connection[Any]:
    """Hold a worker's name, as long as the connection lasts. Waits for the database.

    Two processes with one group instance id would displace each other for ever. From a holder
    that is silent (`keep_worker_id`) the name is taken: it is stopped, and finds itself fenced out
    when it goes on. `lost_pid` is the backend by which this process held the name before.
    Raises NameTaken when a living process holds it for longer than 20 s, or has taken it from us.
    """
    conn = _connected(database_url, worker_id)
    for _ in range(100):
        row = conn.execute(
            "SELECT pg_try_advisory_lock(hashtext('meterstream-worker'), hashtext(%s))", [worker_id]
        ).fetchone()
        if row and row[0]:
            return conn
        if lost_pid is not None and _taken_by_another(conn, worker_id, lost_pid):
            conn.close()
            raise NameTaken(f"another worker has taken over the name {worker_id!r}")
        if conn.execute(_END_SILENT_HOLDER, [worker_id, SILENT_S]).rowcount:
            conn.execute(_END_ITS_TRANSACTION, [SILENT_S])  # else `take_over` would wait for it
        time.sleep(0.2)
    conn.close()
    raise NameTaken(
        f"worker {worker_id!r} is already running on this database; "
        "give this one another number with METERSTREAM_INSTANCE"
    )


def _taken_by_another(conn: psycopg.Connection[Any], worker_id: str, lost_pid: int) -> bool:
    return any(pid != lost_pid for (pid,) in conn.execute(_HOLDER, [worker_id]))


class NameTaken(Exception):
    """Another process holds the worker's name."""


def _connected(database_url: str, worker_id: str) -> psycopg.Connection[Any]:
    while True:
        try:
            return psycopg.connect(
                database_url, autocommit=True, connect_timeout=5, application_name=worker_id
            )
        except psycopg.OperationalError as error:
            log.warning("waiting for the database", error=str(error).strip())
            time.sleep(HOLD_S)


def keep_worker_id(
    held: psycopg.Connection[Any], database_url: str, worker_id: str, named: threading.Event
) -> None:
    """Hold the name anew whenever an outage has ended the connection; runs in a thread.

    `named` is set while the name is ours. Who was stopped and finds that another has it ends.
    """
    pid = held.info.backend_pid
    while True:
        try:
            held.execute("SELECT 1")
            named.set()
            time.sleep(HOLD_S)
        except psycopg.OperationalError:
            named.clear()
            held.close()
            try:
                held = hold_worker_id(database_url, worker_id, lost_pid=pid)
                pid = held.info.backend_pid
            except NameTaken as error:
                Pipeline.die(str(error))
            except psycopg.OperationalError:
                continue  # it has gone away again


def health(pipeline: Pipeline) -> tuple[bool, dict[str, object]]:
    """Working means: the database answers, and records that wait are being stored."""
    idle_s = time.monotonic() - pipeline.last_commit
    lag_s = pipeline.lag_s
    if lag_s is not None:
        metrics.STREAM_LAG_S.set(lag_s)
    ok = pipeline.database_ok and (idle_s < STUCK_S)
    return ok, {
        "ok": ok,
        "database": pipeline.database_ok,
        "seconds_since_commit": round(idle_s, 1),
        "stream_time_lag_s": None if lag_s is None else round(lag_s, 1),
    }
