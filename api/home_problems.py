"""What goes wrong with homes, their meters and their tariffs, as problems."""

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from api.problems import Problem, request_id
from sinks.bills import NoBill
from sinks.budgets import UnknownBudget
from sinks.claims import AlreadyClaimed, BadClaim, TooManyClaims
from sinks.contracts import AmbiguousMeters, HomeError, NoMeter, UnknownHome
from sinks.device_homes import BadMove
from sinks.device_sensors import UnknownSensor
from sinks.models import UnknownModel
from sinks.registry import AmbiguousDevice, NameTaken, RegistryError, UnknownDevice
from streams.billing.utility import BadUtilityBill
from streams.tariffs.errors import BadTariff, BadUsage, NotKnown, TariffError, UnknownTariff

_ANSWERS: dict[type[Exception], tuple[int, str]] = {
    UnknownHome: (404, "not-found"),
    UnknownBudget: (404, "not-found"),
    NoMeter: (409, "no-meter"),
    AmbiguousMeters: (409, "ambiguous-meters"),
    HomeError: (422, "invalid-request"),
    UnknownDevice: (404, "not-found"),
    AmbiguousDevice: (409, "ambiguous-device"),
    NameTaken: (409, "name-taken"),
    UnknownModel: (404, "not-found"),
    UnknownSensor: (404, "not-found"),
    AlreadyClaimed: (409, "already-claimed"),
    BadClaim: (409, "bad-claim"),
    TooManyClaims: (429, "too-many-requests"),
    BadMove: (409, "bad-move"),
    RegistryError: (422, "invalid-request"),
    UnknownTariff: (422, "unknown-tariff"),
    NotKnown: (409, "not-known"),
    BadUsage: (409, "not-billable"),
    BadTariff: (500, "bad-tariff"),
    NoBill: (404, "not-found"),
    BadUtilityBill: (422, "invalid-request"),
    TariffError: (409, "not-billable"),
}
"""Status and kind of each error; of a subclass that is not named, those of its base."""


def install(app: FastAPI) -> None:
    for kind in (HomeError, RegistryError, TariffError):
        app.exception_handler(kind)(_on_error)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    status, name = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    headers = {}
    if isinstance(error, TooManyClaims):
        headers["Retry-After"] = str(error.retry_after_s)
    return Problem(status, name, str(error), headers=headers).response(request_id(request))
