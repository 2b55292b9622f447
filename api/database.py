"""The API's way to the database: a pool of connections that can only read."""

from collections.abc import AsyncIterator

import psycopg
from fastapi import Request
from psycopg_pool import AsyncConnectionPool

from api.problems import Problem
from api.settings import ApiSettings
from sinks import queries
from sinks.queries import Connection
from sinks.registry import DeviceRow

Pool = AsyncConnectionPool[Connection]
_RETRY_S = 5.0  # a failed connection is tried for so long, then anew with the next request


def make_pool(database_url: str, settings: ApiSettings) -> Pool:
    """A closed pool. Each request's queries see one snapshot, and cannot write.

    Plans are made for the values at hand, so that only chunks of the range asked for are opened.
    """
    options = {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "repeatable\\ read",
        "statement_timeout": f"{round(settings.statement_timeout_s * 1000)}",
        "idle_in_transaction_session_timeout": "30s",
        "plan_cache_mode": "force_custom_plan",
        "timezone": "UTC",
    }
    return AsyncConnectionPool(
        database_url,
        kwargs={
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "application_name": "meterstream-api",
            "connect_timeout": 3,
        },
        connection_class=psycopg.AsyncConnection,
        min_size=1,
        max_size=settings.pool_max,
        timeout=settings.pool_timeout_s,
        reconnect_timeout=_RETRY_S,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


async def connection(request: Request) -> AsyncIterator[Connection]:
    """Route dependency: one transaction for the whole request, over before the answer is sent."""
    async with request.app.state.pool.connection() as conn:
        yield conn


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
