"""What devices last said of themselves, field by field, as it is told to everybody."""

from collections.abc import Sequence
from typing import Any

import psycopg

from schemas.announcements import DeviceSaid
from schemas.device import State

_STATES = """
SELECT s.device_id, d.address, d.home_id, nullif(s.channel, ''), to_us(s.measured_at),
       jsonb_object_agg(s.field, s.value)
FROM device_state s JOIN device d USING (device_id)
WHERE s.device_id = ANY(%s)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 5, 4
"""


def states_of(conn: psycopg.Connection[Any], device_ids: Sequence[int]) -> list[DeviceSaid]:
    """The whole stored state of each of these devices that has said anything."""
    found: dict[int, DeviceSaid] = {}
    if device_ids:
        for row in conn.execute(_STATES, [list(device_ids)]):
            device_id, address, home_id, channel, at_us, fields = row
            said = found.setdefault(device_id, DeviceSaid(device_id, address, [], home_id))
            said.states.append(State(at_us, fields, channel))
    return list(found.values())
