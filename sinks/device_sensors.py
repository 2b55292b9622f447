"""What hangs on the channels of a device: type, address, CT ratio, calibration."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sinks.registry import BadEntry, RegistryError

MOST_SENSORS = 256  # of one device


class BadSensor(BadEntry):
    """A sensor that cannot be."""


class UnknownSensor(RegistryError):
    """The device has no such sensor."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """`address` is that on its bus, or its pin; `ct_ratio` that of a current transformer.

    `calibration` are factors by the value's name, as `{"power_w": 1.02}`.
    """

    channel: str
    type: str
    address: str | None
    ct_ratio: Decimal | None
    calibration: dict[str, float]


def list_sensors(conn: psycopg.Connection[Any], device_id: int) -> list[Sensor]:
    with conn.cursor(row_factory=class_row(Sensor)) as cursor:
        return cursor.execute(
            "SELECT channel, type, address, ct_ratio, calibration FROM device_sensor "
            "WHERE device_id = %s ORDER BY channel, type",
            [device_id],
        ).fetchall()


def set_sensor(conn: psycopg.Connection[Any], device_id: int, sensor: Sensor) -> None:
    """Add a sensor, or change the one of that type on that channel. Raises BadSensor."""
    for what, text in (("channel", sensor.channel), ("type", sensor.type)):
        if not 0 < len(text) <= 100 or not text.isprintable():
            raise BadSensor(f"the {what} {text!r:.60} is no name; give a short printable text")
    if sensor.ct_ratio is not None and not 0 < sensor.ct_ratio < 1_000_000:
        raise BadSensor(f"{sensor.ct_ratio} is no ratio of a transformer; give one as 100 or 0.5")
    for name, factor in sensor.calibration.items():
        if not 0 < abs(factor) < 1_000_000:
            raise BadSensor(f"the calibration of {name!r:.40} is {factor}; give a factor near 1")
    known = len(list_sensors(conn, device_id))
    if known >= MOST_SENSORS:
        raise BadSensor(f"the device has {known} sensors; remove those that are gone")
    conn.execute(
        """
        INSERT INTO device_sensor (device_id, channel, type, address, ct_ratio, calibration)
        VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT (device_id, channel, type) DO UPDATE
        SET address = excluded.address, ct_ratio = excluded.ct_ratio,
            calibration = excluded.calibration, set_at = now()""",
        [
            device_id,
            sensor.channel,
            sensor.type,
            sensor.address,
            sensor.ct_ratio,
            Jsonb(sensor.calibration),
        ],
    )


def remove_sensor(
    conn: psycopg.Connection[Any], device_id: int, channel: str, sensor_type: str
) -> None:
    """Raises UnknownSensor."""
    gone = conn.execute(
        "DELETE FROM device_sensor WHERE device_id = %s AND channel = %s AND type = %s",
        [device_id, channel.replace("\0", ""), sensor_type.replace("\0", "")],
    )
    if not gone.rowcount:
        raise UnknownSensor(f"channel {channel!r:.60} has no sensor of type {sensor_type!r:.60}")
