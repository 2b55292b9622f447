"""Sensors and configuration of a device, how it was there, and what models promise."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from api import registry_models as models
from api.auth import require_operator
from api.database import Reading, Writing
from api.instants import Instant
from api.models import Contract
from api.parameters import DeviceText
from api.routes.homes import HOME_ERRORS
from schemas.models import Model
from sinks import device_configs, device_details, device_sensors, presence_history
from sinks import models as model_contracts
from sinks.presence import models as all_models
from sinks.registry import resolve_device

router = APIRouter(prefix="/api/v1", tags=["registry"])
Who = Annotated[str, Depends(require_operator)]
_GAPS_OF = timedelta(days=30)
_MOST_VERSIONS = 100


# ---------------------------------------------------------------- sensors


@router.get(
    "/devices/{device:path}/sensors",
    operation_id="listSensors",
    summary="List the sensors of a device",
    responses=HOME_ERRORS,
)
def list_sensors(device: DeviceText, conn: Reading) -> models.Sensors:
    return _sensors(conn, resolve_device(conn, device).device_id)


@router.put(
    "/devices/{device:path}/sensors",
    operation_id="setSensor",
    summary="Set a sensor",
    responses=HOME_ERRORS,
)
def set_sensor(device: DeviceText, body: models.Sensor, conn: Writing) -> models.Sensors:
    """Adds it, or replaces the one of that type on that channel; answers with all of them."""
    found = resolve_device(conn, device)
    sensor = device_sensors.Sensor(
        body.channel, body.type, body.address, body.ct_ratio, body.calibration
    )
    device_sensors.set_sensor(conn, found.device_id, sensor)
    return _sensors(conn, found.device_id)


@router.delete(
    "/devices/{device:path}/sensors",
    operation_id="removeSensor",
    summary="Remove a sensor",
    status_code=204,
    responses=HOME_ERRORS | {204: {"description": "It is gone."}},
)
def remove_sensor(
    device: DeviceText,
    channel: Annotated[str, Query(max_length=200)],
    type: Annotated[str, Query(max_length=200)],
    conn: Writing,
) -> Response:
    found = resolve_device(conn, device)
    device_sensors.remove_sensor(conn, found.device_id, channel, type)
    return Response(status_code=204)


def _sensors(conn: Reading, device_id: int) -> models.Sensors:
    found = device_sensors.list_sensors(conn, device_id)
    return models.Sensors(
        items=[models.Sensor.model_validate(one, from_attributes=True) for one in found]
    )


# ---------------------------------------------------------------- configuration


@router.get(
    "/devices/{device:path}/config",
    operation_id="getConfig",
    summary="Look at a configuration",
    responses=HOME_ERRORS,
)
def get_config(device: DeviceText, conn: Reading) -> models.Configuration:
    """As it shall be, as the device says it is, and what differs."""
    return _configuration(conn, resolve_device(conn, device).device_id)


@router.put(
    "/devices/{device:path}/config",
    operation_id="setConfig",
    summary="Set a configuration",
    responses=HOME_ERRORS,
)
def set_config(
    device: DeviceText, body: models.SetConfig, conn: Writing, who: Who
) -> models.Configuration:
    """Makes a new version, unless it is the newest one's; a command `config` sends it."""
    found = resolve_device(conn, device)
    device_configs.set_desired(conn, found.device_id, body.config, who)
    return _configuration(conn, found.device_id)


@router.get(
    "/devices/{device:path}/config/versions",
    operation_id="listConfigVersions",
    summary="List the versions of a configuration",
    responses=HOME_ERRORS,
)
def list_versions(device: DeviceText, conn: Reading) -> models.ConfigVersions:
    found = resolve_device(conn, device)
    versions = device_configs.versions(conn, found.device_id, _MOST_VERSIONS)
    return models.ConfigVersions(
        items=[models.ConfigVersion.model_validate(one, from_attributes=True) for one in versions]
    )


def _configuration(conn: Reading, device_id: int) -> models.Configuration:
    found = device_configs.configuration(conn, device_id)
    return models.Configuration.model_validate(found, from_attributes=True)


# ---------------------------------------------------------------- presence


@router.get(
    "/devices/{device:path}/presence",
    operation_id="listPresence",
    summary="How a device was there",
    responses=HOME_ERRORS,
)
def list_presence(
    device: DeviceText,
    conn: Reading,
    before: Annotated[Instant | None, Query(description="Changes before that.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> models.PresenceHistory:
    found = device_details.details(conn, resolve_device(conn, device).device_id)
    now = datetime.now(UTC)
    changes = presence_history.changes(conn, found.device_id, limit, before=before)
    gaps = presence_history.gaps(conn, found.device_id, now - _GAPS_OF, now)
    return models.PresenceHistory(
        device_id=found.device_id,
        state=models.described(found).presence,
        since_at=found.presence_since_at,
        heard_at=found.heard_at,
        rssi_dbm=found.rssi_dbm,
        contract=_contract(found.contract),
        items=[models.PresenceChange.model_validate(one, from_attributes=True) for one in changes],
        gaps=[models.Gap.model_validate(one, from_attributes=True) for one in gaps],
    )


# ---------------------------------------------------------------- models


@router.get("/models", operation_id="listModels", summary="List models")
def list_models(conn: Reading) -> models.Models:
    """Of devices, and what each promises; `family:…` holds for those of no known model."""
    return models.Models(items=[_contract(one) for one in all_models(conn).values()])


@router.put(
    "/models/{model}", operation_id="setModel", summary="Set a model", responses=HOME_ERRORS
)
def set_model(
    model: Annotated[str, Path(max_length=200)], body: models.SetModel, conn: Writing
) -> Contract:
    wanted = Model(model, **(body.model_dump() | {"capabilities": tuple(body.capabilities)}))
    model_contracts.set_model(conn, wanted)
    return _contract(wanted)


@router.delete(
    "/models/{model}",
    operation_id="removeModel",
    summary="Remove a model",
    status_code=204,
    responses=HOME_ERRORS | {204: {"description": "It is gone."}},
)
def remove_model(model: Annotated[str, Path(max_length=200)], conn: Writing) -> Response:
    """What is shipped for it, or its family's contract, holds again."""
    model_contracts.remove_model(conn, model)
    return Response(status_code=204)


def _contract(model: Model) -> Contract:
    return Contract.model_validate(model, from_attributes=True)
