"""Who asks: one bearer token, the operator's, until accounts come."""

import hmac
from hashlib import sha256
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.problems import Problem

Operator = Literal["operator"]
_bearer = HTTPBearer(auto_error=False, description="The token of METERSTREAM_API_TOKEN.")


async def require_operator(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Operator:
    """Let the holder of the token in. Raises Problem 401 for anybody else.

    Asynchronous, so that no request changes threads for it.
    """
    if credentials is None:
        raise _refused("give Authorization: Bearer <token>", "Bearer")
    given = sha256(credentials.credentials.encode()).digest()
    if not hmac.compare_digest(given, request.app.state.token_hash):
        raise _refused("the token is not valid", 'Bearer error="invalid_token"')
    return "operator"


def token_hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _refused(detail: str, challenge: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})
