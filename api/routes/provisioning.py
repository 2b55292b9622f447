"""Accounts of devices on the broker: made with the device, renewed, taken away."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from api.database import Reading, Writing
from api.home_models import Question, Text
from api.models import Answer
from api.problems import ProblemDocument
from schemas.connections import AccountsConnection
from schemas.mqtt_rights import NAME_RULE
from sinks import accounts, provisioning
from sinks.broker_control import BrokerControl
from sinks.registry import resolve_device

router = APIRouter(prefix="/api/v1", tags=["accounts"])
DeviceId = Annotated[str, Path(max_length=200, description="Id, name or address.")]
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$", description=NAME_RULE)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemDocument, "description": "No such device, or it has no account."},
    409: {"model": ProblemDocument, "description": "It contradicts what is; `detail` says how."},
    503: {
        "model": ProblemDocument,
        "description": "Broker or database are away, and nothing was changed; see Retry-After.",
    },
}


class ProvisionDevice(Question):
    node_id: NodeName = Field(examples=["node-kitchen"])
    name: Text = Field(examples=["Kitchen"])
    home_id: NodeName = Field(examples=["home-1"])
    location: Text | None = None
    family: Text = Field(default="homesync", examples=["homesync", "wattaway", "shelly"])


class Topics(Answer):
    """MQTT filters of the device's own topics."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class MqttConfig(BaseModel):
    """All that a device needs to connect. The token is told this once.

    It is the MQTT password, and the bearer token of HTTP. The broker takes the user with this
    client id only.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )

    host: str
    port: int
    tls: Literal[True] = True
    ca_pem: str = Field(description="What the broker's certificate descends from.")
    user: str
    client_id: str
    token: str = Field(min_length=64, max_length=64)
    topics: Topics


class ProvisionedDevice(Answer):
    id: int
    address: str
    name: str
    home_id: str
    location: str | None


class Provisioned(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    device: ProvisionedDevice
    mqtt_config: MqttConfig = Field(alias="mqttConfig")


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    mqtt_config: MqttConfig = Field(alias="mqttConfig")


class Account(Answer):
    device_id: int
    address: str
    name: str | None
    home_id: str | None
    user: str
    state: Literal["active", "revoked"]
    created_at: datetime
    token_at: datetime = Field(description="When its token was made.")
    revoked_at: datetime | None


class Accounts(Answer):
    items: list[Account]


@router.post(
    "/devices",
    operation_id="provisionDevice",
    summary="Provision a device",
    status_code=201,
    responses=_ERRORS,
)
def provision_device(body: ProvisionDevice, request: Request, conn: Writing) -> Provisioned:
    """Registers it for its home and gives it an account on the broker, with a token told once."""
    made = provisioning.provision(
        conn,
        _control(request),
        node_id=body.node_id,
        name=body.name,
        home_id=body.home_id,
        family=body.family,
        location=body.location,
    )
    device = ProvisionedDevice(
        id=made.device_id,
        address=made.address,
        name=body.name,
        home_id=body.home_id,
        location=body.location,
    )
    return Provisioned(device=device, mqtt_config=_config(request, made))


@router.get("/accounts", operation_id="listAccounts", summary="List devices' accounts")
def list_accounts(conn: Reading) -> Accounts:
    return Accounts(items=[_account(row) for row in accounts.list_accounts(conn)])


@router.post(
    "/devices/{device:path}/token",
    operation_id="rotateToken",
    summary="Give a device a new token",
    responses=_ERRORS,
)
def rotate_token(device: DeviceId, request: Request, conn: Writing) -> NewToken:
    """The old one ends at once, and so does the device's connection."""
    made = provisioning.rotate_token(conn, _control(request), resolve_device(conn, device))
    return NewToken(mqtt_config=_config(request, made))


@router.delete(
    "/devices/{device:path}/account",
    operation_id="revokeAccount",
    summary="Take a device's account away",
    status_code=204,
    responses=_ERRORS | {204: {"description": "It is gone, and the device is off."}},
)
def revoke_account(device: DeviceId, request: Request, conn: Writing) -> Response:
    """Its connection ends at once; readings and registry stay."""
    provisioning.revoke(conn, _control(request), resolve_device(conn, device))
    return Response(status_code=204)


def _control(request: Request) -> BrokerControl:
    return BrokerControl(request.app.state.accounts)


def _config(request: Request, made: provisioning.Provisioned) -> MqttConfig:
    connection: AccountsConnection = request.app.state.accounts
    assert connection.ca_file is not None  # else there was no administrator to make it
    return MqttConfig(
        host=connection.device_host,
        port=connection.port,
        ca_pem=connection.ca_file.read_text(),
        user=made.user_name,
        client_id=made.user_name,
        token=made.token,
        topics=Topics(publish=made.rights.publish, subscribe=made.rights.subscribe),
    )


def _account(row: accounts.AccountRow) -> Account:
    return Account(
        device_id=row.device_id,
        address=row.address,
        name=row.name,
        home_id=row.home_id,
        user=row.user_name,
        state="active" if row.revoked_at is None else "revoked",
        created_at=row.created_at,
        token_at=row.token_at,
        revoked_at=row.revoked_at,
    )
