"""Roll-outs in the database: set up, advanced, halted, looked at."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row

from schemas.command import CommandState, Kind
from schemas.firmware import OtaParameters
from sinks import firmware
from sinks.command_errors import CommandError, DeviceOffline, TooSoon
from sinks.commands import Ask, accept
from streams.firmware.errors import BadRollout, UnknownFirmware
from streams.firmware.rollout import Limits, status_after, why_halted

Connection = psycopg.Connection[Any]
_AT_ONCE = 50  # updates under way
_AGAIN_AFTER_S = 60
_EXPIRES_IN_S = 7200  # a node tries for an hour, then proves itself for ten minutes


@dataclass(frozen=True)
class RolloutRow:
    """A row of `firmware_rollout`, and how many devices stand where."""

    rollout_id: int
    firmware_id: int
    product: str
    version: str
    percent: Decimal
    max_failed_percent: Decimal
    least_results: int
    state: str
    reason: str | None
    made_by: str
    made_at: datetime
    waiting: int
    sent: int
    done: int
    failed: int


@dataclass(frozen=True)
class RolloutDevice:
    device_id: int
    address: str
    status: str
    attempts: int
    reason: str | None
    changed_at: datetime


_SELECT = """
    SELECT rollout_id, firmware_id, product, version, percent, max_failed_percent, least_results,
           state, reason, made_by, made_at, waiting, sent, done, failed
    FROM firmware_rollout r JOIN firmware f USING (firmware_id)
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE status = 'waiting') AS waiting,
               count(*) FILTER (WHERE status = 'sent') AS sent,
               count(*) FILTER (WHERE status = 'done') AS done,
               count(*) FILTER (WHERE status = 'failed') AS failed
        FROM firmware_rollout_device d WHERE d.rollout_id = r.rollout_id) AS counted"""

# ---------------------------------------------------------------- what people do


def start(
    conn: Connection,
    firmware_id: int,
    *,
    base_url: str,
    percent: Decimal,
    max_failed_percent: Decimal = Decimal(5),
    least_results: int = 10,
    made_by: str,
) -> RolloutRow:
    """Begin to roll an image out; roll-outs of other images for the same hardware stop.

    `base_url` is where nodes find the API, http://host:port.
    Raises UnknownFirmware, BadImage and BadRollout.
    """
    if not base_url.startswith("http://") or len(base_url) > 200 or base_url.endswith("/"):
        raise BadRollout(f"{base_url!r:.60} is no address; give http://host:port")
    _check_percent(percent)
    _check_percent(max_failed_percent)
    if not 1 <= least_results <= 100_000:
        raise BadRollout("least_results lies between 1 and 100000")
    with conn.transaction():
        row = firmware.find(conn, firmware_id)
        firmware.require_complete(row)
        conn.execute(
            "UPDATE firmware_rollout SET state = 'stopped', reason = 'another one took its place' "
            "FROM firmware f WHERE f.firmware_id = firmware_rollout.firmware_id "
            "AND state <> 'stopped' AND (f.product, f.hw_rev) = (%s, %s)",
            [row.product, row.hw_rev],
        )
        made = conn.execute(
            "INSERT INTO firmware_rollout (firmware_id, base_url, percent, max_failed_percent, "
            "least_results, made_by) VALUES (%s, %s, %s, %s, %s, %s) RETURNING rollout_id",
            [firmware_id, base_url, percent, max_failed_percent, least_results, made_by],
        ).fetchone()
    assert made is not None
    return find(conn, made[0])


def set_percent(conn: Connection, rollout_id: int, percent: Decimal) -> RolloutRow:
    """How much of the fleet it may reach; who has the image keeps it.

    Raises UnknownFirmware and BadRollout.
    """
    _check_percent(percent)
    _require_open(conn, rollout_id)
    conn.execute(
        "UPDATE firmware_rollout SET percent = %s WHERE rollout_id = %s", [percent, rollout_id]
    )
    return find(conn, rollout_id)


def halt(conn: Connection, rollout_id: int, reason: str) -> RolloutRow:
    """No further device is told to update. Raises UnknownFirmware and BadRollout."""
    _require_open(conn, rollout_id)
    conn.execute(
        "UPDATE firmware_rollout SET state = 'halted', reason = %s WHERE rollout_id = %s",
        [reason, rollout_id],
    )
    return find(conn, rollout_id)


def resume(conn: Connection, rollout_id: int) -> RolloutRow:
    """Go on; failures so far are forgiven, and those devices are not asked again.

    Raises UnknownFirmware and BadRollout.
    """
    _require_open(conn, rollout_id)
    conn.execute(
        "UPDATE firmware_rollout SET state = 'running', reason = NULL, "
        "judged_from = clock_timestamp() WHERE rollout_id = %s AND state = 'halted'",
        [rollout_id],
    )
    return find(conn, rollout_id)


def find(conn: Connection, rollout_id: int) -> RolloutRow:
    """Raises UnknownFirmware."""
    with conn.cursor(row_factory=class_row(RolloutRow)) as cursor:
        row = cursor.execute(f"{_SELECT} WHERE rollout_id = %s".encode(), [rollout_id]).fetchone()
    if row is None:
        raise UnknownFirmware(f"no roll-out has the id {rollout_id}; see the list")
    return row


def list_all(conn: Connection) -> list[RolloutRow]:
    """The newest first."""
    with conn.cursor(row_factory=class_row(RolloutRow)) as cursor:
        return cursor.execute(f"{_SELECT} ORDER BY rollout_id DESC".encode()).fetchall()


def devices(conn: Connection, rollout_id: int, after_id: int, most: int) -> list[RolloutDevice]:
    """The devices that were chosen, by id, from after one."""
    with conn.cursor(row_factory=class_row(RolloutDevice)) as cursor:
        return cursor.execute(
            "SELECT device_id, address, status, attempts, reason, changed_at "
            "FROM firmware_rollout_device JOIN device USING (device_id) "
            "WHERE rollout_id = %s AND device_id > %s ORDER BY device_id LIMIT %s",
            [rollout_id, after_id, most],
        ).fetchall()


def _check_percent(percent: Decimal) -> None:
    if not percent.is_finite() or not 0 <= percent <= 100:
        raise BadRollout(f"{percent} is no share; give 0 to 100 %")


def _require_open(conn: Connection, rollout_id: int) -> None:
    if find(conn, rollout_id).state == "stopped":
        raise BadRollout(f"roll-out {rollout_id} is over; start another")


# ---------------------------------------------------------------- what goes on by itself

_ENDED = """
    SELECT d.device_id, c.state, c.reason, c.late_answer,
           EXISTS (SELECT FROM command_event e
                   WHERE e.command_id = c.command_id AND e.state = 'received')
    FROM firmware_rollout_device d JOIN command c USING (command_id)
    WHERE rollout_id = %s
      AND (d.status = 'sent' AND c.state IN ('done', 'failed', 'expired', 'superseded', 'cancelled')
           OR d.status = 'failed' AND c.late_answer = 'done')"""
_SETTLE = """
    UPDATE firmware_rollout_device
    SET status = %(status)s, reason = %(reason)s, changed_at = clock_timestamp(),
        next_try_at = clock_timestamp() + %(wait)s * interval '1 second'
    WHERE rollout_id = %(rollout)s AND device_id = %(device)s"""
_CHOOSE = """
    INSERT INTO firmware_rollout_device (rollout_id, device_id)
    SELECT %(rollout)s, device.device_id
    FROM device
    LEFT JOIN device_state s
      ON s.device_id = device.device_id AND s.channel = '' AND s.field = 'model'
    WHERE family = 'homesync' AND home_id IS NOT NULL AND deleted_at IS NULL
      AND coalesce(device.model, s.value #>> '{}') IN (%(product)s, %(product)s || '/' || %(hw)s)
      AND rollout_place(%(sha256)s, address) < %(percent)s
    ON CONFLICT DO NOTHING"""
_NEXT = """
    SELECT device_id FROM firmware_rollout_device
    WHERE rollout_id = %s AND status = 'waiting' AND next_try_at <= clock_timestamp()
    ORDER BY next_try_at, device_id LIMIT %s"""


def advance(conn: Connection) -> None:
    """One step of every roll-out that runs: results, judgement, further devices.

    One transaction each; two at once wait for each other.
    """
    running = conn.execute("SELECT rollout_id FROM firmware_rollout WHERE state <> 'stopped'")
    for (rollout_id,) in running.fetchall():
        with conn.transaction():
            _advance(conn, rollout_id)


def _advance(conn: Connection, rollout_id: int) -> None:
    row = conn.execute(
        "SELECT firmware_id, base_url, percent, max_failed_percent, least_results, state, "
        "judged_from FROM firmware_rollout WHERE rollout_id = %s FOR UPDATE",
        [rollout_id],
    ).fetchone()
    assert row is not None
    firmware_id, base_url, percent, max_failed_percent, least_results, state, judged_from = row
    _settle(conn, rollout_id)
    if state != "running":
        return
    counted = conn.execute(
        "SELECT count(*) FILTER (WHERE status = 'done'), count(*) FILTER (WHERE status = 'failed') "
        "FROM firmware_rollout_device WHERE rollout_id = %s AND changed_at >= %s",
        [rollout_id, judged_from],
    ).fetchone()
    assert counted is not None
    done, failed = counted
    reason = why_halted(done, failed, Limits(max_failed_percent, least_results))
    if reason is not None:
        halt(conn, rollout_id, reason)
        return
    image = firmware.find(conn, firmware_id)
    conn.execute(
        _CHOOSE,
        {
            "rollout": rollout_id,
            "product": image.product,
            "hw": image.hw_rev,
            "sha256": image.sha256,
            "percent": percent,
        },
    )
    _send(conn, rollout_id, image, base_url)


def _settle(conn: Connection, rollout_id: int) -> None:
    """Take what the commands came to."""
    for device_id, state, reason, late_answer, received in conn.execute(
        _ENDED, [rollout_id]
    ).fetchall():
        status, silent = status_after(CommandState(state), received, late_answer)
        conn.execute(
            _SETTLE,
            {
                "status": status,
                "reason": "it began and was not heard of again" if silent else reason,
                "wait": _AGAIN_AFTER_S,
                "rollout": rollout_id,
                "device": device_id,
            },
        )


def _send(conn: Connection, rollout_id: int, image: firmware.FirmwareRow, base_url: str) -> None:
    """Give the command to devices that wait, as long as few are under way."""
    under_way = conn.execute(
        "SELECT count(*) FROM firmware_rollout_device WHERE rollout_id = %s AND status = 'sent'",
        [rollout_id],
    ).fetchone()
    assert under_way is not None
    room = _AT_ONCE - under_way[0]
    chosen = conn.execute(_NEXT, [rollout_id, room]).fetchall() if room > 0 else []
    if not chosen:
        return
    parameters = msgspec.to_builtins(
        OtaParameters(
            manifest=firmware.envelope_of(conn, image.firmware_id),
            url=f"{base_url}/firmware/{image.sha256}",
            roots=firmware.roots(conn)[1:],
        )
    )
    ask = Ask(Kind.OTA, parameters=parameters, expires_in_s=_EXPIRES_IN_S, confirm=True)
    for (device_id,) in chosen:
        _give(conn, rollout_id, device_id, ask)


def _give(conn: Connection, rollout_id: int, device_id: int, ask: Ask) -> None:
    """An offline device is asked again later, and again; that is no failure."""
    command_id, status, reason = None, "waiting", None
    try:
        command_id = accept(conn, device_id, ask, f"rule:rollout-{rollout_id}").command_id
        status = "sent"
    except (DeviceOffline, TooSoon) as error:
        reason = str(error)
    except CommandError as error:
        status, reason = "failed", str(error)
    conn.execute(
        "UPDATE firmware_rollout_device SET status = %s, command_id = coalesce(%s, command_id), "
        "reason = %s, attempts = attempts + %s::integer, changed_at = clock_timestamp(), "
        "next_try_at = clock_timestamp() + %s * interval '1 second' "
        "WHERE rollout_id = %s AND device_id = %s",
        [status, command_id, reason, int(status == "sent"), _AGAIN_AFTER_S, rollout_id, device_id],
    )
