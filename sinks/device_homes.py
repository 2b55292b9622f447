"""Whose a device is, was and ceases to be: each home keeps what was measured in its time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from sinks.contracts import find_home
from sinks.registry import BadEntry, UnknownDevice, add_up_anew


class BadMove(BadEntry):
    """A device that cannot go to that home then."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A device was of the home in `[valid_from, valid_to)`; None: it still is."""

    home_id: str
    valid_from: datetime
    valid_to: datetime | None


def owners(conn: psycopg.Connection[Any], device_id: int) -> list[Ownership]:
    """The oldest first."""
    with conn.cursor(row_factory=class_row(Ownership)) as cursor:
        return cursor.execute(
            "SELECT home_id, valid_from, valid_to FROM device_home WHERE device_id = %s "
            "ORDER BY valid_from",
            [device_id],
        ).fetchall()


def move_device(
    conn: psycopg.Connection[Any], device_id: int, home_id: str, at: datetime | None = None
) -> list[Ownership]:
    """Give a device to another home from `at` on (default: now). Returns its owners.

    The old home keeps readings, usage and bills of its time; its meters on the device end with the
    quarter hour in which `at` lies. The new home sees nothing before `at`, and names its own
    meters. Raises UnknownHome, UnknownDevice, and BadMove for an instant that is still to come,
    that lies before the present home's time or within an issued bill of that home.
    """
    with conn.transaction():
        home = find_home(conn, home_id)
        old_home_id, old_zone = _locked(conn, device_id)
        held = owners(conn, device_id)
        if old_home_id is None:
            raise BadMove("nobody has the device; claim it for the home")
        if old_home_id == home_id:
            raise BadMove(f"the device is of home {home_id!r:.60} already")
        _check_instant(conn, device_id, old_home_id, held[-1].valid_from, at)
        moved_at = at.astimezone(UTC).isoformat() if at is not None else ""
        conn.execute("SELECT set_config('meterstream.moved_at', %s, true)", [moved_at])
        conn.execute(
            "UPDATE device SET home_id = %s, zone = %s, location = NULL WHERE device_id = %s",
            [home_id, home.zone, device_id],
        )
        conn.execute("SELECT set_config('meterstream.moved_at', '', true)")
        if home.zone != old_zone:
            add_up_anew(conn, device_id)
        return owners(conn, device_id)


def delete_device(conn: psycopg.Connection[Any], device_id: int) -> None:
    """Take a device out of the registry: of nobody, without a name, in no list.

    Its readings, usage and bills stay, and so do its id and address. Once it speaks again it is
    there as an unclaimed device. Raises UnknownDevice.
    """
    with conn.transaction():
        _locked(conn, device_id)
        conn.execute(
            "UPDATE device SET deleted_at = now(), name = NULL, location = NULL, home_id = NULL, "
            "claimed_at = NULL WHERE device_id = %s",
            [device_id],
        )
        for table in ("claim_code", "claim_proof"):
            conn.execute(f"DELETE FROM {table} WHERE device_id = %s".encode(), [device_id])


def _locked(conn: psycopg.Connection[Any], device_id: int) -> tuple[str | None, str]:
    row = conn.execute(
        "SELECT home_id, zone FROM device WHERE device_id = %s AND deleted_at IS NULL FOR UPDATE",
        [device_id],
    ).fetchone()
    if row is None:
        raise UnknownDevice(f"no device has the id {device_id}, or it was deleted")
    return row[0], row[1]


def _check_instant(
    conn: psycopg.Connection[Any],
    device_id: int,
    old_home_id: str,
    since: datetime,
    at: datetime | None,
) -> None:
    if at is None:
        return
    if at > datetime.now(UTC):
        raise BadMove(f"{at.isoformat()} is still to come; move the device when it moves")
    if at <= since:
        raise BadMove(
            f"home {old_home_id!r:.60} has the device since {since.isoformat()}; give a later time"
        )
    billed = conn.execute(
        """
        SELECT to_char(b.month, 'YYYY-MM'), b.cycle_end FROM bill b
        WHERE b.home_id = %s AND b.cycle_end > %s AND EXISTS (
            SELECT FROM home_meter m JOIN channel c USING (channel_id)
            WHERE c.device_id = %s AND m.home_id = b.home_id AND m.valid_from < b.cycle_end
              AND coalesce(m.valid_to, 'infinity') > b.cycle_start)
        ORDER BY b.cycle_end DESC LIMIT 1""",
        [old_home_id, at, device_id],
    ).fetchone()
    if billed is not None:
        raise BadMove(
            f"the bill {billed[0]} of home {old_home_id!r:.60} is issued and counts the device; "
            f"give {billed[1].isoformat()} or later"
        )
