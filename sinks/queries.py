"""What the API reads. Every function takes an open connection and changes nothing.

The SQL stands in `sql/api_*.sql`; names in braces are filled from fixed lists, never from a
caller's text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import AsyncRowFactory, args_row, class_row, tuple_row

from schemas.reading import VALUE_NAMES, Clock, Source, Values
from sinks.device_details import DETAILS, DeviceDetails
from sinks.registry import DeviceRow

Connection = AsyncConnection[Any]
Order = Literal["asc", "desc"]
Row = TypeVar("Row")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SQL = Path(__file__).with_name("sql")
_REVISION = re.compile(r'^revision\b.*= "(\w+)"$', re.MULTILINE)
_DOWN_REVISION = re.compile(r'^down_revision\b.*= "(\w+)"$', re.MULTILINE)


@cache
def _sql(name: str, **filled: str) -> bytes:
    text = (_SQL / f"api_{name}.sql").read_text()
    for key, value in filled.items():
        text = text.replace(f"{{{key}}}", value)
    return text.encode()


async def _fetch(
    conn: Connection, query: bytes, parameters: dict[str, object], row: AsyncRowFactory[Row]
) -> list[Row]:
    async with conn.cursor(binary=True, row_factory=row) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


# ---------------------------------------------------------------- is it all there?


def newest_revision() -> str:
    """The schema revision that this code was written for.

    Read from the migrations' own lines: importing Alembic for it costs the API a second and 30 MB.
    """
    texts = [path.read_text() for path in _SQL.with_name("migrations").glob("versions/*.py")]
    revisions = {found for text in texts for found in _REVISION.findall(text)}
    head: str
    (head,) = revisions - {found for text in texts for found in _DOWN_REVISION.findall(text)}
    return head


async def schema_revision(conn: Connection) -> str | None:
    """The revision of the database; None if nothing was ever migrated."""
    cursor = await conn.execute("SELECT to_regclass('alembic_version')")
    if (await cursor.fetchone()) in (None, (None,)):
        return None
    row = await (await conn.execute("SELECT version_num FROM alembic_version")).fetchone()
    return None if row is None else str(row[0])


class StreamProgress(NamedTuple):
    partitions: int
    without_time: int
    lag_s: float | None


async def stream_progress(conn: Connection, topic: str) -> StreamProgress:
    """How many partitions of `topic` have progress, and how far behind now the slowest is."""
    query = _sql("stream_progress")
    return (await _fetch(conn, query, {"topic": topic}, args_row(StreamProgress)))[0]


# ---------------------------------------------------------------- devices


async def find_devices(conn: Connection, text: str) -> list[DeviceRow]:
    """The devices called `text`, by the rule of `sinks.registry.resolve_device`."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    query = _sql("find_device")
    rows = await _fetch(conn, query, {"text": text, "id": number}, tuple_row)
    nearest = min((row[-1] for row in rows), default=0)
    return [DeviceRow(*row[:-1]) for row in rows if row[-1] == nearest]


async def device_of_token(conn: Connection, token_sha256: bytes) -> int | None:
    """The device whose account has a token of this SHA-256 and is not revoked."""
    cursor = await conn.execute(
        "SELECT device_id FROM mqtt_account WHERE token_sha256 = %s AND revoked_at IS NULL",
        [token_sha256],
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices a list holds; None leaves the question out. `q` is part of name or address."""

    home: str | None = None
    family: str | None = None
    claimed: bool | None = None
    q: str | None = None
    deleted: bool | None = False


@dataclass(frozen=True, slots=True)
class ListedDevice:
    device_id: int
    address: str
    family: str
    name: str | None
    home_id: str | None
    zone: str
    claimed: bool
    first_seen_at: datetime
    claimed_at: datetime | None
    online: bool | None
    location: str | None
    model: str | None
    capabilities: dict[str, Any]
    presence: str | None
    deleted_at: datetime | None


async def list_devices(
    conn: Connection, wanted: DeviceFilter, after: int, limit: int
) -> list[ListedDevice]:
    parameters: dict[str, object] = {
        "home": wanted.home,
        "family": wanted.family,
        "claimed": wanted.claimed,
        "q": wanted.q,
        "deleted": wanted.deleted,
        "after": after,
        "limit": limit,
    }
    return await _fetch(conn, _sql("devices"), parameters, class_row(ListedDevice))


async def device_details(conn: Connection, device_id: int) -> DeviceDetails:
    """All that the registry knows of a device that is there."""
    (found,) = await _fetch(
        conn, DETAILS.encode(), {"device_id": device_id}, class_row(DeviceDetails)
    )
    return found


class ChannelNews(NamedTuple):
    """The newest of a channel. `power_w` is of a reading at most 15 minutes before the newest."""

    device_id: int
    name: str
    last_reading_at: datetime | None
    power_at: datetime | None
    power_w: float | None


async def channel_news(conn: Connection, device_ids: Sequence[int]) -> list[ChannelNews]:
    query = _sql("channel_news")
    return await _fetch(conn, query, {"device_ids": list(device_ids)}, args_row(ChannelNews))


class NewestReading(NamedTuple):
    channel: str
    seen: list[str]  # names of the values in the last 100 readings
    measured_at: datetime | None
    received_at: datetime | None
    values: dict[str, float]


async def newest_readings(conn: Connection, device_id: int) -> list[NewestReading]:
    """The newest reading of every channel of a device."""
    query = _sql(
        "channel_newest",
        values=", ".join(f"r.{name}" for name in VALUE_NAMES),
        seen=", ".join(f"CASE WHEN count(r.{name}) > 0 THEN '{name}' END" for name in VALUE_NAMES),
    )

    def newest(
        channel: str,
        seen: list[str],
        measured_at: datetime | None,
        received_at: datetime | None,
        *values: float | None,
    ) -> NewestReading:
        said = zip(VALUE_NAMES, values, strict=True)
        values_said = {name: value for name, value in said if value is not None}
        return NewestReading(channel, seen, measured_at, received_at, values_said)

    return await _fetch(conn, query, {"device_id": device_id}, args_row(newest))


async def channels(conn: Connection, device_id: int) -> dict[int, str]:
    """Ids and names of a device's channels."""
    query = b"SELECT channel_id, name FROM channel WHERE device_id = %(device_id)s ORDER BY name"
    return dict(await _fetch(conn, query, {"device_id": device_id}, tuple_row))


class StateField(NamedTuple):
    channel: str | None
    field: str
    value: bool | int | float | str | None
    measured_at: datetime


async def device_state(conn: Connection, device_id: int) -> list[StateField]:
    query = _sql("device_state")
    return await _fetch(conn, query, {"device_id": device_id}, args_row(StateField))


# ---------------------------------------------------------------- readings


def _names(kind: type[Clock] | type[Source], column: str) -> str:
    texts = ", ".join(f"'{one.name.lower()}'" for one in kind)
    return f"(ARRAY[{texts}])[{column} + 1]"


READING_FIELDS: dict[str, str] = {name: name for name in VALUE_NAMES} | {
    "received_at": "received_at",
    "seq": "seq",
    "clock": _names(Clock, "clock"),
    "source": _names(Source, "source"),
}
"""What can be asked of a reading beside channel and instant, and the SQL that tells it."""


class Span(NamedTuple):
    """Instants in [start, end)."""

    start: datetime
    end: datetime


class Place(NamedTuple):
    """Where a page of readings ended."""

    measured_at: datetime
    channel_id: int


async def readings(
    conn: Connection,
    channels: dict[int, str],
    span: Span,
    fields: Sequence[str],
    *,
    after: Place | None,
    order: Order,
    limit: int,
    make: Callable[..., Row],
) -> list[Row]:
    """Readings of `channels` (id → name) by (measured_at, channel id) beyond `after`.

    Each becomes `make(channel name, measured_at, *fields)`.
    """
    columns = "".join(f", {READING_FIELDS[name]} AS {name}" for name in fields)
    query = _sql(
        "readings", columns=columns, order=order.upper(), beyond=">" if order == "asc" else "<"
    )
    low, high = span
    if after is not None and order == "asc":
        low = max(low, after.measured_at)
    if after is not None and order == "desc":
        high = min(high, after.measured_at + timedelta(microseconds=1))
    parameters: dict[str, object] = {
        "channel_ids": list(channels),
        "names": list(channels.values()),
        "low": low,
        "high": high,
        "after_at": after and after.measured_at,
        "after_channel": after and after.channel_id,
        "limit": limit,
    }
    return await _fetch(conn, query, parameters, args_row(make))


async def downsampled(
    conn: Connection,
    channels: dict[int, str],
    span: Span,
    fields: Sequence[str],
    width: timedelta,
) -> list[tuple[Any, ...]]:
    """Rows (channel name, start, readings, then min, max, avg of each field) of spans `width`."""
    aggregates = "".join(f", min(r.{name}), max(r.{name}), avg(r.{name})" for name in fields)
    query = _sql("readings_downsampled", aggregates=aggregates)
    parameters: dict[str, object] = {
        "channel_ids": list(channels),
        "names": list(channels.values()),
        "low": span.start,
        "high": span.end,
        "width": width,
    }
    return await _fetch(conn, query, parameters, tuple_row)


# ---------------------------------------------------------------- usage


class ChannelProgress(NamedTuple):
    """Before which instants the minutes, and the quarter hours, of a channel are complete."""

    channel_id: int
    name: str
    complete_until: datetime | None
    context_from: datetime | None
    ledger_until: datetime | None


async def channel_progress(conn: Connection, device_id: int) -> list[ChannelProgress]:
    query = _sql("channel_progress")
    return await _fetch(conn, query, {"device_id": device_id}, args_row(ChannelProgress))


class UsageRow(NamedTuple):
    """A stored window, or a sum of some; `why` and `revision` are None where not kept."""

    start: datetime
    energy_uwh: int
    export_uwh: int
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    readings: int
    quality: int
    why: int | None
    revision: int | None
    complete: bool


async def usage_minutes(conn: Connection, channel_id: int, span: Span) -> list[UsageRow]:
    return await _usage(conn, _sql("usage_1m"), channel_id, span)


async def usage_quarters(conn: Connection, channel_id: int, span: Span) -> list[UsageRow]:
    return await _usage(conn, _sql("usage_15m"), channel_id, span)


async def usage_hours(conn: Connection, channel_id: int, span: Span) -> list[UsageRow]:
    return await _usage(conn, _sql("usage_1h"), channel_id, span)


async def tail_quarters(conn: Connection, channel_id: int, span: Span) -> list[UsageRow]:
    """Complete minutes of `span`, which the ledger does not hold yet, by the quarter hour."""
    return await _usage(conn, _sql("tail_quarters"), channel_id, span)


async def _usage(conn: Connection, query: bytes, channel_id: int, span: Span) -> list[UsageRow]:
    parameters: dict[str, object] = {
        "channel_id": channel_id,
        "low": span.start,
        "high": span.end,
    }
    return await _fetch(conn, query, parameters, args_row(UsageRow))


CivilTable = Literal["usage_1d", "usage_1w", "usage_1mo"]


async def usage_civil(
    conn: Connection, table: CivilTable, channel_id: int, zone: str, first: date, end: date
) -> list[UsageRow]:
    """Rows of the civil days in [first, end), each beginning at its midnight in `zone`."""
    parameters: dict[str, object] = {
        "channel_id": channel_id,
        "zone": zone,
        "low": first,
        "high": end,
    }
    return await _fetch(conn, _sql("usage_civil", table=table), parameters, args_row(UsageRow))


class GapRow(NamedTuple):
    start: datetime
    end: datetime
    energy_uwh: int
    export_uwh: int
    why: int


async def gap_energy(conn: Connection, channel_id: int, span: Span) -> list[GapRow]:
    """What a register gained in silences that touch `span`."""
    parameters: dict[str, object] = {
        "channel_id": channel_id,
        "low": span.start,
        "high": span.end,
    }
    return await _fetch(conn, _sql("gap_energy"), parameters, args_row(GapRow))


async def open_readings(
    conn: Connection, channel_id: int, since: datetime | None, limit: int
) -> list[tuple[datetime, Values]]:
    """The readings of a channel from `since` on, oldest first, with what energy needs of them."""

    def reading(
        measured_at: datetime,
        power_w: float | None,
        import_total_wh: float | None,
        export_total_wh: float | None,
        interval_s: float | None,
        interval_import_wh: float | None,
    ) -> tuple[datetime, Values]:
        return measured_at, Values(
            power_w=power_w,
            import_total_wh=import_total_wh,
            export_total_wh=export_total_wh,
            interval_s=interval_s,
            interval_import_wh=interval_import_wh,
        )

    parameters: dict[str, object] = {
        "channel_id": channel_id,
        "low": since or EPOCH,
        "limit": limit,
    }
    return await _fetch(conn, _sql("open_readings"), parameters, args_row(reading))
