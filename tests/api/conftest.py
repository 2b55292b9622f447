"""A migrated database of its own, emptied before each test, and the API over it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import httpx
import psycopg
import pytest
import structlog
from fastapi import FastAPI
from psycopg import sql

from api.app import create_app
from api.settings import ApiSettings
from infra.local import Stack
from tests.databases import empty_tables, migrated_database

TOKEN = "open-sesame-0123456789"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Plain lines: structlog's default draws tracebacks with every local, which takes 15 s."""
    processors = structlog.get_config()["processors"]
    plain = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(processors=plain)
    yield
    structlog.configure(processors=processors)


@pytest.fixture(scope="session")
def migrated(stack: Stack) -> str:
    return migrated_database(stack, "api_tests")


@dataclass
class Rows:
    """Writes rows by hand, each with the columns that the test names."""

    conn: psycopg.Connection[Any]

    def insert(self, table: str, returning: str | None = None, **columns: object) -> int:
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
            sql.SQL("RETURNING {}").format(sql.Identifier(returning)) if returning else sql.SQL(""),
        )
        row = self.conn.execute(query, list(columns.values()))
        return int(row.fetchone()[0]) if returning else 0  # type: ignore[index]

    def device(self, address: str, **columns: object) -> int:
        family = address.partition(":")[0]
        return self.insert("device", "device_id", address=address, family=family, **columns)

    def channel(self, device_id: int, name: str) -> int:
        return self.insert("channel", "channel_id", device_id=device_id, name=name)

    def reading(self, channel_id: int, at: datetime, **values: object) -> None:
        columns = {"received_at": at, "log_offset": 1, "clock": 0, "source": 0} | values
        self.insert("readings", channel_id=channel_id, measured_at=at, **columns)

    def progress(self, channel_id: int, until: datetime, since: datetime, last: datetime) -> None:
        """Say that the channel's minutes are complete until `until`."""
        self.insert(
            "channel_state",
            channel_id=channel_id,
            part=3,
            complete_until=until,
            context_from=since,
            last_reading_at=last,
            has_import=False,
            has_export=False,
            has_interval=False,
            context_full=True,
        )

    def usage(self, table: str, channel_id: int, start: object, uwh: int, **more: object) -> None:
        """A row of `usage_…` with these µWh; what is not said is plausible."""
        civil = table in ("usage_1d", "usage_1w", "usage_1mo")
        columns: dict[str, object] = {
            "channel_id": channel_id,
            "day" if civil else "window_start": start,
            "energy_uwh": uwh,
            "export_uwh": 0,
            "readings": 12,
            "quality": 0,
        }
        if table == "usage_1m":
            columns |= {"why": 0, "revision": 1, "changed_offset": 5}
        if table == "usage_15m":
            columns |= {"why": 0, "revision": 1, "complete": True}
        self.insert(table, **(columns | more))

    def stream(self, partitions: int, at: datetime | None) -> None:
        for part in range(partitions):
            self.insert(
                "stream_progress",
                topic="energy.raw.v1",
                part=part,
                epoch=1,
                pid=1,
                next_offset=part,
                published_offset=0,
                stream_time=at,
            )


@pytest.fixture
def rows(migrated: str) -> Iterator[Rows]:
    with psycopg.connect(migrated, autocommit=True) as conn:
        empty_tables(conn)
        yield Rows(conn)


class Serve(Protocol):
    def __call__(
        self, url: str | None = None, **settings: object
    ) -> AbstractAsyncContextManager[httpx.AsyncClient]: ...


@pytest.fixture
def serve(migrated: str) -> Serve:
    """Start an API with these settings, and give a client that holds the token."""

    @asynccontextmanager
    async def start(url: str | None = None, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
        given = ApiSettings.model_validate({"token": TOKEN, **settings})
        app: FastAPI = create_app(given, url or migrated)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://127.0.0.1:8080",
                headers={"Authorization": f"Bearer {TOKEN}"},
            ) as client,
        ):
            yield client

    return start


@pytest.fixture
async def client(serve: Serve, rows: Rows) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as one:
        yield one
