"""Devices: the list, and everything about one."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from api import cursors
from api.database import Writing, connection, find_device
from api.models import Channel, Device, DeviceDetail, DevicePage, DeviceRecord, StateField
from api.parameters import DeviceText, PageQuery
from api.problems import ProblemDocument
from api.registry_models import ChangeDevice, described
from sinks import device_details, device_homes, queries
from sinks.queries import ChannelNews, Connection, DeviceFilter, ListedDevice
from sinks.registry import resolve_device, summed_channels

router = APIRouter(prefix="/api/v1", tags=["devices"])
Database = Annotated[Connection, Depends(connection, scope="function")]
_LARGEST_ID = 2**31 - 1

DEVICE_ERRORS: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "No device is called that."},
    409: {"model": ProblemDocument, "description": "Several are; `candidates` names them."},
}


class DeviceQuery(PageQuery):
    home: str | None = Field(default=None, max_length=200, description="Id of a home.")
    family: str | None = Field(default=None, max_length=200, examples=["shelly"])
    claimed: bool | None = None
    q: str | None = Field(
        default=None, max_length=200, description="Part of the name or address, in either case."
    )
    deleted: bool = Field(default=False, description="Those that were deleted, and only those.")


class AfterDevice(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    device_id: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_ID)]


@router.get(
    "/devices",
    operation_id="listDevices",
    summary="List devices",
    responses={400: {"model": ProblemDocument, "description": "Broken cursor."}},
)
async def list_devices(query: Annotated[DeviceQuery, Query()], conn: Database) -> DevicePage:
    """In the order of their ids, which is the order in which they were first seen."""
    question = (query.home, query.family, query.claimed, query.q, query.deleted)
    after = 0
    if query.cursor is not None:
        after = cursors.decode(query.cursor, AfterDevice, question).device_id
    wanted = DeviceFilter(*question)
    if any("\0" in text for text in question if isinstance(text, str)):
        return DevicePage(items=[], next_cursor=None)
    found = await queries.list_devices(conn, wanted, after, query.limit + 1)
    page, following = cursors.page_of(
        found, query.limit, lambda one: AfterDevice(one.device_id), question
    )
    news = await _news(conn, page)
    return DevicePage(
        items=[Device.model_validate(_described(one, news[one.device_id])) for one in page],
        next_cursor=following,
    )


@router.get(
    "/devices/{device:path}",
    operation_id="getDevice",
    summary="Look at a device",
    responses=DEVICE_ERRORS,
)
async def get_device(device: str, conn: Database) -> DeviceDetail:
    """By id, name or address. A slash of an address may be written as it is, or as %2F."""
    found = await find_device(conn, device)
    (listed,) = await queries.list_devices(conn, DeviceFilter(deleted=None), found.device_id - 1, 1)
    news = await _news(conn, [listed])
    newest = await queries.newest_readings(conn, found.device_id)
    state = await queries.device_state(conn, found.device_id)
    registry = await queries.device_details(conn, found.device_id)
    return DeviceDetail.model_validate(
        {
            **_described(listed, news[listed.device_id]),
            "first_seen_at": found.first_seen_at,
            "claimed_at": found.claimed_at,
            "registry": DeviceRecord.model_validate(registry, from_attributes=True),
            "channel_details": [
                Channel(
                    name=one.channel,
                    capabilities=one.seen,
                    measured_at=one.measured_at,
                    received_at=one.received_at,
                    values=one.values,
                )
                for one in newest
            ],
            "state": [StateField.model_validate(one._asdict()) for one in state],
        }
    )


@router.patch(
    "/devices/{device:path}",
    operation_id="changeDevice",
    summary="Change a device",
    responses=DEVICE_ERRORS,
)
def change_device(device: DeviceText, body: ChangeDevice, conn: Writing) -> DeviceRecord:
    found = resolve_device(conn, device)
    changes = body.model_dump(exclude_unset=True)
    return described(device_details.change_device(conn, found.device_id, changes))


@router.delete(
    "/devices/{device:path}",
    operation_id="deleteDevice",
    summary="Delete a device",
    status_code=204,
    responses=DEVICE_ERRORS | {204: {"description": "It is gone."}},
)
def delete_device(device: DeviceText, conn: Writing) -> Response:
    """Its readings, usage and bills stay; once it speaks again it is there, unclaimed."""
    device_homes.delete_device(conn, resolve_device(conn, device).device_id)
    return Response(status_code=204)


async def _news(conn: Connection, page: Sequence[ListedDevice]) -> dict[int, list[ChannelNews]]:
    by_device: dict[int, list[ChannelNews]] = {one.device_id: [] for one in page}
    for channel in await queries.channel_news(conn, list(by_device)) if page else []:
        by_device[channel.device_id].append(channel)
    return by_device


def _described(device: ListedDevice, channels: list[ChannelNews]) -> dict[str, object]:
    summed = set(summed_channels(one.name for one in channels))
    powers = [(one.power_w, one.power_at) for one in channels if one.name in summed]
    known = [(power_w, at) for power_w, at in powers if power_w is not None and at is not None]
    return {
        "id": device.device_id,
        "address": device.address,
        "family": device.family,
        "name": device.name,
        "home_id": device.home_id,
        "zone": device.zone,
        "claimed": device.claimed,
        "channels": [one.name for one in channels],
        "last_reading_at": max(
            (one.last_reading_at for one in channels if one.last_reading_at), default=None
        ),
        "power_w": sum(power_w for power_w, _ in known) if known else None,
        "power_at": min((at for _, at in known), default=None),
        "online": device.online,
        "location": device.location,
        "model": device.model,
        "presence": device.presence,
        "capabilities": device.capabilities,
    }
