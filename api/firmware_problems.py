"""What goes wrong with firmware, as problems."""

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from api.problems import Problem, request_id
from streams.firmware import errors

_ANSWERS: dict[type[errors.FirmwareError], tuple[int, str]] = {
    errors.NotTrusted: (422, "not-trusted"),
    errors.BadImage: (422, "bad-image"),
    errors.UnknownFirmware: (404, "not-found"),
    errors.BadRollout: (409, "bad-rollout"),
}


def install(app: FastAPI) -> None:
    app.exception_handler(errors.FirmwareError)(_on_error)


async def _on_error(request: Request, error: errors.FirmwareError) -> JSONResponse:
    status, kind = _ANSWERS[type(error)]
    return Problem(status, kind, str(error)).response(request_id(request))
