"""`meterstream replay`: a file of measurements through MQTT, as a node that it ends now."""

import json
import math
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.import_ import (
    FINAL_TIMEOUT_S,
    Device,
    File,
    Format,
    Json,
    Timeout,
    print_warnings,
    shown_bar,
    told_at,
    wait_until_final,
)
from schemas.units import DAY_US, MINUTE_US, SECOND_US, wh_to_uwh

if TYPE_CHECKING:
    import psycopg

    from infra.household import Layout, Minute
    from ingest.mqtt_account import MqttAccount
    from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection

ZONE = "Asia/Bangkok"  # of a device registered here; the file's own clock is shifted away
OLDEST_DAYS = 89  # a node's clock is believed for 90 days

Speed = Annotated[
    str,
    typer.Option("--speed", help="max: as fast as acknowledgements come; N: N times real time."),
]
Days = Annotated[float | None, typer.Option("--days", help="Only the first so many days.", min=0)]


def register(app: typer.Typer) -> None:
    app.command("replay")(replay)


@dataclass(frozen=True)
class Replayed:
    """What a replay came to. `kwh` is the ledger's, `file_kwh` the sum of the file's minutes."""

    device: str
    address: str
    start: str
    end: str
    rows: int
    missing: int
    sent: int
    stored: int
    seconds: float
    kwh: float
    file_kwh: float
    warnings: list[str]


def replay(
    file: File,
    format: Format,
    device: Device,
    speed: Speed = "max",
    days: Days = None,
    timeout_s: Timeout = FINAL_TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Send a file of measurements through MQTT as a homesync node, shifted so that it ends now."""
    from infra.cli.endings import told
    from infra.household import layout_named
    from infra.local.broker import player_account
    from infra.local.settings import StackSettings
    from schemas.connections import DatabaseConnection, KafkaConnection, MqttConnection

    factor = _factor(speed)
    with told():
        done = replay_file(
            file,
            layout_named(format),
            device,
            MqttConnection(),
            player_account(StackSettings()),
            DatabaseConnection(),
            KafkaConnection(),
            factor=factor,
            days=days,
            timeout_s=timeout_s,
        )
    if as_json:
        print(json.dumps(asdict(done)))
        return
    print_warnings(done.warnings)
    print(
        f"{done.device} ({done.address}), {done.start} to {done.end}: {done.sent} sent, "
        f"{done.stored} stored in {done.seconds:.1f} s, {done.kwh:.3f} kWh"
    )


def replay_file(
    path: Path,
    layout: "Layout",
    name: str,
    mqtt: "MqttConnection",
    account: "MqttAccount",
    database: "DatabaseConnection",
    kafka: "KafkaConnection",
    *,
    factor: float = math.inf,
    days: float | None = None,
    timeout_s: float = FINAL_TIMEOUT_S,
) -> Replayed:
    """Replay a file `factor` times as fast as it was, and wait until its usage is final."""
    import psycopg

    from infra.household import FileRefused, FileReport, read_file
    from infra.household.mqtt_node import send_all
    from infra.household.node import claim_node, minute_uwh, stored_between
    from infra.household.register import meter_body, meter_readings
    from infra.local.door import GIVE_ACCOUNT, knock
    from sinks.registry import check_zone

    begun = time.monotonic()
    knock(mqtt, account, GIVE_ACCOUNT)
    zone = check_zone(ZONE)
    report = FileReport()
    minutes: list[Minute] = []
    for minute in read_file(path, layout, check_zone("UTC"), report):
        if minutes and days is not None and minute.start_us - minutes[0].start_us >= days * DAY_US:
            break
        minutes.append(minute)
    measured = [one.power_w for one in minutes if one.power_w is not None]
    length_us = minutes[-1].start_us + MINUTE_US - minutes[0].start_us
    if not measured:
        raise FileRefused(f"{path}: no row has a value; is {layout.name} the right format?")
    if length_us > OLDEST_DAYS * DAY_US:
        raise FileRefused(
            f"{path} has {length_us / DAY_US:.0f} days, and a node's clock is believed for 90; "
            f"replay a part with --days {OLDEST_DAYS}, or import it with its own times"
        )
    lasts_us = 0 if math.isinf(factor) else int(length_us / factor)
    end_us = time.time_ns() // 1000 + lasts_us
    end_us -= end_us % MINUTE_US
    shift_us = end_us - minutes[-1].start_us - MINUTE_US
    start_us = minutes[0].start_us + shift_us
    with psycopg.connect(database.url) as conn:
        node = claim_node(conn, name, zone.key)
        conn.commit()
        register_uwh = _register_before(conn, node.address, name, start_us)
    readings = list(meter_readings(minutes, register_uwh))

    def due_s(i: int) -> float:
        """Readings keep their distances, `factor` times closer, and the last is due at its time."""
        ahead_us = (end_us - readings[i].at_us - shift_us) / factor
        return time.monotonic() + (end_us - ahead_us) / SECOND_US - time.time()

    with shown_bar("replaying", len(readings)) as advance:
        send_all(
            mqtt,
            account,
            node,
            uuid.uuid4().hex[:16],
            [meter_body(reading, shift_us) for reading in readings],
            None if math.isinf(factor) else due_s,
            advance,
        )
    wait_until_final(node.address, database, kafka, timeout_s)
    with psycopg.connect(database.url) as conn:
        stored = stored_between(conn, node.address, start_us - 1, end_us)
    return Replayed(
        device=name,
        address=node.address,
        start=told_at(start_us, zone),
        end=told_at(end_us, zone),
        rows=len(minutes),
        missing=len(minutes) - len(measured),
        sent=len(readings),
        stored=stored.readings,
        seconds=round(time.monotonic() - begun, 3),
        kwh=stored.kwh,
        file_kwh=sum(map(minute_uwh, measured)) / 1e9,
        warnings=report.warnings,
    )


def _register_before(
    conn: "psycopg.Connection[Any]", address: str, name: str, start_us: int
) -> int:
    """Where the register of an earlier replay stands, in µWh; 0 for a new device.

    Raises NameTaken if the device has readings later than `start_us`: two registers would mix.
    """
    from sinks.registry import NameTaken

    row = conn.execute(
        """
        SELECT import_total_wh, extract(epoch FROM measured_at)
        FROM readings JOIN channel USING (channel_id) JOIN device USING (device_id)
        WHERE address = %s AND channel.name = 'total' AND import_total_wh IS NOT NULL
        ORDER BY measured_at DESC LIMIT 1""",
        [address],
    ).fetchone()
    if row is None:
        return 0
    if row[1] * SECOND_US > start_us:
        raise NameTaken(
            f"{name!r} has readings from the time of this replay already; their registers would "
            "mix: give another --device"
        )
    return wh_to_uwh(row[0])


def _factor(speed: str) -> float:
    if speed == "max":
        return math.inf
    try:
        factor = float(speed)
    except ValueError:
        factor = 0
    if not 0 < factor < math.inf:
        raise typer.BadParameter(f"{speed!r} is not max and no number above 0")
    return factor
