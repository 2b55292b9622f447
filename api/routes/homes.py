"""Homes, their contracts, the channels that count for them, and readings of the utility's meter."""

from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import home_models as models
from api.database import Reading, Writing
from api.instants import Instant
from api.problems import ProblemDocument
from sinks import contracts, home_meters, utility_readings
from sinks.registry import resolve_device
from streams.tariffs.contract import Contract
from streams.tariffs.loading import known_tariffs

router = APIRouter(prefix="/api/v1", tags=["homes"])
HomeId = Annotated[str, Path(max_length=200)]
HOME_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemDocument, "description": "No such home, or no such device."},
    409: {"model": ProblemDocument, "description": "It contradicts what is; `detail` says how."},
}
_GONE: dict[int | str, dict[str, Any]] = {204: {"description": "It is gone."}}


@router.get("/homes", operation_id="listHomes", summary="List homes")
def list_homes(conn: Reading) -> models.Homes:
    return models.Homes(items=[_home(home) for home in contracts.list_homes(conn)])


@router.get(
    "/homes/{home_id}", operation_id="getHome", summary="Look at a home", responses=HOME_ERRORS
)
def get_home(home_id: HomeId, conn: Reading) -> models.Home:
    return _home(contracts.find_home(conn, home_id))


@router.put(
    "/homes/{home_id}", operation_id="setHome", summary="Set up a home", responses=HOME_ERRORS
)
def set_home(home_id: HomeId, body: models.SetHome, conn: Writing) -> models.Home:
    """Or change it. The zone cannot change while the home has contracts."""
    return _home(contracts.set_home(conn, home_id, name=body.name, zone=body.zone))


# ---------------------------------------------------------------- contracts


@router.get(
    "/homes/{home_id}/contracts",
    operation_id="listContracts",
    summary="List contracts",
    responses=HOME_ERRORS,
)
def list_contracts(home_id: HomeId, conn: Reading) -> models.Contracts:
    contracts.find_home(conn, home_id)
    return _contracts(conn, home_id)


@router.put(
    "/homes/{home_id}/contracts",
    operation_id="setContract",
    summary="Set a contract",
    responses=HOME_ERRORS,
)
def set_contract(home_id: HomeId, body: models.Contract, conn: Writing) -> models.Contracts:
    """Adds it, or replaces the one that begins on the same day; answers with all of them."""
    contract = Contract(body.tariff_id, body.valid_from, body.cycle_day, body.ampere_a)
    contracts.set_contract(conn, home_id, contract, known_tariffs())
    return _contracts(conn, home_id)


@router.delete(
    "/homes/{home_id}/contracts",
    operation_id="removeContract",
    summary="Remove a contract",
    status_code=204,
    responses=HOME_ERRORS | _GONE,
)
def remove_contract(
    home_id: HomeId, valid_from: Annotated[date, Query()], conn: Writing
) -> Response:
    contracts.remove_contract(conn, home_id, valid_from)
    return Response(status_code=204)


# ---------------------------------------------------------------- meters


class MeterQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    device: models.Text
    channel: models.Text | None = None
    valid_from: Instant | None = Field(
        default=None, description="Which entry of the channel; not needed where there is one."
    )


@router.get(
    "/homes/{home_id}/meters",
    operation_id="listMeters",
    summary="List meters",
    responses=HOME_ERRORS,
)
def list_meters(home_id: HomeId, conn: Reading) -> models.Meters:
    """The channels that count for the home: only these enter usage, bills, cost and budgets."""
    contracts.find_home(conn, home_id)
    return _meters(conn, home_id)


@router.put(
    "/homes/{home_id}/meters",
    operation_id="setMeter",
    summary="Let a channel count",
    responses=HOME_ERRORS,
)
def set_meter(home_id: HomeId, body: models.SetMeter, conn: Writing) -> models.Meters:
    """Adds it, or replaces the channel's entry of that beginning; answers with all of them."""
    home_meters.set_meter(
        conn,
        home_id,
        resolve_device(conn, body.device),
        body.channel,
        body.role,
        valid_from=body.valid_from,
        valid_to=body.valid_to,
    )
    return _meters(conn, home_id)


@router.delete(
    "/homes/{home_id}/meters",
    operation_id="removeMeter",
    summary="Remove a meter",
    status_code=204,
    responses=HOME_ERRORS | _GONE,
)
def remove_meter(home_id: HomeId, query: Annotated[MeterQuery, Query()], conn: Writing) -> Response:
    """As if the channel had never counted; to end it, set its `valid_to`."""
    device = resolve_device(conn, query.device)
    home_meters.remove_meter(conn, home_id, device, query.channel, query.valid_from)
    return Response(status_code=204)


# ---------------------------------------------------------------- the utility's meter


@router.get(
    "/homes/{home_id}/utility-readings",
    operation_id="listUtilityReadings",
    summary="List readings of the utility's meter",
    responses=HOME_ERRORS,
)
def list_readings(home_id: HomeId, conn: Reading) -> models.UtilityReadings:
    """And what each two that follow each other say beside our ledger."""
    contracts.find_home(conn, home_id)
    return models.UtilityReadings(
        items=[models.UtilityReading.of(one) for one in utility_readings.readings(conn, home_id)],
        differences=[difference_model(one) for one in utility_readings.differences(conn, home_id)],
    )


@router.post(
    "/homes/{home_id}/utility-readings",
    operation_id="enterUtilityReading",
    summary="Enter a reading of the utility's meter",
    status_code=201,
    responses=HOME_ERRORS,
)
def enter_reading(
    home_id: HomeId, body: models.UtilityReading, conn: Writing
) -> models.UtilityReading:
    """The same instant again corrects it."""
    reading = utility_readings.UtilityReading(
        body.read_at, body.import_kwh, body.export_kwh, body.is_new_meter
    )
    utility_readings.enter_reading(conn, home_id, reading, datetime.now(UTC))
    return body


@router.delete(
    "/homes/{home_id}/utility-readings",
    operation_id="removeUtilityReading",
    summary="Remove a reading of the utility's meter",
    status_code=204,
    responses=HOME_ERRORS | _GONE,
)
def remove_reading(
    home_id: HomeId, read_at: Annotated[Instant, Query()], conn: Writing
) -> Response:
    utility_readings.remove_reading(conn, home_id, read_at)
    return Response(status_code=204)


def difference_model(one: utility_readings.Difference) -> models.Difference:
    def compared(side: utility_readings.Compared | None) -> models.Compared | None:
        if side is None:
            return None
        return models.Compared.of(side)

    return models.Difference.model_validate(
        {
            "start": one.start,
            "end": one.end,
            "import": compared(one.import_),
            "export": compared(one.export),
            "unmeasured_quarters": one.unmeasured_quarters,
            "incomplete_quarters": one.incomplete_quarters,
            "missing": one.missing,
        }
    )


def _home(home: contracts.Home) -> models.Home:
    return models.Home.of(home)


def _contracts(conn: Reading, home_id: str) -> models.Contracts:
    held = contracts.contracts(conn, home_id)
    return models.Contracts(items=[models.Contract.of(one) for one in held])


def _meters(conn: Reading, home_id: str) -> models.Meters:
    found = home_meters.list_meters(conn, home_id)
    return models.Meters(items=[models.Meter.of(one) for one in found])
