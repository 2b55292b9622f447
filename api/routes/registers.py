"""What was mended of a device's registers, and whether they agree with its power."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import cursors
from api.database import find_device
from api.instants import Instant, span_of
from api.models import Answer, NextCursor, WhyName
from api.problems import ProblemDocument, invalid
from api.routes.devices import DEVICE_ERRORS, Database
from api.routes.readings import chosen_channels
from schemas.families import FAMILIES
from sinks import register_repairs
from sinks.day_points import Asked, points_around_async
from sinks.queries import EPOCH, Span
from sinks.register_repairs import Place, Wanted
from sinks.usage_windows import Quantities
from streams.partition import limits_of
from streams.reconcile import Day, Reconciled, days_of, document, reconciled
from streams.registers import Limits
from streams.repair_words import document as repair_document
from streams.repair_words import repair_of
from streams.store import point_of_stored

router = APIRouter(prefix="/api/v1", tags=["registers"])
MOST_COMPARED = 62
"""Days times channels: each costs a tenth of a second or two, at a reading each 5 s."""
_REPAIRS_RANGE = timedelta(days=31)
_RECONCILED_RANGE = timedelta(days=7)
_MICROSECOND = timedelta(microseconds=1)

Register = Literal["import", "export"]
OutcomeName = Literal["compared", "no_readings", "no_register", "no_power", "never_together"]


class Repair(Answer):
    """An odd reading of a register, and what was counted in [start, end) instead."""

    channel: str = Field(examples=["total"])
    register_: Register = Field(alias="register")
    why: WhyName = Field(examples=["register_reset"])
    at: datetime = Field(description="Of the odd reading.")
    start: datetime = Field(description="Of the trusted reading before it.")
    end: datetime = Field(description="Of the trusted reading after it; of a step, `at`.")
    before_wh: float = Field(description="The register before the step,", examples=[1005.0])
    after_wh: float = Field(description="and after it; of a spike, what was passed over.")
    energy_wh: float = Field(description="Counted in [start, end); of a spike, nothing.")
    added_wh: float = Field(description="By how much energy differs from the register's step.")
    text: str = Field(description="The same in a sentence.")


class _Range(Answer):
    device_id: int
    from_: datetime = Field(alias="from")
    to: datetime


class RepairPage(_Range):
    items: list[Repair]
    next_cursor: NextCursor


class ReconciledDay(Answer):
    """One register on one civil day beside the integral of power over the same time."""

    channel: str = Field(examples=["total"])
    register_: Register = Field(alias="register")
    day: date
    start: datetime
    end: datetime
    outcome: OutcomeName
    register_wh: float = Field(description="What the register gained,")
    power_wh: float = Field(description="and the integral of power, both over `compared_s`.")
    drift_wh: float = Field(description="power_wh - register_wh.")
    drift_percent: float | None = Field(description="Of register_wh; null where it is 0.")
    compared_s: float
    left_out_wh: float = Field(
        description="What the register gained where power was silent or a repair was needed."
    )
    repaired: int = Field(description="Repairs among what was left out.")
    text: str = Field(description="The same in a sentence.")


class Reconciliation(_Range):
    zone: str = Field(description="Of the civil days.")
    items: list[ReconciledDay]


class RepairQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str | None = Field(default=None, max_length=200, description="Else all channels.")
    from_: Instant | None = Field(
        default=None, alias="from", description="Default: 31 days before `to`."
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")


class ReconciliationQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str | None = Field(default=None, max_length=200, description="Else all channels.")
    from_: Instant | None = Field(
        default=None, alias="from", description="Default: 7 days before `to`."
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")


class AfterRepair(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A place in the repairs, and the range as the first page had it (µs)."""

    at_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    channel_id: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    is_export: bool
    start_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    end_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


@router.get(
    "/devices/{device:path}/repairs",
    operation_id="listRepairs",
    summary="List repairs of registers",
    response_model=RepairPage,
    responses={
        **DEVICE_ERRORS,
        400: {"model": ProblemDocument, "description": "Broken cursor."},
    },
)
async def list_repairs(
    device: str, query: Annotated[RepairQuery, Query()], conn: Database
) -> Response:
    """Resets, rollovers, restored and replaced registers, and spikes with their odd reading in
    [from, to): what was seen and what was counted. Late readings may change them.
    """
    found = await find_device(conn, device)
    channels = await chosen_channels(conn, found.device_id, query.channel)
    question = (found.device_id, query.channel, query.from_, query.to)
    place = None
    if query.cursor is None:
        span = span_of(query.from_, query.to, _REPAIRS_RANGE, datetime.now(UTC))
    else:
        given = cursors.decode(query.cursor, AfterRepair, question)
        span = Span(_at(given.start_us), _at(given.end_us))
        place = Place(_at(given.at_us), given.channel_id, given.is_export)
    wanted = Wanted(list(channels), *span, after=place, limit=query.limit + 1)
    rows = await register_repairs.list_page(conn, wanted)
    cursor = None
    if len(rows) > query.limit:
        last = rows[query.limit - 1]
        rows = rows[: query.limit]
        cursor = cursors.encode(
            AfterRepair(last.at_us, last.channel_id, last.is_export, _us(span[0]), _us(span[1])),
            question,
        )
    items = [repair_document(channels[row.channel_id], repair_of(row)) for row in rows]
    return _answer(found.device_id, span, items, next_cursor=cursor)


@router.get(
    "/devices/{device:path}/reconciliation",
    operation_id="listReconciliation",
    summary="Compare registers with power",
    response_model=Reconciliation,
    responses=DEVICE_ERRORS,
)
async def list_reconciliation(
    device: str, query: Annotated[ReconciliationQuery, Query()], conn: Database
) -> Response:
    """The integral of power beside the register's difference, for each civil day of the device's
    zone that touches [from, to), channel and register; days times channels are at most 62.

    Computed from the readings of now. Both sides cover the same time, and a segment over midnight
    belongs to the day of its end.
    """
    found = await find_device(conn, device)
    zone = ZoneInfo(found.zone)
    asked = span_of(query.from_, query.to, _RECONCILED_RANGE, datetime.now(UTC))
    first = asked.start.astimezone(zone).date()
    last = (asked.end - _MICROSECOND).astimezone(zone).date()
    days = list(days_of(first, last + timedelta(days=1), zone))
    channels = await chosen_channels(conn, found.device_id, query.channel)
    if len(days) * len(channels) > MOST_COMPARED:
        raise invalid(
            "from",
            f"{len(days)} days of {len(channels)} channels are more than {MOST_COMPARED} together",
            "ask for a shorter range, or for one channel",
        )
    limits = limits_of(FAMILIES[found.family], found.gap_limit_s, found.max_power_w)
    items = []
    for day in days:
        for channel_id, name in channels.items():
            span_us = Asked(channel_id, day.start_us, day.end_us, limits.gap_limit_us)
            rows = await points_around_async(conn, span_us)
            done = await asyncio.to_thread(_reconciled, rows, day, limits)
            items += [document(name, one) for one in done]
    span = Span(_at(days[0].start_us), _at(days[-1].end_us))
    return _answer(found.device_id, span, items, zone=found.zone)


def _reconciled(rows: list[Quantities], day: Day, limits: Limits) -> list[Reconciled]:
    return reconciled([point_of_stored(row) for row in rows], day, limits)


def _answer(device_id: int, span: Span, items: list[Any], **more: object) -> Response:
    said = {"device_id": device_id, "from": span.start, "to": span.end, "items": items, **more}
    return Response(msgspec.json.encode(said), media_type="application/json")


def _us(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


def _at(us: int) -> datetime:
    return EPOCH + us * _MICROSECOND
