"""The homesync node that a file becomes: its names, its registration, what of it is stored."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import psycopg

from schemas import homesync
from schemas.units import SECOND_US
from sinks.registry import NameTaken, claim_device

INTERVAL_S = 60
INTERVAL_US = INTERVAL_S * SECOND_US
GAP_LIMIT_S = INTERVAL_S
"""Of these devices: a missing minute is a gap, and no power before and after it is joined."""


@dataclass(frozen=True)
class Node:
    home: str
    node: str

    @property
    def address(self) -> str:
        return f"homesync:{self.home}/{self.node}"

    @property
    def topic(self) -> str:
        return homesync.telemetry_topic(self.home, self.node)

    @property
    def ack_topic(self) -> str:
        return homesync.ack_topic(self.home, self.node)


def node_named(name: str) -> Node:
    """The node of a device's name: letters, digits and hyphens; a hash where none is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-")
    if not slug or any(letter.isalpha() and not letter.isascii() for letter in name):
        slug = f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
    return Node(f"home-{slug}", slug)


def claim_node(conn: psycopg.Connection[Any], name: str, zone: str) -> Node:
    """Register the homesync node `name`, claimed by its home, if it is not there yet.

    Raises NameTaken where the name, or the address made of it, belongs to something else.
    """
    node = node_named(name)
    rows = conn.execute(
        "SELECT address, name, home_id FROM device WHERE name = %s OR address = %s",
        [name, node.address],
    ).fetchall()
    home_id = node.home
    for address, registered, home in rows:
        if registered == name:
            family, _, rest = address.partition(":")
            if family != "homesync":
                raise NameTaken(
                    f"{name!r} is {address}, a device of its own; choose another name for the file"
                )
            node = Node(*rest.split("/", 1))
            home_id = home or node.home
        elif registered is not None:
            raise NameTaken(f"{address} is named {registered!r}; choose another name")
    claim_device(conn, node.address, name, home_id, zone, gap_limit_s=GAP_LIMIT_S)
    return node


@dataclass(frozen=True)
class Stored:
    """What the database holds of a node's `total` between two instants."""

    readings: int
    energy_uwh: int

    @property
    def kwh(self) -> float:
        return self.energy_uwh / 1e9


def stored_between(
    conn: psycopg.Connection[Any], address: str, start_us: int, end_us: int
) -> Stored:
    """Readings in (start, end], and the ledger's energy of the quarter hours in [start, end)."""
    row = conn.execute(
        """
        WITH mine AS (
            SELECT channel_id FROM channel JOIN device USING (device_id)
            WHERE address = %(address)s AND channel.name = 'total'
        )
        SELECT
            (SELECT count(*) FROM readings JOIN mine USING (channel_id)
             WHERE measured_at > to_timestamp(%(start)s) AND measured_at <= to_timestamp(%(end)s)),
            (SELECT coalesce(sum(energy_uwh), 0)::bigint FROM usage_15m JOIN mine USING (channel_id)
             WHERE window_start > to_timestamp(%(start)s) - interval '15 minutes'
               AND window_start < to_timestamp(%(end)s))""",
        {"address": address, "start": start_us / SECOND_US, "end": end_us / SECOND_US},
    ).fetchone()
    assert row is not None
    return Stored(row[0], row[1])


def minute_uwh(power_w: float) -> int:
    """The energy of a minute at this mean power, to the nearest µWh."""
    return round(power_w * 1_000_000 / 60)


def wh_text(energy_uwh: int) -> str:
    """Whole µWh as decimal Wh, exactly."""
    return f"{energy_uwh // 1_000_000}.{energy_uwh % 1_000_000:06d}"
