"""The API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

from api import (
    account_problems,
    command_problems,
    docs_page,
    firmware_problems,
    home_problems,
    problems,
)
from api.auth import admit, token_hash
from api.database import make_commands_pool, make_homes_pool, make_pool
from api.metrics import Metrics
from api.middleware import RequestContext, TrustedHosts
from api.problems import ProblemDocument
from api.routes import (
    bills,
    claims,
    commands,
    costs,
    devices,
    firmware,
    health,
    home_usage,
    homes,
    provisioning,
    readings,
    references,
    registers,
    registry,
    usage,
)
from api.settings import ApiSettings
from schemas.connections import AccountsConnection
from sinks import queries

_ERRORS: dict[int | str, dict[str, object]] = {
    401: {"model": ProblemDocument, "description": "No token, or a wrong one."},
    403: {"model": ProblemDocument, "description": "A device's token, and not its own affair."},
    422: {"model": ProblemDocument, "description": "`errors` names each wrong field."},
    503: {"model": ProblemDocument, "description": "The database is away; see Retry-After."},
}


class Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = problems.describe(super().openapi())
        return self.openapi_schema


def create_app(
    settings: ApiSettings, database_url: str, accounts: AccountsConnection | None = None
) -> FastAPI:
    """The application; it connects when it starts, and starts also without the database.

    Without `accounts` it can give no device an account.
    """
    metrics = Metrics()
    pool = make_pool(database_url, settings)
    homes_pool = make_homes_pool(database_url, settings)
    commands_pool = make_commands_pool(database_url, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await pool.open(wait=False)
        homes_pool.open(wait=False)
        commands_pool.open(wait=False)
        try:
            yield
        finally:
            await pool.close()
            await to_thread.run_sync(homes_pool.close)
            await to_thread.run_sync(commands_pool.close)

    app = Api(
        title="Meterstream",
        version=version("meterstream"),
        description="Energy from the meter to the bill: devices, readings and usage.\n\n"
        "Instants are RFC 3339 in UTC; ranges are [from, to). Power is + import, - export. "
        "Errors are application/problem+json (RFC 9457).",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.pool = pool
    app.state.homes_pool = homes_pool
    app.state.commands_pool = commands_pool
    app.state.metrics = metrics
    app.state.accounts = accounts or AccountsConnection()
    app.state.token_hash = token_hash(settings.bearer_token())
    app.state.readiness = health.Readiness(
        pool, queries.newest_revision(), settings.ready_max_stream_lag_s
    )
    app.add_middleware(TrustedHosts, allowed=settings.allowed_hosts)
    app.add_middleware(RequestContext, metrics=metrics)  # added last: outermost
    problems.install(app)
    home_problems.install(app)
    command_problems.install(app)
    account_problems.install(app)
    firmware_problems.install(app)
    app.include_router(health.router)
    app.include_router(firmware.open_router)
    app.get("/docs", include_in_schema=False)(_docs)
    guarded = [Depends(admit)]  # of every route under /api/v1
    app.get("/api/v1/openapi.json", include_in_schema=False, dependencies=guarded)(_openapi)
    # the device's own path last: it takes slashes
    money = (home_usage, homes, bills, references, costs)
    fleet = (readings, usage, registers, commands, provisioning, registry, claims, firmware)
    for part in (*money, *fleet, devices):
        app.include_router(part.router, dependencies=guarded, responses=_ERRORS)
    return app


async def _openapi(request: Request) -> JSONResponse:
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


async def _docs() -> HTMLResponse:
    return HTMLResponse(docs_page.PAGE, headers={"Content-Security-Policy": docs_page.POLICY})
