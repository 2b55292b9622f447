"""The registry of devices: find one by what a person calls it, claim one, choose its channels."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import psycopg
from psycopg.rows import class_row, scalar_row

NEAR_MATCHES = 5
_NAMES_COMPARED = 5_000
_PHASES = ("l1", "l2", "l3")


class RegistryError(Exception):
    """What a person asked of the registry cannot be done; the text says what to do."""


class UnknownDevice(RegistryError):
    """No device is called that."""


class AmbiguousDevice(RegistryError):
    """Several devices are called that."""


class NameTaken(RegistryError):
    """Another device has this name."""


class BadEntry(RegistryError):
    """A value that the registry cannot take."""


class UnknownZone(RegistryError):
    """No such time zone."""


@dataclass(frozen=True)
class DeviceRow:
    """A row of `device`; `home_id` is None while nobody has claimed it."""

    device_id: int
    address: str
    family: str
    name: str | None
    home_id: str | None
    zone: str
    max_power_w: int | None
    gap_limit_s: int | None
    first_seen_at: datetime
    claimed_at: datetime | None


_COLUMNS = (
    "device_id, address, family, name, home_id, zone, max_power_w, gap_limit_s, "
    "first_seen_at, claimed_at"
)
_EXACT = f"""
    SELECT {_COLUMNS} FROM device
    WHERE name = %(text)s OR address = %(text)s OR device_id = %(id)s
    ORDER BY device_id"""
_LOOSE = f"""
    SELECT {_COLUMNS} FROM device
    WHERE lower(name) = lower(%(text)s)
       OR substr(address, strpos(address, ':') + 1) = %(text)s
       OR right(address, length(%(text)s) + 1) = '/' || %(text)s
    ORDER BY device_id LIMIT 20"""


def resolve_device(conn: psycopg.Connection[Any], text: str) -> DeviceRow:
    """The device with this name, address or id.

    Failing that, the one whose name differs only in case, or whose address ends in `text` (the
    part behind the family, or behind the last slash).
    Raises UnknownDevice, which names near matches, and AmbiguousDevice, which names them all.
    """
    if "\0" in text:
        raise UnknownDevice("no device has a NUL in its name or address")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    with conn.cursor(row_factory=class_row(DeviceRow)) as cursor:
        for query in (_EXACT, _LOOSE):
            found = cursor.execute(query, {"text": text, "id": number}).fetchall()
            if len(found) == 1:
                return found[0]
            if found:
                raise AmbiguousDevice(
                    f"{text!r} is more than one device: "
                    + ", ".join(f"{one.device_id} = {_called(one)}" for one in found)
                    + "; give the address"
                )
    near = _near_matches(conn, text)
    hint = f"; did you mean {', '.join(near)}?" if near else "; see the list of devices"
    raise UnknownDevice(f"no device has the name, address or id {text!r}{hint}")


def claim_device(
    conn: psycopg.Connection[Any],
    address: str,
    name: str | None,
    home_id: str,
    zone: str,
    *,
    gap_limit_s: int | None = None,
) -> int:
    """Give a device to a home, registering it if it was never seen. Returns its id.

    Claiming again changes name, home and zone; another zone marks all its days to be added up
    anew. `name` and `gap_limit_s` None leave what is. A deleted device is there again. One
    transaction.
    Raises NameTaken and UnknownZone.
    """
    check_zone(zone)
    with conn.transaction(), conn.cursor(row_factory=scalar_row) as cursor:
        old_zone = cursor.execute(
            "SELECT zone FROM device WHERE address = %s FOR UPDATE", [address]
        ).fetchone()
        try:
            device_id: int | None = cursor.execute(
                _CLAIM,
                {
                    "address": address,
                    "family": address.partition(":")[0],
                    "name": name,
                    "home_id": home_id,
                    "zone": zone,
                    "gap_limit_s": gap_limit_s,
                },
            ).fetchone()
        except psycopg.errors.UniqueViolation as error:
            raise NameTaken(f"another device is named {name!r}; choose another name") from error
        assert device_id is not None
        if old_zone is not None and old_zone != zone:
            add_up_anew(conn, device_id)
    return device_id


def add_up_anew(conn: psycopg.Connection[Any], device_id: int) -> None:
    """The device's zone has changed: mark all its days."""
    for table in ("usage_1d", "usage_1w", "usage_1mo"):
        conn.execute(_FORGET.format(table).encode(), [device_id])
    conn.execute(_MARK, [device_id])


_CLAIM = """
    INSERT INTO device (address, family, name, home_id, zone, gap_limit_s, claimed_at)
    VALUES (%(address)s, %(family)s, %(name)s, %(home_id)s, %(zone)s, %(gap_limit_s)s, now())
    ON CONFLICT (address) DO UPDATE SET
        name = coalesce(excluded.name, device.name), home_id = excluded.home_id,
        zone = excluded.zone, gap_limit_s = coalesce(excluded.gap_limit_s, device.gap_limit_s),
        gap_limit_of_model = device.gap_limit_of_model AND excluded.gap_limit_s IS NULL,
        claimed_at = coalesce(device.claimed_at, excluded.claimed_at), deleted_at = NULL
    RETURNING device_id"""
_FORGET = """
    DELETE FROM {} WHERE channel_id IN (SELECT channel_id FROM channel WHERE device_id = %s)"""
_MARK = """
    INSERT INTO rollup_dirty
    SELECT channel_id, window_start FROM usage_15m JOIN channel USING (channel_id)
    WHERE device_id = %s"""


def check_zone(zone: str) -> ZoneInfo:
    """The time zone of this name. Raises UnknownZone, which names near matches."""
    known = available_timezones()
    if zone in known:
        return ZoneInfo(zone)
    near = get_close_matches(zone, known, NEAR_MATCHES)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UnknownZone(f"no time zone is named {zone!r}; give one like Asia/Bangkok{hint}")


def summed_channels(channels: Iterable[str]) -> list[str]:
    """The channels that add up to the whole device, none counted twice.

    The `total` where there is one. Else phases (`x:l1`) are left out where their whole (`x`) is
    there, and so is the neutral.
    """
    known = sorted(set(channels))
    if "total" in known:
        return ["total"]
    return [one for one in known if not _is_part(one, known)]


def _is_part(channel: str, known: list[str]) -> bool:
    whole, _, last = channel.rpartition(":")
    if last == "n":
        return True
    return last in _PHASES and (whole in known or f"{whole}:total" in known)


def _near_matches(conn: psycopg.Connection[Any], text: str) -> list[str]:
    with conn.cursor(row_factory=scalar_row) as cursor:
        called: list[str] = cursor.execute(
            """
            SELECT coalesce(name, address) FROM device
            ORDER BY (coalesce(name, '') || ' ' || address) ILIKE '%%' || %s || '%%' DESC, device_id
            LIMIT %s""",
            [text, _NAMES_COMPARED],
        ).fetchall()
    holding = [one for one in called if text.lower() in one.lower()][:NEAR_MATCHES]
    return holding or get_close_matches(text, called, NEAR_MATCHES, cutoff=0.5)


def _called(device: DeviceRow) -> str:
    return f"{device.name} ({device.address})" if device.name else device.address
