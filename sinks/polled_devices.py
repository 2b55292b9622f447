"""Which devices are asked over HTTP while their MQTT is silent."""

from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from schemas.models import contract_of, shipped_models


class PolledDevice(NamedTuple):
    """`host` is `name[:port]`; `secret_file` names a file that holds the password."""

    device_id: int
    address: str
    host: str
    secret_file: str | None
    interval_s: int
    silent_after_s: int


_POLLED = """
SELECT p.device_id, d.address, coalesce(p.host, d.ip, ip.value #>> '{}'), p.secret_file,
       p.interval_s, coalesce(p.silent_after_s, m.late_after_s), d.family,
       coalesce(d.model, model.value #>> '{}')
FROM polled_device p JOIN device d USING (device_id)
LEFT JOIN device_state ip ON ip.device_id = d.device_id AND ip.channel = '' AND ip.field = 'ip'
LEFT JOIN device_state model ON model.device_id = d.device_id AND model.channel = ''
                            AND model.field = 'model'
LEFT JOIN model m ON m.name = coalesce(d.model, model.value #>> '{}')
WHERE d.deleted_at IS NULL
ORDER BY p.device_id
"""


def polled_devices(conn: psycopg.Connection[Any]) -> list[PolledDevice]:
    """Those of which it is known where they are. When they are silent, their contracts say, where
    their rows do not.
    """
    found = []
    for device_id, address, host, secret, interval_s, silent_s, family, model in conn.execute(
        _POLLED
    ):
        if host is not None:
            if silent_s is None:
                silent_s = contract_of(shipped_models(), family, model).late_after_s
            found.append(PolledDevice(device_id, address, host, secret, interval_s, silent_s))
    return found


_LISTED = """
SELECT d.address, d.name, p.host, p.secret_file, p.interval_s, p.silent_after_s
FROM polled_device p JOIN device d USING (device_id) ORDER BY d.address
"""


def listed_devices(conn: psycopg.Connection[Any]) -> list[dict[str, object]]:
    """The list as it was set, also of devices of which nobody knows where they are."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_LISTED).fetchall()


_SET = """
INSERT INTO polled_device (device_id, host, secret_file, interval_s, silent_after_s)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (device_id) DO UPDATE
SET host = excluded.host, secret_file = excluded.secret_file, interval_s = excluded.interval_s,
    silent_after_s = excluded.silent_after_s, set_at = now()
"""


def poll_device(
    conn: psycopg.Connection[Any],
    device_id: int,
    host: str | None = None,
    secret_file: str | None = None,
    interval_s: int = 10,
    silent_after_s: int | None = None,
) -> None:
    """Have a device asked over HTTP, or change how."""
    conn.execute(_SET, [device_id, host, secret_file, interval_s, silent_after_s])


def leave_device(conn: psycopg.Connection[Any], device_id: int) -> bool:
    """Ask it no more; False if it was not asked."""
    return conn.execute("DELETE FROM polled_device WHERE device_id = %s", [device_id]).rowcount == 1
