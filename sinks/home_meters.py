"""Which channels count for a home: its grid meters and those of its own plant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psycopg
from psycopg.rows import class_row

from schemas.units import QUARTER_US
from sinks.contracts import HomeError, Role, check_parts, find_home
from sinks.registry import DeviceRow, UnknownDevice, resolve_device

SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_FOR_EVER = datetime.max.replace(tzinfo=UTC)


class BadMeter(HomeError):
    """A channel that cannot count for the home as was asked."""


@dataclass(frozen=True, slots=True)
class HomeMeter:
    """A channel that counts in `[valid_from, valid_to)`; None: until further notice."""

    device_id: int
    address: str
    device_name: str | None
    channel_id: int
    channel: str
    role: Role
    valid_from: datetime
    valid_to: datetime | None

    @property
    def called(self) -> str:
        return f"{self.device_name or self.address}/{self.channel}"


def list_meters(conn: psycopg.Connection[Any], home_id: str) -> list[HomeMeter]:
    with conn.cursor(row_factory=class_row(HomeMeter)) as cursor:
        return cursor.execute(
            """
            SELECT d.device_id, d.address, d.name AS device_name, c.channel_id,
                   c.name AS channel, h.role, h.valid_from, h.valid_to
            FROM home_meter h JOIN channel c USING (channel_id) JOIN device d USING (device_id)
            WHERE h.home_id = %s ORDER BY h.role, h.valid_from, c.channel_id""",
            [home_id],
        ).fetchall()


def set_meter(
    conn: psycopg.Connection[Any],
    home_id: str,
    device: DeviceRow,
    channel: str | None,
    role: Role,
    *,
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
) -> HomeMeter:
    """Let a channel count for the home, or change the entry that begins at `valid_from`.

    Without `channel` the device's `total`, or its only one; without `valid_from` the channel's one
    entry, or a new one since the home has the device. Raises UnknownHome, BadMeter and
    AmbiguousMeters.
    """
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        _check_owner(home_id, device)
        name, channel_id = _channel(conn, device, channel)
        start = _start(list_meters(conn, home_id), channel_id, name, valid_from)
        since = _owned_since(conn, home_id, device)
        if valid_from is None:
            start = max(start, since)
        _check_span(start, valid_to)
        if start < since:
            raise BadMeter(
                f"home {home_id!r:.60} has {device.name or device.address} since "
                f"{since.isoformat()}; what it measured before is another home's"
            )
        try:
            with conn.transaction():
                changed = conn.execute(_SET, (home_id, channel_id, role, start, valid_to))
        except psycopg.errors.ExclusionViolation as error:
            raise BadMeter(_told_overlap(conn, name, channel_id, start)) from error
        if not changed.rowcount:
            raise BadMeter(_told_overlap(conn, name, channel_id, start))
        meters = list_meters(conn, home_id)
        _check_parts(home_id, [meter for meter in meters if meter.role == role])
    return next(m for m in meters if (m.channel_id, m.valid_from) == (channel_id, start))


_SET = """
    INSERT INTO home_meter AS h (home_id, channel_id, role, valid_from, valid_to)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (channel_id, valid_from) DO UPDATE
    SET role = excluded.role, valid_to = excluded.valid_to,
        set_at = CASE WHEN (h.role, h.valid_to) IS DISTINCT FROM (excluded.role, excluded.valid_to)
                 THEN now() ELSE h.set_at END
    WHERE h.home_id = excluded.home_id"""


def remove_meter(
    conn: psycopg.Connection[Any],
    home_id: str,
    device: DeviceRow,
    channel: str | None,
    valid_from: datetime | None = None,
) -> None:
    """Forget the entry; of several of the channel `valid_from` says which. Raises BadMeter."""
    with conn.transaction():
        find_home(conn, home_id, lock=True)
        name, channel_id = _channel(conn, device, channel)
        start = _start(list_meters(conn, home_id), channel_id, name, valid_from)
        gone = conn.execute(
            "DELETE FROM home_meter WHERE home_id = %s AND channel_id = %s AND valid_from = %s",
            [home_id, channel_id, start],
        )
        if not gone.rowcount:
            raise BadMeter(f"channel {name!r} does not count for home {home_id!r} from then on")


def device_and_channel(conn: psycopg.Connection[Any], text: str) -> tuple[DeviceRow, str | None]:
    """`DEVICE` or `DEVICE/CHANNEL`; an address may hold slashes itself.

    Raises UnknownDevice and AmbiguousDevice.
    """
    try:
        return resolve_device(conn, text), None
    except UnknownDevice:
        device, slash, channel = text.rpartition("/")
        if not slash:
            raise
        return resolve_device(conn, device), channel


def _check_owner(home_id: str, device: DeviceRow) -> None:
    if device.home_id not in (None, home_id):
        raise BadMeter(
            f"{device.name or device.address} belongs to home {device.home_id!r}; "
            f"give it to {home_id!r} first, or name a device of that home"
        )


def _owned_since(conn: psycopg.Connection[Any], home_id: str, device: DeviceRow) -> datetime:
    """The first quarter hour that is wholly the home's; of an unclaimed device, the first of all.

    One that was ever of another home is the present one's since it came.
    """
    row = conn.execute(
        """
        SELECT date_bin('15 minutes', valid_from + interval '00:14:59.999999', timestamptz 'epoch')
        FROM device_home WHERE device_id = %s AND home_id = %s AND valid_to IS NULL""",
        [device.device_id, home_id],
    ).fetchone()
    return SINCE_EVER if row is None else row[0]


def _channel(
    conn: psycopg.Connection[Any], device: DeviceRow, wanted: str | None
) -> tuple[str, int]:
    known: dict[str, int] = dict(
        conn.execute(
            "SELECT name, channel_id FROM channel WHERE device_id = %s ORDER BY name",
            [device.device_id],
        ).fetchall()
    )
    called = device.name or device.address
    listed = ", ".join(known) or "none yet"
    name = wanted
    if name is None:
        name = "total" if "total" in known or len(known) != 1 else next(iter(known))
        if name not in known:
            raise BadMeter(f"{called} has the channels {listed}; name one, as {called}/CHANNEL")
    if name not in known:
        raise BadMeter(f"{called} has no channel {name!r:.60}; it has {listed}")
    return name, known[name]


def _start(
    meters: Sequence[HomeMeter], channel_id: int, name: str, valid_from: datetime | None
) -> datetime:
    if valid_from is not None:
        return valid_from
    starts = [meter.valid_from for meter in meters if meter.channel_id == channel_id]
    if len(starts) > 1:
        listed = ", ".join(start.isoformat() for start in starts)
        raise BadMeter(f"channel {name!r} counts from {listed}; say which of them it is")
    return starts[0] if starts else SINCE_EVER


def _check_span(start: datetime, end: datetime | None) -> None:
    for at in (start, end):
        if at is not None and round(at.timestamp() * 1_000_000) % QUARTER_US:
            raise BadMeter(
                f"{at.isoformat()} lies within a quarter hour of the ledger; give :00 :15 :30 :45"
            )
    if end is not None and end <= start:
        raise BadMeter(
            f"the end {end.isoformat()} is not after the start {start.isoformat()}; "
            "give a later one"
        )


def _told_overlap(
    conn: psycopg.Connection[Any], name: str, channel_id: int, start: datetime
) -> str:
    spans = conn.execute(
        "SELECT home_id, role, valid_from, valid_to FROM home_meter WHERE channel_id = %s "
        "ORDER BY valid_from",
        [channel_id],
    ).fetchall()
    listed = "; ".join(
        f"{role} of home {home!r} from {since.isoformat()}"
        + (f" to {until.isoformat()}" if until else " on")
        for home, role, since, until in spans
    )
    return (
        f"channel {name!r} counts already at {start.isoformat()} or later: {listed}; "
        "end that entry first (valid to), or remove it"
    )


def _check_parts(home_id: str, meters: Sequence[HomeMeter]) -> None:
    edges = sorted(
        {m.valid_from for m in meters} | {m.valid_to or _FOR_EVER for m in meters} | {_FOR_EVER}
    )
    for low, high in pairwise(edges):
        valid = [m for m in meters if m.valid_from <= low and (m.valid_to or _FOR_EVER) >= high]
        check_parts(home_id, [(m.device_id, m.channel) for m in valid], low)
