"""All that the registry knows of one device, and changing what people say of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from schemas.models import Model, contract_of, shipped_models
from sinks.registry import (
    BadEntry,
    NameTaken,
    UnknownDevice,
    add_up_anew,
    check_zone,
)

PERSONS_FIELDS = (
    "name",
    "location",
    "zone",
    "model",
    "ip",
    "mac",
    "max_power_w",
    "gap_limit_s",
)
"""What a person may set; null takes it back, but for the zone."""

_LONGEST_TEXT = 200
_MAC = re.compile(r"[0-9a-fA-F]{12}")


class BadDetail(BadEntry):
    """A value that the field of a device cannot have."""


@dataclass(frozen=True, slots=True)
class DeviceDetails:
    """`model`, `ip` and `mac` are as a person set them, else as the device says.

    `presence` is None while the stream has heard nothing; `heard_at` is exact to a minute while the
    device is online. `reported_version` is the configuration that the device says it has.
    """

    device_id: int
    address: str
    family: str
    name: str | None
    home_id: str | None
    zone: str
    location: str | None
    model: str | None
    model_set: str | None
    firmware: str | None
    ip: str | None
    mac: str | None
    rssi_dbm: int | None
    link_quality: int | None
    max_power_w: int | None
    gap_limit_s: int | None
    capabilities: dict[str, Any]
    first_seen_at: datetime
    claimed_at: datetime | None
    deleted_at: datetime | None
    presence: str | None
    presence_since_at: datetime | None
    heard_at: datetime | None
    desired_version: int | None
    reported_version: int | None
    set_contract: dict[str, Any] | None

    @property
    def contract(self) -> Model:
        """What its model, or its family, promises."""
        if self.set_contract is not None:
            return Model(**self.set_contract)
        return contract_of(shipped_models(), self.family, self.model)


DETAILS = """
    WITH said AS (
        SELECT jsonb_object_agg(field, value) AS field FROM device_state
        WHERE device_id = %(device_id)s AND channel = ''
    ), found AS (
        SELECT d.*, coalesce(d.model, field ->> 'model') AS model_now, field
        FROM device d, said WHERE d.device_id = %(device_id)s
    )
    SELECT d.device_id, d.address, d.family, d.name, d.home_id, d.zone, d.location,
           d.model_now AS model, d.model AS model_set, field ->> 'firmware' AS firmware,
           coalesce(d.ip, field ->> 'ip') AS ip, coalesce(d.mac, field ->> 'mac') AS mac,
           (field ->> 'rssi_dbm')::float::integer AS rssi_dbm,
           (field ->> 'link_quality')::float::integer AS link_quality,
           d.max_power_w, d.gap_limit_s, d.capabilities, d.first_seen_at, d.claimed_at,
           d.deleted_at, p.state::text AS presence, p.since_at AS presence_since_at, p.heard_at,
           (SELECT max(version) FROM device_config c WHERE c.device_id = d.device_id)
               AS desired_version,
           (SELECT version FROM device_config_report r
            WHERE r.device_id = d.device_id AND version IS NOT NULL
            ORDER BY reported_at DESC LIMIT 1) AS reported_version,
           (SELECT to_jsonb(m) - 'set_at' FROM model m
            WHERE m.name = d.model_now OR m.name = 'family:' || d.family
            ORDER BY m.name = d.model_now DESC LIMIT 1) AS set_contract
    FROM found d LEFT JOIN presence p USING (device_id)"""


def details(conn: psycopg.Connection[Any], device_id: int) -> DeviceDetails:
    """Raises UnknownDevice."""
    with conn.cursor(row_factory=class_row(DeviceDetails)) as cursor:
        found = cursor.execute(DETAILS.encode(), {"device_id": device_id}).fetchone()
    if found is None:
        raise UnknownDevice(f"no device has the id {device_id}; see the list of devices")
    return found


def change_device(
    conn: psycopg.Connection[Any], device_id: int, changes: Mapping[str, object]
) -> DeviceDetails:
    """Set some of `PERSONS_FIELDS`; another zone marks all days to be added up anew.

    Raises BadDetail, NameTaken, UnknownZone and UnknownDevice.
    """
    values = {name: _checked(name, value) for name, value in changes.items()}
    if "gap_limit_s" in values:
        values["gap_limit_of_model"] = False
    with conn.transaction():
        before = conn.execute(
            "SELECT zone FROM device WHERE device_id = %s FOR UPDATE", [device_id]
        ).fetchone()
        if before is None:
            raise UnknownDevice(f"no device has the id {device_id}; see the list of devices")
        if values:
            _update(conn, device_id, values)
        if values.get("zone", before[0]) != before[0]:
            add_up_anew(conn, device_id)
        if "gap_limit_s" in values and values["gap_limit_s"] is None:
            conn.execute("INSERT INTO presence_dirty VALUES (%s)", [device_id])  # its model's again
        return details(conn, device_id)


def _update(conn: psycopg.Connection[Any], device_id: int, values: Mapping[str, object]) -> None:
    query = sql.SQL("UPDATE device SET {} WHERE device_id = {}").format(
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in values
        ),
        sql.Placeholder("device_id"),
    )
    try:
        with conn.transaction():
            conn.execute(query, {**values, "device_id": device_id})
    except psycopg.errors.UniqueViolation as error:
        raise NameTaken(
            f"another device is named {values['name']!r}; choose another name"
        ) from error


def _checked(name: str, value: object) -> object:
    if name not in PERSONS_FIELDS:
        raise BadDetail(
            f"a device has no {name!r:.40} to set; there are {', '.join(PERSONS_FIELDS)}"
        )
    if name == "zone":
        if not isinstance(value, str):
            raise BadDetail("a device has always a zone; give one like Asia/Bangkok")
        check_zone(value)
        return value
    if value is None:
        return None
    if name in ("max_power_w", "gap_limit_s"):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise BadDetail(f"{name} is {value!r:.40}; give a whole number above 0")
        return value
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT or not value.isprintable():
        raise BadDetail(f"{name} is {value!r:.60}; give a short printable text")
    if name == "ip":
        try:
            return str(ip_address(value))
        except ValueError as error:
            raise BadDetail(f"{value!r:.60} is no IP address; give one like 192.0.2.7") from error
    if name == "mac":
        digits = re.sub(r"[:.-]", "", value)
        if not _MAC.fullmatch(digits):
            raise BadDetail(f"{value!r:.60} is no MAC; give one like 3C:61:05:12:34:56")
        return ":".join(digits[i : i + 2] for i in range(0, 12, 2)).upper()
    return value
