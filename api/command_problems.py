"""What goes wrong with commands, as problems."""

import math

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from api.problems import Problem, request_id
from sinks import command_errors as errors

_ANSWERS: dict[type[errors.CommandError], tuple[int, str]] = {
    errors.UnknownCommand: (404, "not-found"),
    errors.BadCommand: (422, "invalid-request"),
    errors.NotConfirmed: (422, "not-confirmed"),
    errors.UnknownRelay: (422, "unknown-relay"),
    errors.UnknownState: (409, "unknown-state"),
    errors.DeviceOffline: (409, "device-offline"),
    errors.TooSoon: (429, "too-soon"),
    errors.KeyReused: (409, "key-reused"),
    errors.NotCancellable: (409, "not-cancellable"),
}


def problem_of(error: errors.CommandError) -> Problem:
    status, kind = _ANSWERS[type(error)]
    headers = {}
    if isinstance(error, errors.TooSoon):
        headers["Retry-After"] = str(math.ceil(error.wait_s))
    return Problem(status, kind, str(error), headers=headers)


def install(app: FastAPI) -> None:
    app.exception_handler(errors.CommandError)(_on_error)


async def _on_error(request: Request, error: errors.CommandError) -> JSONResponse:
    return problem_of(error).response(request_id(request))
