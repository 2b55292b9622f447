"""`meterstream repairs` and `meterstream reconcile`: what registers did, and if power agrees."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.usage import LEAST_WIDTH, instant_of

if TYPE_CHECKING:
    import psycopg

    from sinks.registry import DeviceRow

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2200, 1, 1, tzinfo=UTC)
_DAYS = 7  # that are compared unless told otherwise

Device = Annotated[str, typer.Argument(help="A name, address or id.", metavar="DEVICE")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="T", help="RFC 3339; without offset in the device's zone."),
]
To = Annotated[str | None, typer.Option("--to", metavar="T", help="Exclusive.")]
Channel = Annotated[str | None, typer.Option("--channel", help="Only this one; else all.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    app.command("repairs")(repairs)
    app.command("reconcile")(reconcile)


def repairs(
    device: Device,
    from_: From = None,
    to: To = None,
    channel: Channel = None,
    as_json: Json = False,
) -> None:
    """Show what was mended of a device's registers: when, why, and how much was counted."""
    import psycopg

    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection
    from sinks.register_repairs import Wanted, listed
    from sinks.registry import resolve_device
    from streams.repair_words import document, repair_of

    with told(), psycopg.connect(DatabaseConnection().url) as conn:
        found = resolve_device(conn, device)
        zone = ZoneInfo(found.zone)
        channels = channels_of(conn, found, channel)
        start = _FIRST if from_ is None else instant_of(from_, zone, "--from")
        end = _LAST if to is None else instant_of(to, zone, "--to")
        rows = listed(conn, Wanted(list(channels), start, end))
    items = [document(channels[row.channel_id], repair_of(row), zone) for row in rows]
    if as_json:
        print_json(items)
        return
    columns = ("at", "channel", "why", "energy_wh", "text")
    _print_table(items, columns, f"{found.name or found.address}: no register was mended")


def reconcile(
    device: Device,
    from_: From = None,
    to: To = None,
    channel: Channel = None,
    as_json: Json = False,
) -> None:
    """Compare a device's registers with the integral of its power, civil day by civil day.

    The days are those that touch [--from, --to); the last 7 unless told otherwise.
    """
    import psycopg

    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection
    from schemas.families import FAMILIES
    from sinks.day_points import Asked, points_around
    from sinks.registry import resolve_device
    from streams.partition import limits_of
    from streams.reconcile import days_of, document, reconciled
    from streams.store import point_of_stored

    items = []
    with told(), psycopg.connect(DatabaseConnection().url) as conn:
        found = resolve_device(conn, device)
        zone = ZoneInfo(found.zone)
        channels = channels_of(conn, found, channel)
        limits = limits_of(FAMILIES[found.family], found.gap_limit_s, found.max_power_w)
        days = list(days_of(*_days(from_, to, zone), zone))
        with _bar(len(days)) as advance:
            for day in days:
                for channel_id, name in channels.items():
                    asked = Asked(channel_id, day.start_us, day.end_us, limits.gap_limit_us)
                    points = [point_of_stored(row) for row in points_around(conn, asked)]
                    items += [document(name, one, zone) for one in reconciled(points, day, limits)]
                advance()
    if as_json:
        print_json(items)
        return
    columns = ("day", "channel", "register_wh", "power_wh", "drift_wh", "drift_percent", "text")
    _print_table(items, columns, f"{found.name or found.address}: it has no channel yet")


def channels_of(
    conn: "psycopg.Connection[Any]", device: "DeviceRow", wanted: str | None
) -> dict[int, str]:
    """Id and name of one channel, or of all. Raises RegistryError."""
    from sinks.registry import RegistryError

    rows = conn.execute(
        "SELECT channel_id, name FROM channel WHERE device_id = %s ORDER BY name",
        [device.device_id],
    )
    known: dict[int, str] = dict(rows.fetchall())
    chosen = {number: name for number, name in known.items() if wanted in (None, name)}
    if wanted is not None and not chosen:
        raise RegistryError(
            f"{device.name or device.address} has no channel {wanted!r}; "
            f"it has {', '.join(known.values()) or 'none yet'}"
        )
    return chosen


def _days(from_: str | None, to: str | None, zone: ZoneInfo) -> tuple[date, date]:
    """The first day, and the one after the last. Refuses an empty range."""
    end = datetime.now(zone) if to is None else instant_of(to, zone, "--to").astimezone(zone)
    after = end.date() + timedelta(days=1 if end.time() > time() else 0)
    if from_ is None:
        return after - timedelta(days=_DAYS), after
    first = instant_of(from_, zone, "--from").astimezone(zone).date()
    if first >= after:
        raise typer.BadParameter(f"{from_} is not before --to; give an earlier day")
    return first, after


def print_json(document: object) -> None:
    """One document; instants and days as ISO 8601."""

    def shown(value: object) -> str:
        assert isinstance(value, date)
        return value.isoformat()

    print(json.dumps(document, default=shown, ensure_ascii=False))


def _print_table(items: Sequence[dict[str, Any]], columns: Sequence[str], nothing: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(Console().width, LEAST_WIDTH), markup=False)
    if not items:
        console.print(nothing)
        return
    table = Table(box=None)
    for name in columns:
        numeric = name.endswith(("_wh", "_percent"))
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for item in items:
        table.add_row(*(_cell(name, item[name]) for name in columns))
    console.print(table)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return f"{value:.3f}" if name.endswith(("_wh", "_percent")) else str(value)


@contextmanager
def _bar(days: int) -> Iterator[Any]:
    """A progress bar on a terminal; nothing else, for a day takes a fraction of a second."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("comparing days", total=days)
        yield lambda: progress.advance(task)
