"""The energy of a device in buckets of time."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.buckets import Buckets
from api.database import find_device
from api.instants import Instant, span_of
from api.models import Bucket, UsagePage
from api.problems import invalid
from api.routes.devices import DEVICE_ERRORS, Database
from api.routes.readings import unknown_channel
from api.usage import across, channel_usage, gap_item, usage_item
from sinks import queries
from sinks.queries import ChannelProgress, Span
from sinks.registry import summed_channels

router = APIRouter(prefix="/api/v1", tags=["usage"])
MOST_WINDOWS = 20_160
"""Two weeks of minutes."""

_DEFAULT_RANGE: dict[Bucket, timedelta] = {
    "1m": timedelta(hours=6),
    "15m": timedelta(days=1),
    "1h": timedelta(days=7),
    "1d": timedelta(days=31),
    "1w": timedelta(weeks=26),
    "1mo": timedelta(days=366),
}


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bucket: Bucket = Field(
        default="1h",
        description="1m, 15m and 1h in UTC; 1d, 1w (from Monday) and 1mo in the device's zone.",
    )
    from_: Instant | None = Field(
        default=None,
        alias="from",
        description="Default: before `to` 6 h (1m), 1 d (15m), 7 d (1h), 31 d (1d), 26 weeks (1w) "
        "or 366 d (1mo).",
    )
    to: Instant | None = Field(default=None, description="Exclusive. Default: now.")
    channel: str | None = Field(
        default=None,
        max_length=200,
        description="Default: `total`, else the sum of the channels that do not overlap.",
    )


@router.get(
    "/devices/{device:path}/usage",
    operation_id="listUsage",
    summary="List usage",
    response_model=UsagePage,
    responses=DEVICE_ERRORS,
)
async def list_usage(
    device: str, query: Annotated[UsageQuery, Query()], conn: Database
) -> Response:
    """All windows that touch [from, to), whole ones; at most 20,160.

    Windows after the last complete one are computed from the readings of now: minutes have
    `quality` `provisional`; in larger buckets `provisional_wh` is the part that such minutes have
    in `energy_wh`. A window without a reading and without energy is no row.
    """
    found = await find_device(conn, device)
    buckets = Buckets(query.bucket, ZoneInfo(found.zone))
    asked = span_of(query.from_, query.to, _DEFAULT_RANGE[query.bucket], datetime.now(UTC))
    if buckets.most(*asked) > MOST_WINDOWS + 2:
        raise invalid(
            "from",
            f"the range has more than {MOST_WINDOWS} windows of {query.bucket}",
            "ask for a shorter range or a larger bucket",
        )
    span = Span(buckets.start(asked.start), buckets.ceil(asked.end))
    channels = _chosen(await queries.channel_progress(conn, found.device_id), query.channel)
    usage = across(
        [await channel_usage(conn, found, channel, buckets, span) for channel in channels]
    )
    document = {
        "device_id": found.device_id,
        "channels": [channel.name for channel in channels],
        "bucket": query.bucket,
        "zone": found.zone,
        "from": span.start,
        "to": span.end,
        "materialized_until": usage.materialized_until,
        "provisional_until": usage.provisional_until,
        "items": [usage_item(window, buckets) for window in usage.windows],
        "gaps": [gap_item(gap) for gap in usage.gaps],
    }
    return Response(msgspec.json.encode(document), media_type="application/json")


def _chosen(channels: list[ChannelProgress], wanted: str | None) -> list[ChannelProgress]:
    names = [channel.name for channel in channels]
    if wanted is not None and wanted not in names:
        raise unknown_channel(wanted, names)
    chosen = [wanted] if wanted is not None else summed_channels(names)
    return [channel for channel in channels if channel.name in chosen]
