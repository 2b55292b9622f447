"""Who asks: the operator, with one bearer token until people's accounts come; or a device, with its
own.
"""

import hmac
from hashlib import sha256
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.database import Pool, find_device
from api.problems import Problem
from sinks import queries
from sinks.accounts import TOKEN_CHARACTERS
from sinks.queries import Connection

Operator = Literal["operator"]
_OF_A_DEVICE = frozenset({"getDevice", "getConfig", "listCommands"})
"""What a device may ask of itself: what its topics on the broker tell it. Not what it measured: it
may have been another home's then.
"""
_bearer = HTTPBearer(
    auto_error=False,
    description="The token of METERSTREAM_API_TOKEN; or a device's, for what is its own.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def require_operator(request: Request, credentials: Credentials) -> Operator:
    """Let the holder of the operator's token in. Raises Problem 401 for anybody else.

    Asynchronous, so that no request changes threads for it.
    """
    if not _is_operators(request, _digest(credentials)):
        raise _refused("the token is not valid", 'Bearer error="invalid_token"')
    return "operator"


async def admit(request: Request, credentials: Credentials) -> None:
    """Let the operator in, and a device that asks for what is its own.

    Raises Problem 401 for a token that nobody has, and 403 for a device that asks for more.
    """
    digest = _digest(credentials)
    if _is_operators(request, digest):
        return
    device_id = None
    if credentials is not None and len(credentials.credentials) == TOKEN_CHARACTERS:
        pool: Pool = request.app.state.pool
        async with pool.connection() as conn:
            device_id = await queries.device_of_token(conn, digest)
            if device_id is not None and await _is_its_own(conn, request, device_id):
                return
    if device_id is None:
        raise _refused("the token is not valid", 'Bearer error="invalid_token"')
    raise Problem(
        403,
        "forbidden",
        "a device's token opens GET /api/v1/devices/<itself>, its /config and its /commands; "
        "for anything else take the operator's",
    )


def token_hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _digest(credentials: HTTPAuthorizationCredentials | None) -> bytes:
    if credentials is None:
        raise _refused("give Authorization: Bearer <token>", "Bearer")
    return token_hash(credentials.credentials)


def _is_operators(request: Request, digest: bytes) -> bool:
    return hmac.compare_digest(digest, request.app.state.token_hash)


async def _is_its_own(conn: Connection, request: Request, device_id: int) -> bool:
    if getattr(request.scope.get("route"), "operation_id", None) not in _OF_A_DEVICE:
        return False
    try:
        found = await find_device(conn, request.path_params["device"])
    except Problem:
        return False  # whether others are there is not its own affair either
    return found.device_id == device_id


def _refused(detail: str, challenge: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})
