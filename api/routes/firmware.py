"""Firmware: signed documents and images come in, nodes fetch pieces, roll-outs are steered."""

import re
from typing import Annotated, Any

import msgspec
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from api import firmware_models as models
from api.auth import Operator, require_operator
from api.database import Reading, Writing
from api.problems import Problem, ProblemDocument
from schemas.firmware import MOST_IMAGE_BYTES, Envelope
from sinks import firmware, firmware_rollouts

router = APIRouter(prefix="/api/v1", tags=["firmware"])
open_router = APIRouter(tags=["firmware"])
Caller = Annotated[Operator, Depends(require_operator)]
Id = Annotated[int, Path(ge=1, lt=2**31)]
_RANGE = re.compile(r"bytes=(\d{1,9})-(\d{1,9})")

ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemDocument, "description": "No such firmware, or no such roll-out."},
    409: {"model": ProblemDocument, "description": "Not as things are; `detail` says why."},
    413: {"model": ProblemDocument, "description": "Larger than any image."},
}


@router.post(
    "/firmware-roots",
    operation_id="addFirmwareRoot",
    summary="Add a root document",
    responses=ERRORS,
)
def add_root(body: models.Envelope, conn: Writing) -> models.RootKnown:
    """The first is believed as it is; each later one must be signed by the keys of the one before.

    It is sent to nodes with the next update.
    """
    root = firmware.add_root(conn, _envelope(body))
    return models.RootKnown(version=root.version, expires=root.expires)


@router.get("/firmware", operation_id="listFirmware", summary="List firmware")
def list_firmware(conn: Reading) -> models.Firmwares:
    return models.Firmwares(
        items=[models.Firmware.model_validate(one) for one in firmware.list_all(conn)]
    )


@router.post(
    "/firmware",
    operation_id="addFirmware",
    summary="Add a signed manifest",
    status_code=201,
    responses=ERRORS,
)
def add_firmware(body: models.Envelope, conn: Writing) -> models.Firmware:
    """Refused unless the keys of the newest root have signed it. Its image follows."""
    return models.Firmware.model_validate(firmware.add_manifest(conn, _envelope(body)))


@router.put(
    "/firmware/{firmware_id}/image",
    operation_id="addFirmwareImage",
    summary="Upload an image",
    status_code=204,
    responses=ERRORS | {204: {"description": "It is the image that was signed, and is kept."}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def add_image(firmware_id: Id, request: Request) -> Response:
    """The bytes as they are: no form."""
    image = await _body(request)

    def store() -> None:
        with request.app.state.homes_pool.connection() as conn:
            firmware.add_image(conn, firmware_id, image)

    await to_thread.run_sync(store)
    return Response(status_code=204)


@open_router.get(
    "/firmware/{sha256}",
    operation_id="fetchFirmware",
    summary="Fetch an image, or a piece of it",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The image."},
        206: {"content": {"application/octet-stream": {}}, "description": "The piece asked for."},
        404: {"model": ProblemDocument, "description": "No such image."},
        416: {"model": ProblemDocument, "description": "The range lies behind its end."},
    },
)
def fetch_image(
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    conn: Reading,
    range_: Annotated[str | None, Header(alias="Range", max_length=60)] = None,
) -> Response:
    """Open: who knows an image's SHA-256 may have it. Images hold no secrets, and are signed."""
    asked = _RANGE.fullmatch(range_ or "")
    first, last = (int(asked[1]), int(asked[2])) if asked else (0, MOST_IMAGE_BYTES - 1)
    length = min(last - first + 1, MOST_IMAGE_BYTES)
    if length < 1:
        raise Problem(416, "bad-range", f"a range from {first} to {last} has no bytes")
    data, size = firmware.piece(conn, sha256, first, length)
    if not data:
        raise Problem(
            416,
            "bad-range",
            f"the image has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    headers = {"Accept-Ranges": "bytes"}
    if asked:
        headers["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{size}"
    return Response(data, 206 if asked else 200, headers, "application/octet-stream")


# ---------------------------------------------------------------- roll-outs


@router.post(
    "/firmware/{firmware_id}/rollouts",
    operation_id="startRollout",
    summary="Roll firmware out",
    status_code=201,
    responses=ERRORS,
)
def start_rollout(
    firmware_id: Id, body: models.StartRollout, conn: Writing, caller: Caller
) -> models.Rollout:
    """Roll-outs of other images for the same hardware stop."""
    made = firmware_rollouts.start(
        conn,
        firmware_id,
        base_url=body.base_url,
        percent=body.percent,
        max_failed_percent=body.max_failed_percent,
        least_results=body.least_results,
        made_by=f"user:{caller}",
    )
    return models.Rollout.model_validate(made)


@router.get("/rollouts", operation_id="listRollouts", summary="List roll-outs")
def list_rollouts(conn: Reading) -> models.Rollouts:
    found = firmware_rollouts.list_all(conn)
    return models.Rollouts(items=[models.Rollout.model_validate(one) for one in found])


@router.get(
    "/rollouts/{rollout_id}",
    operation_id="getRollout",
    summary="Look at a roll-out",
    responses=ERRORS,
)
def get_rollout(rollout_id: Id, conn: Reading) -> models.Rollout:
    return models.Rollout.model_validate(firmware_rollouts.find(conn, rollout_id))


@router.patch(
    "/rollouts/{rollout_id}",
    operation_id="changeRollout",
    summary="Widen, halt or resume a roll-out",
    responses=ERRORS,
)
def change_rollout(
    rollout_id: Id, body: models.ChangeRollout, conn: Writing, caller: Caller
) -> models.Rollout:
    if body.percent is not None:
        firmware_rollouts.set_percent(conn, rollout_id, body.percent)
    if body.state == "halted":
        firmware_rollouts.halt(conn, rollout_id, f"user:{caller}")
    if body.state == "running":
        firmware_rollouts.resume(conn, rollout_id)
    return models.Rollout.model_validate(firmware_rollouts.find(conn, rollout_id))


@router.get(
    "/rollouts/{rollout_id}/devices",
    operation_id="listRolloutDevices",
    summary="List the devices of a roll-out",
    responses=ERRORS,
)
def list_rollout_devices(
    rollout_id: Id,
    conn: Reading,
    after: Annotated[int, Query(ge=0, lt=2**31, description="The last id of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> models.RolloutDevices:
    """By id, with how far each is."""
    firmware_rollouts.find(conn, rollout_id)
    found = firmware_rollouts.devices(conn, rollout_id, after, limit)
    return models.RolloutDevices(items=[models.RolloutDevice.model_validate(one) for one in found])


async def _body(request: Request) -> bytes:
    """Up to MOST_IMAGE_BYTES; what says or has more is cut off. Raises Problem 413."""
    too_large = Problem(413, "too-large", f"an image has at most {MOST_IMAGE_BYTES} bytes")
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said[:12]) > MOST_IMAGE_BYTES:
        raise too_large
    image = bytearray()
    async for part in request.stream():
        image += part
        if len(image) > MOST_IMAGE_BYTES:
            raise too_large
    return bytes(image)


def _envelope(body: models.Envelope) -> Envelope:
    return msgspec.convert(body.model_dump(), Envelope)
