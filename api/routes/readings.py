"""The readings of a device: as they are, page by page, or thinned out for a chart."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import cursors
from api.database import find_device
from api.instants import Instant, span_of
from api.models import ReadingPage, SampledReadings
from api.problems import Problem, ProblemDocument, bad_cursor, invalid
from api.routes.devices import DEVICE_ERRORS, Database
from schemas.reading import VALUE_NAMES
from sinks import queries
from sinks.queries import EPOCH, READING_FIELDS, Connection, Place, Span

router = APIRouter(prefix="/api/v1", tags=["readings"])
_DEFAULT_RANGE = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
_TYPES: dict[str, Any] = {"received_at": datetime, "seq": int, "clock": str, "source": str}


class ReadingsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    channel: str | None = Field(default=None, max_length=200, description="Else all channels.")
    from_: Instant | None = Field(
        default=None, alias="from", description="Default: a day before `to`."
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")
    fields: str | None = Field(
        default=None,
        max_length=1000,
        description="Names with commas between: values of a reading, and `received_at`, `seq`, "
        "`clock`, `source`. Default: all values; with `downsample`, `power_w`.",
        examples=["power_w,voltage_v"],
    )
    order: Literal["asc", "desc"] = "asc"
    limit: int = Field(default=1000, ge=1, le=20_000)
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")
    downsample: int | None = Field(
        default=None,
        ge=1,
        le=5_000,
        description="Instead of readings: so many equal spans of time a channel, with min, max "
        "and avg of each field, so that no extreme is lost. Spans without a reading are left out.",
    )


class AfterReading(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A place in the readings, and the range as it was when the first page was asked for (µs)."""

    measured_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    channel_id: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    start_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    end_us: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


@router.get(
    "/devices/{device:path}/readings",
    operation_id="listReadings",
    summary="List readings",
    response_model=ReadingPage | SampledReadings,
    responses={
        **DEVICE_ERRORS,
        400: {"model": ProblemDocument, "description": "Broken cursor."},
    },
)
async def list_readings(
    device: str, query: Annotated[ReadingsQuery, Query()], conn: Database
) -> Response:
    """Readings of [from, to) by instant, then channel.

    Following `next_cursor` gives every reading that was there at the start once, also while new
    ones arrive; the range stays that of the first page.
    """
    found = await find_device(conn, device)
    channels = await chosen_channels(conn, found.device_id, query.channel)
    fields = _fields(query)
    if query.downsample is not None:
        return await _sampled(conn, found.device_id, channels, fields, query)
    question = (found.device_id, query.channel, query.from_, query.to, query.order)
    place = None
    if query.cursor is None:
        span = span_of(query.from_, query.to, _DEFAULT_RANGE, datetime.now(UTC))
    else:
        given = cursors.decode(query.cursor, AfterReading, question)
        if given.channel_id not in channels:
            raise bad_cursor("names a channel that is not there")
        span = Span(_at(given.start_us), _at(given.end_us))
        place = Place(_at(given.measured_us), given.channel_id)
    rows = await queries.readings(
        conn,
        channels,
        span,
        fields,
        after=place,
        order=query.order,
        limit=query.limit + 1,
        make=_row_of(tuple(fields)),
    )
    cursor = None
    if len(rows) > query.limit:
        rows.pop()
        ids = {name: number for number, name in channels.items()}
        last = AfterReading(
            _us(rows[-1].measured_at), ids[rows[-1].channel], _us(span.start), _us(span.end)
        )
        cursor = cursors.encode(last, question)
    return _answer(found.device_id, span, rows, next_cursor=cursor)


async def chosen_channels(conn: Connection, device_id: int, wanted: str | None) -> dict[int, str]:
    """Id and name of one channel of a device, or of all. Raises a 422 problem."""
    channels = await queries.channels(conn, device_id)
    if wanted is None:
        return channels
    chosen = {number: name for number, name in channels.items() if name == wanted}
    if not chosen:
        raise unknown_channel(wanted, channels.values())
    return chosen


def unknown_channel(wanted: str, known: Sequence[str] | Any) -> Problem:
    return invalid(
        "channel",
        f"the device has no channel {wanted!r}",
        f"give one of {', '.join(known)}" if known else "it has none yet",
    )


def _fields(query: ReadingsQuery) -> list[str]:
    known = list(VALUE_NAMES) if query.downsample is not None else list(READING_FIELDS)
    if query.fields is None:
        return ["power_w"] if query.downsample is not None else list(VALUE_NAMES)
    asked = {name.strip() for name in query.fields.split(",")}
    unknown = asked - set(known)
    if unknown:
        raise invalid(
            "fields",
            f"unknown: {', '.join(sorted(unknown))[:200]}",
            f"give some of {', '.join(known)}",
        )
    return [name for name in known if name in asked]


@lru_cache(maxsize=256)
def _row_of(fields: tuple[str, ...]) -> type[Any]:
    """A struct that encodes as `api.models.Reading` with these fields; absent ones stay out."""
    return msgspec.defstruct(
        "Reading",
        [
            ("channel", str),
            ("measured_at", datetime),
            *((name, _TYPES.get(name, float) | None, None) for name in fields),
        ],
        omit_defaults=True,
        gc=False,
    )


async def _sampled(
    conn: Connection,
    device_id: int,
    channels: dict[int, str],
    fields: list[str],
    query: ReadingsQuery,
) -> Response:
    if query.cursor is not None or query.order != "asc":
        name = "cursor" if query.cursor is not None else "order"
        raise invalid(name, "not together with downsample", "leave it out")
    assert query.downsample is not None
    span = span_of(query.from_, query.to, _DEFAULT_RANGE, datetime.now(UTC))
    width_us = -(-(_us(span.end) - _us(span.start)) // query.downsample)
    width = timedelta(microseconds=width_us)
    items = []
    for channel, start, count, *values in await queries.downsampled(
        conn, channels, span, fields, width
    ):
        item = {"channel": channel, "start": start, "readings": count}
        for name, low, high, mean in zip(
            fields, values[::3], values[1::3], values[2::3], strict=True
        ):
            if low is not None:
                item[name] = {"min": low, "max": high, "avg": mean}
        items.append(item)
    return _answer(device_id, span, items, width_s=width_us / 1_000_000)


def _answer(device_id: int, span: Span, items: list[Any], **more: object) -> Response:
    document = {
        "device_id": device_id,
        "from": span.start,
        "to": span.end,
        "items": items,
        **more,
    }
    return Response(msgspec.json.encode(document), media_type="application/json")


def _us(at: datetime) -> int:
    return (at - EPOCH) // _MICROSECOND


def _at(us: int) -> datetime:
    try:
        return EPOCH + us * _MICROSECOND
    except OverflowError:
        raise bad_cursor("is not ours") from None
