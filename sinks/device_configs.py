"""How a device shall be set up, version by version, and how it says it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sinks.registry import BadEntry

MOST_BYTES = 16 * 1024
MOST_DEPTH = 4
_ABSENT = object()


class BadConfig(BadEntry):
    """Settings that cannot be stored."""


@dataclass(frozen=True, slots=True)
class Desired:
    version: int
    config: dict[str, Any]
    set_by: str
    set_at: datetime


class Difference(NamedTuple):
    """A setting that is not as it shall be; `reported` None: the device has not told it."""

    setting: str
    desired: object
    reported: object


@dataclass(frozen=True, slots=True)
class Configuration:
    """`reported` has the newest word of the device on each setting, `inner` ones as `outer.inner`.

    `reported_version` is the version that it says it has, None if it never said.
    """

    desired: Desired | None
    reported: dict[str, Any]
    reported_version: int | None
    reported_at: datetime | None
    differences: tuple[Difference, ...]

    @property
    def in_step(self) -> bool:
        """Whether the device has said that everything is as it shall be."""
        return not self.differences


def set_desired(
    conn: psycopg.Connection[Any], device_id: int, config: Mapping[str, Any], set_by: str
) -> Desired:
    """Say how the device shall be set up: a new version, unless nothing changes.

    Raises BadConfig.
    """
    check_config(config)
    with conn.transaction():
        conn.execute("SELECT FROM device WHERE device_id = %s FOR NO KEY UPDATE", [device_id])
        newest = versions(conn, device_id, 1)
        if newest and newest[0].config == config:
            return newest[0]
        conn.execute(
            "INSERT INTO device_config (device_id, version, config, set_by) "
            "VALUES (%s, %s, %s, %s)",
            [device_id, newest[0].version + 1 if newest else 1, Jsonb(config), set_by],
        )
        return versions(conn, device_id, 1)[0]


def versions(conn: psycopg.Connection[Any], device_id: int, most: int) -> list[Desired]:
    """The newest first."""
    with conn.cursor(row_factory=class_row(Desired)) as cursor:
        return cursor.execute(
            "SELECT version, config, set_by, set_at FROM device_config "
            "WHERE device_id = %s ORDER BY version DESC LIMIT %s",
            [device_id, most],
        ).fetchall()


def configuration(conn: psycopg.Connection[Any], device_id: int) -> Configuration:
    """What is wanted and what is, as the device's reports and its answered commands tell."""
    newest = versions(conn, device_id, 1)
    desired = newest[0] if newest else None
    told = conn.execute(_REPORTED, {"device": device_id}).fetchall()
    reported: dict[str, Any] = {}
    for name, value, _ in told:
        reported |= flat({name: value})
    version, at = conn.execute(_REPORTED_VERSION, {"device": device_id}).fetchone() or (None, None)
    found = []
    for name, value in sorted(flat(desired.config if desired else {}).items()):
        is_ = reported.get(name, _ABSENT)
        if is_ is _ABSENT or is_ != value:
            found.append(Difference(name, value, None if is_ is _ABSENT else is_))
    return Configuration(desired, reported, version, at, tuple(found))


_REPORTS = """
    SELECT reported_at, version, config FROM device_config_report WHERE device_id = %(device)s
    UNION ALL
    SELECT ended_at, NULL, parameters FROM command
    WHERE device_id = %(device)s AND kind = 'config' AND state = 'done'"""
_REPORTED = f"""
    SELECT DISTINCT ON (each.key) each.key, each.value, reported_at
    FROM ({_REPORTS}) AS report, jsonb_each(config) AS each
    WHERE jsonb_typeof(config) = 'object'
    ORDER BY each.key, reported_at DESC"""
_REPORTED_VERSION = f"""
    SELECT (array_agg(version ORDER BY reported_at DESC) FILTER (WHERE version IS NOT NULL))[1],
           max(reported_at)
    FROM ({_REPORTS}) AS report"""


def check_config(config: Mapping[str, Any]) -> None:
    """Raises BadConfig."""
    size = len(json.dumps(config, ensure_ascii=False).encode(errors="replace"))
    if size > MOST_BYTES:
        raise BadConfig(f"the settings take {size} bytes; a device takes {MOST_BYTES}")
    _check(config, 1)


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Each setting by its path: `{"wifi": {"ssid": "x"}}` is `{"wifi.ssid": "x"}`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found |= {f"{name}.{path}": inner for path, inner in flat(value).items()}
        else:
            found[name] = value
    return found


def _check(value: object, depth: int) -> None:
    if isinstance(value, Mapping | list) and depth > MOST_DEPTH:
        raise BadConfig(f"settings lie more than {MOST_DEPTH} deep; make them flatter")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
                raise BadConfig(f"{name!r:.60} is no setting's name; give a short printable text")
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, str) and "\0" in value:
        raise BadConfig("a setting holds a NUL; leave it out")
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise BadConfig(f"a setting is {value}; give a finite number")
