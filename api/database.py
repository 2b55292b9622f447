"""The API's ways to the database.

Readings and usage of devices are asked for through asynchronous connections that can only read.
Homes, their contracts, bills and budgets go through a second small pool of synchronous ones: their
routes are plain functions, run beside the event loop, and share every query with the command line.
Commands to devices have a third, whose routes open their transactions themselves: each change of
threads and each round trip is a millisecond of a relay's delay.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Request
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from api.problems import Problem
from api.settings import ApiSettings
from sinks import queries
from sinks.queries import Connection
from sinks.registry import DeviceRow

Pool = AsyncConnectionPool[Connection]
SyncConnection = psycopg.Connection[Any]
HomesPool = ConnectionPool[SyncConnection]
_RETRY_S = 5.0  # a failed connection is tried for so long, then anew with the next request


def make_pool(database_url: str, settings: ApiSettings) -> Pool:
    """A closed pool. Each request's queries see one snapshot, and cannot write.

    Plans are made for the values at hand, so that only chunks of the range asked for are opened.
    """
    options = _options(settings) | {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "repeatable\\ read",
    }
    return AsyncConnectionPool(
        database_url,
        kwargs=_arguments(options),
        connection_class=psycopg.AsyncConnection,
        min_size=1,
        max_size=settings.pool_max,
        timeout=settings.pool_timeout_s,
        reconnect_timeout=_RETRY_S,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


def make_homes_pool(database_url: str, settings: ApiSettings) -> HomesPool:
    """A closed pool of connections that may write."""
    arguments = _arguments(_options(settings))
    return _writing_pool(database_url, settings, arguments, settings.homes_pool_max)


def make_commands_pool(database_url: str, settings: ApiSettings) -> HomesPool:
    """A closed pool of connections in autocommit mode, which keep their plans: what is asked
    through them is found by keys.
    """
    arguments = _arguments(_options(settings) | {"plan_cache_mode": "auto"}) | {"autocommit": True}
    return _writing_pool(database_url, settings, arguments, settings.commands_pool_max)


def _writing_pool(
    database_url: str, settings: ApiSettings, arguments: dict[str, Any], most: int
) -> HomesPool:
    return ConnectionPool(
        database_url,
        kwargs=arguments,
        connection_class=psycopg.Connection,
        min_size=1,
        max_size=most,
        timeout=settings.pool_timeout_s,
        reconnect_timeout=_RETRY_S,
        check=ConnectionPool.check_connection,
        open=False,
    )


def _options(settings: ApiSettings) -> dict[str, str]:
    return {
        "statement_timeout": f"{round(settings.statement_timeout_s * 1000)}",
        "idle_in_transaction_session_timeout": "30s",
        "plan_cache_mode": "force_custom_plan",
        "timezone": "UTC",
    }


def _arguments(options: dict[str, str]) -> dict[str, Any]:
    return {
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        "application_name": "meterstream-api",
        "connect_timeout": 3,
    }


async def connection(request: Request) -> AsyncIterator[Connection]:
    """Route dependency: one transaction for the whole request, over before the answer is sent."""
    async with request.app.state.pool.connection() as conn:
        yield conn


def writing(request: Request) -> Iterator[SyncConnection]:
    """Route dependency of plain functions: one transaction, committed before the answer is sent.

    An exception of the route rolls it back. Give it `scope="function"` (see `Writing`).
    """
    with request.app.state.homes_pool.connection() as conn:
        yield conn


def reading(request: Request) -> Iterator[SyncConnection]:
    """The same for a route that only reads: all its queries see one snapshot."""
    with request.app.state.homes_pool.connection() as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield conn


async def commands_pool(request: Request) -> HomesPool:
    """Route dependency: where a plain function takes a connection for itself."""
    pool: HomesPool = request.app.state.commands_pool
    return pool


CommandsPool = Annotated[HomesPool, Depends(commands_pool)]
Writing = Annotated[SyncConnection, Depends(writing, scope="function")]
Reading = Annotated[SyncConnection, Depends(reading, scope="function")]


async def find_device(conn: Connection, text: str) -> DeviceRow:
    """The device with this id, name or address. Raises Problem 404, and 409 if several are."""
    found = await queries.find_devices(conn, text) if _storable(text) else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise Problem(404, "not-found", f"no device has the name, address or id {text[:200]!r}")
    candidates = [{"id": one.device_id, "address": one.address} for one in found]
    raise Problem(
        409,
        "ambiguous-device",
        f"{text!r} is more than one device; use the address or id of one",
        candidates=candidates,
    )


def _storable(text: str) -> bool:
    return len(text) <= 1000 and "\0" not in text
