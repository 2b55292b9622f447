"""Around every request: its id, headers, count, log line; and which hosts are answered."""

import re
import time
import uuid
from collections.abc import Sequence

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics
from api.problems import Problem, internal_error

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_CLIENT_GONE = 499
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class RequestContext:
    """The outermost layer: what happens to every request, also to one that fails."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = _CLIENT_GONE

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        started = time.perf_counter()
        self.metrics.in_progress.inc()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_headers)
            except Exception:
                structlog.get_logger().exception("request_failed")
                if status != _CLIENT_GONE:
                    raise  # the answer has begun; the server cuts the connection
                response = internal_error().response(request_id)
                await response(scope, receive, send_with_headers)
            finally:
                self.metrics.in_progress.dec()
                self._account(scope, status, time.perf_counter() - started)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        self.metrics.answered(scope["method"], route, status, seconds)
        log = structlog.get_logger()
        (log.debug if route in _QUIET else log.info)(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
        )


class TrustedHosts:
    """Starlette's TrustedHostMiddleware, answering with a problem and never redirecting."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self.app, self.allowed = app, tuple(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or await self._trusts(scope, receive):
            await self.app(scope, receive, send)
            return
        problem = Problem(
            400,
            "bad-host",
            "the Host header is not one of this server's; set METERSTREAM_API_ALLOWED_HOSTS",
        )
        await problem.response(scope["state"]["request_id"])(scope, receive, send)

    async def _trusts(self, scope: Scope, receive: Receive) -> bool:
        trusted = False

        async def reached(_scope: Scope, _receive: Receive, _send: Send) -> None:
            nonlocal trusted
            trusted = True

        async def unsent(_message: Message) -> None:
            pass

        check = TrustedHostMiddleware(reached, self.allowed, www_redirect=False)
        await check(scope, receive, unsent)
        return trusted
