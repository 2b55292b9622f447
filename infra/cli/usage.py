"""`meterstream usage`: the energy of a device, bucket by bucket, as it is stored."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from schemas.units import UWH_PER_WH
from schemas.usage import Quality

if TYPE_CHECKING:
    import psycopg

    from sinks.registry import DeviceRow


LEAST_WIDTH = 120


class Bucket(StrEnum):
    MINUTE = "1m"
    QUARTER = "15m"
    HOUR = "1h"
    DAY = "1d"
    WEEK = "1w"
    MONTH = "1mo"
    TOTAL = "total"


_WIDTHS = {
    Bucket.MINUTE: timedelta(minutes=1),
    Bucket.QUARTER: timedelta(minutes=15),
    Bucket.HOUR: timedelta(hours=1),
}


@dataclass(frozen=True)
class UsageRow:
    """One bucket `[start, end)`. `revision` is None where the table keeps none.

    Of several channels the energies and average powers are added; what their least or greatest
    power together was is not known.
    """

    start: datetime
    end: datetime
    energy_uwh: int
    export_uwh: int
    power_min_w: float | None
    power_avg_w: float | None
    power_max_w: float | None
    count: int
    quality: Quality
    revision: int | None

    def document(self) -> dict[str, object]:
        """As JSON shows it."""
        return {
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "energy_wh": self.energy_uwh / UWH_PER_WH,
            "export_wh": self.export_uwh / UWH_PER_WH,
            "power_min_w": self.power_min_w,
            "power_avg_w": self.power_avg_w,
            "power_max_w": self.power_max_w,
            "count": self.count,
            "quality": self.quality.name.lower(),
            "revision": self.revision,
        }


def register(app: typer.Typer) -> None:
    app.command("usage")(usage)


def usage(
    device: Annotated[str, typer.Argument(help="A name, address or id.", metavar="DEVICE")],
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="T", help="RFC 3339; without offset in the device's zone."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="T", help="Buckets that begin before T.")
    ] = None,
    bucket: Annotated[
        Bucket, typer.Option("--bucket", help="Days, weeks, months: the device's own.")
    ] = Bucket.DAY,
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel", help="Only this one; else total, or the sum of those that do not overlap."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show the energy of a device's buckets that begin in [--from, --to)."""
    import psycopg

    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection
    from sinks.registry import resolve_device

    with told(), psycopg.connect(DatabaseConnection().url) as conn:
        found = resolve_device(conn, device)
        zone = ZoneInfo(found.zone)
        rows = usage_rows(
            conn,
            found,
            bucket,
            channels=None if channel is None else [channel],
            start=None if from_ is None else instant_of(from_, zone, "--from"),
            end=None if to is None else instant_of(to, zone, "--to"),
        )
    if as_json:
        print(json.dumps([row.document() for row in rows]))
    else:
        _print_table(found, rows)


def usage_rows(
    conn: "psycopg.Connection[Any]",
    device: "DeviceRow",
    bucket: Bucket,
    *,
    channels: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[UsageRow]:
    """The stored buckets of a device that begin in [start, end), oldest first.

    Raises RegistryError for a channel that the device has not.
    """
    ids = _channel_ids(conn, device, channels)
    zone = ZoneInfo(device.zone)
    if bucket is Bucket.TOTAL:
        parts = _windows(conn, Bucket.QUARTER, ids, zone, start, end)
        return [_total(parts)] if parts else []
    if bucket in _WIDTHS:
        return _windows(conn, bucket, ids, zone, start, end)
    return _civil(conn, bucket, ids, zone, start, end)


def _channel_ids(
    conn: "psycopg.Connection[Any]", device: "DeviceRow", wanted: Sequence[str] | None
) -> list[int]:
    from sinks.registry import RegistryError, summed_channels

    rows = conn.execute(
        "SELECT name, channel_id FROM channel WHERE device_id = %s", [device.device_id]
    )
    known: dict[str, int] = dict(rows.fetchall())
    missing = [name for name in wanted or () if name not in known]
    if missing:
        raise RegistryError(
            f"{device.name or device.address} has no channel {missing[0]!r}; "
            f"it has {', '.join(sorted(known)) or 'none yet'}"
        )
    return [known[name] for name in wanted or summed_channels(known)]


_VALUES = """
    sum(energy_uwh)::bigint, sum(export_uwh)::bigint,
    CASE WHEN count(*) = 1 THEN min(power_min_w) END, sum(power_avg_w),
    CASE WHEN count(*) = 1 THEN max(power_max_w) END, sum(readings)::bigint, max(quality)"""


def _windows(
    conn: "psycopg.Connection[Any]",
    bucket: Bucket,
    channel_ids: Sequence[int],
    zone: ZoneInfo,
    start: datetime | None,
    end: datetime | None,
) -> list[UsageRow]:
    revision = "NULL" if bucket is Bucket.HOUR else "sum(revision)::bigint"
    query = f"""
        SELECT window_start, {_VALUES}, {revision}
        FROM usage_{bucket}
        WHERE channel_id = ANY(%(ids)s)
          AND window_start >= %(start)s::timestamptz AND window_start < %(end)s::timestamptz
        GROUP BY window_start ORDER BY window_start"""
    parameters = _parameters(channel_ids, start, end)
    width = _WIDTHS[bucket]
    return [
        _row(at.astimezone(zone), (at + width).astimezone(zone), *rest)
        for at, *rest in conn.execute(query.encode(), parameters)
    ]


def _civil(
    conn: "psycopg.Connection[Any]",
    bucket: Bucket,
    channel_ids: Sequence[int],
    zone: ZoneInfo,
    start: datetime | None,
    end: datetime | None,
) -> list[UsageRow]:
    query = f"""
        SELECT day, {_VALUES}, NULL
        FROM usage_{bucket}
        WHERE channel_id = ANY(%(ids)s)
          AND day::timestamp AT TIME ZONE %(zone)s >= %(start)s::timestamptz
          AND day::timestamp AT TIME ZONE %(zone)s < %(end)s::timestamptz
        GROUP BY day ORDER BY day"""
    parameters = _parameters(channel_ids, start, end) | {"zone": zone.key}
    return [
        _row(_midnight(day, zone), _midnight(_after(day, bucket), zone), *rest)
        for day, *rest in conn.execute(query.encode(), parameters)
    ]


def _row(start: datetime, end: datetime, *values: Any) -> UsageRow:
    energy, export, least, average, greatest, count, quality, revision = values
    powers = least, average, greatest
    return UsageRow(start, end, energy, export, *powers, count, Quality(quality), revision)


def _parameters(
    channel_ids: Sequence[int], start: datetime | None, end: datetime | None
) -> dict[str, object]:
    return {
        "ids": list(channel_ids),
        "start": "-infinity" if start is None else start.isoformat(),
        "end": "infinity" if end is None else end.isoformat(),
    }


def _total(parts: Sequence[UsageRow]) -> UsageRow:
    """All buckets as one; its average power is weighted by readings, its quality the worst."""
    powered = [(one.power_avg_w, one.count) for one in parts if one.power_avg_w is not None]
    weight = sum(count for _, count in powered)
    average = sum(power * count for power, count in powered) / weight if weight else None
    return replace(
        parts[0],
        end=parts[-1].end,
        energy_uwh=sum(one.energy_uwh for one in parts),
        export_uwh=sum(one.export_uwh for one in parts),
        power_min_w=_known(min, (one.power_min_w for one in parts)),
        power_avg_w=average,
        power_max_w=_known(max, (one.power_max_w for one in parts)),
        count=sum(one.count for one in parts),
        quality=max(one.quality for one in parts),
        revision=None,
    )


def _known(choose: Any, values: Iterable[float | None]) -> float | None:
    said = [value for value in values if value is not None]
    chosen: float | None = choose(said) if said else None
    return chosen


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def _after(day: date, bucket: Bucket) -> date:
    if bucket is Bucket.MONTH:
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + timedelta(days=7 if bucket is Bucket.WEEK else 1)


def instant_of(text: str, zone: ZoneInfo, option: str) -> datetime:
    """An instant of the command line; a time without an offset, or a date, is in `zone`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r:.60} is no time; give 2026-02-06T14:30:00+07:00 or 2026-02-06",
            param_hint=option,
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _print_table(device: "DeviceRow", rows: Sequence[UsageRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(Console().width, LEAST_WIDTH))  # cut numbers would mislead
    if not rows:
        console.print(f"{device.name or device.address}: nothing is stored in this time yet")
        return
    table = Table(box=None)
    table.add_column("start")
    for title in ("energy Wh", "export Wh", "min W", "avg W", "max W", "readings"):
        table.add_column(title, justify="right")
    table.add_column("quality")
    table.add_column("revision", justify="right")
    for row in rows:
        powers = (row.power_min_w, row.power_avg_w, row.power_max_w)
        table.add_row(
            row.start.isoformat(),
            f"{row.energy_uwh / UWH_PER_WH:.3f}",
            f"{row.export_uwh / UWH_PER_WH:.3f}",
            *("" if power is None else f"{power:.1f}" for power in powers),
            str(row.count),
            row.quality.name.lower(),
            "" if row.revision is None else str(row.revision),
        )
    console.print(table)
