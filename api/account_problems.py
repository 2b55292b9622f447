"""What goes wrong with devices' accounts, as problems."""

import structlog
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from api.problems import RETRY_AFTER_S, Problem, request_id
from sinks.accounts import NodeNameTaken, NoSuchAccount
from sinks.broker_control import BrokerAway, BrokerRefused
from sinks.provisioning import AlreadyProvisioned, NotProvisionable
from sinks.registry import RegistryError

_ANSWERS: dict[type[RegistryError], tuple[int, str]] = {
    NoSuchAccount: (404, "not-found"),
    NodeNameTaken: (409, "name-taken"),
    AlreadyProvisioned: (409, "already-provisioned"),
    NotProvisionable: (422, "not-provisionable"),
}


def install(app: FastAPI) -> None:
    for kind in _ANSWERS:
        app.exception_handler(kind)(_on_registry)
    app.exception_handler(BrokerAway)(_on_broker)
    app.exception_handler(BrokerRefused)(_on_broker)


async def _on_registry(request: Request, error: RegistryError) -> JSONResponse:
    status, kind = _ANSWERS[type(error)]
    return Problem(status, kind, str(error)).response(request_id(request))


async def _on_broker(request: Request, error: BrokerAway | BrokerRefused) -> JSONResponse:
    structlog.get_logger().warning("broker_away", error=str(error))
    problem = Problem(
        503,
        "broker-away",
        "the MQTT broker does not answer its administrator, so nothing was changed; try again soon",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
    return problem.response(request_id(request))
