"""Whose a device is: claiming it by code or by standing beside it, and moving it."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from api import registry_models as models
from api.auth import require_operator
from api.database import Reading, Writing
from api.models import DeviceRecord
from api.parameters import DeviceText
from api.problems import ProblemDocument
from api.routes.homes import HOME_ERRORS
from sinks import claims, device_details, device_homes
from sinks.registry import resolve_device

router = APIRouter(prefix="/api/v1", tags=["registry"])
Who = Annotated[str, Depends(require_operator)]
_CLAIM_ERRORS = HOME_ERRORS | {
    429: {"model": ProblemDocument, "description": "Too many codes were tried; see Retry-After."}
}


@router.post(
    "/claims",
    operation_id="claimByCode",
    summary="Claim a device by its code",
    responses=_CLAIM_ERRORS,
)
def claim_by_code(body: models.ClaimByCode, conn: Writing, who: Who) -> DeviceRecord:
    claims.count_attempt(conn, who)
    conn.commit()  # it counts also if the code is wrong
    device_id = claims.claim_by_code(conn, who, body.code, body.home_id, body.name)
    return models.described(device_details.details(conn, device_id))


@router.post(
    "/claims/proofs",
    operation_id="askForProof",
    summary="Claim a device by standing beside it",
    status_code=201,
    responses=HOME_ERRORS,
)
def ask_for_proof(body: models.AskForProof, conn: Writing, who: Who) -> models.Proof:
    """Then press its button or switch its relay, and ask whether that was seen."""
    found = resolve_device(conn, body.device)
    proof = claims.ask_for_proof(conn, found.device_id, body.home_id, who, body.name)
    return models.Proof(
        proof_id=proof.proof_id,
        device_id=proof.device_id,
        home_id=proof.home_id,
        expires_at=proof.expires_at,
        what_to_do=f"press the button of the device or switch its relay within {claims.PROOF_S} s",
    )


@router.post(
    "/claims/proofs/{proof_id}",
    operation_id="claimByProof",
    summary="Ask whether the device was pressed or switched",
    responses=HOME_ERRORS,
)
def claim_by_proof(proof_id: UUID, conn: Writing, who: Who) -> models.Claimed:
    device_id = claims.claim_by_proof(conn, proof_id, who)
    if device_id is None:
        return models.Claimed(device=None)
    return models.Claimed(device=models.described(device_details.details(conn, device_id)))


@router.post(
    "/devices/{device:path}/claim-code",
    operation_id="makeClaimCode",
    summary="Make a code that claims a device",
    status_code=201,
    responses=HOME_ERRORS,
)
def make_code(
    device: DeviceText, body: models.MakeCode, conn: Writing, who: Who
) -> models.ClaimCode:
    """The device's earlier code is void."""
    found = resolve_device(conn, device)
    life = timedelta(days=body.days)
    code, expires_at = claims.make_code(conn, found.device_id, who, life=life, code=body.code)
    return models.ClaimCode(code=code, expires_at=expires_at)


@router.post(
    "/devices/{device:path}/move",
    operation_id="moveDevice",
    summary="Give a device to another home",
    responses=HOME_ERRORS,
)
def move_device(device: DeviceText, body: models.Move, conn: Writing) -> models.Owners:
    """The old home keeps what was measured in its time, bills and all; its meters on it end."""
    found = resolve_device(conn, device)
    return _owners(device_homes.move_device(conn, found.device_id, body.home_id, body.at))


@router.get(
    "/devices/{device:path}/owners",
    operation_id="listOwners",
    summary="Whose a device is and was",
    responses=HOME_ERRORS,
)
def list_owners(device: DeviceText, conn: Reading) -> models.Owners:
    return _owners(device_homes.owners(conn, resolve_device(conn, device).device_id))


def _owners(found: list[device_homes.Ownership]) -> models.Owners:
    return models.Owners(
        items=[models.Ownership.model_validate(one, from_attributes=True) for one in found]
    )
