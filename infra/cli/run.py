"""`meterstream run`: everything, with simulated devices, and a live table of what flows."""

import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated, Any
from urllib.request import urlopen

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from infra.cli.stack import settings_from_environment, shown_progress
from infra.local.programs import ALL, SIMULATOR, SWITCHES
from infra.local.stack import Stack

PAUSE_S = 1.0
PLAIN_EVERY_S = 5.0


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", envvar="SECONDS", help="Stop by itself after so long."),
    ] = None,
) -> None:
    """Start everything with 50 simulated devices and show what flows; Ctrl-C stops it."""
    stack = Stack(settings_from_environment(), (*ALL, SIMULATOR, SWITCHES))
    stopping = _Stop()
    console = Console()
    try:
        with shown_progress() as progress:
            stack.up(progress)
        where = (
            f"API http://127.0.0.1:{stack.settings.api_port}/docs (token: {stack.token_file})  "
            f"SQL {stack.database_url}  MQTT 127.0.0.1:{stack.mqtt_port}"
        )
        console.print(where, soft_wrap=True)
        _watch(stack, stopping, seconds, console, where)
    finally:
        with shown_progress() as progress:
            stack.down(progress)
    console.print("stopped")


class _Stop:
    """Ctrl-C and SIGTERM ask once; what runs is then stopped cleanly."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True


@dataclass(frozen=True)
class Flow:
    """What flows at one moment. Rates are per second since the moment before."""

    at: float
    messages: int
    readings: int
    stream_lag_s: float | None
    today_kwh: float
    devices: int
    newest: list[tuple[str, str, datetime, float | None, float | None]]


def _watch(
    stack: Stack, stopping: _Stop, seconds: float | None, console: Console, where: str
) -> None:
    import psycopg

    end = None if seconds is None else time.monotonic() + seconds
    before: Flow | None = None
    told = 0.0
    with (
        psycopg.connect(stack.database_url, autocommit=True) as conn,
        Live(console=console, auto_refresh=False, screen=False) as live,
    ):
        while not stopping.asked and (end is None or time.monotonic() < end):
            now = _look(conn, stack.settings.uplink_metrics_port)
            if console.is_terminal:
                live.update(Group(where, _table(before, now)), refresh=True)
            elif time.monotonic() - told >= PLAIN_EVERY_S:
                told = time.monotonic()
                print(_line(before, now), flush=True)
                before = now
            if console.is_terminal:
                before = now
            time.sleep(PAUSE_S)


_FLOW = """
SELECT (SELECT coalesce(sum(n_tup_ins), 0) FROM pg_stat_user_tables
        WHERE relid IN (SELECT format('%I.%I', chunk_schema, chunk_name)::regclass
                        FROM timescaledb_information.chunks WHERE hypertable_name = 'readings')),
       extract(epoch FROM now() - min(stream_time))
FROM stream_progress
"""
_TODAY = """
SELECT coalesce(sum(u.energy_uwh), 0) / 1e9, (SELECT count(*) FROM device)
FROM usage_1d u JOIN channel c USING (channel_id) JOIN device d USING (device_id)
WHERE u.day = (now() AT TIME ZONE d.zone)::date
  AND (c.name = 'total' OR NOT EXISTS (
      SELECT FROM channel o WHERE o.device_id = c.device_id AND o.name = 'total'))
"""
_NEWEST = """
SELECT coalesce(d.name, d.address), c.name, r.measured_at, r.power_w, r.import_total_wh
FROM channel_state s JOIN channel c USING (channel_id) JOIN device d USING (device_id)
CROSS JOIN LATERAL (SELECT measured_at, power_w, import_total_wh FROM readings r
                    WHERE r.channel_id = s.channel_id
                      AND r.measured_at > now() - interval '10 minutes'
                    ORDER BY measured_at DESC LIMIT 1) r
WHERE r.power_w IS NOT NULL ORDER BY r.measured_at DESC LIMIT 10
"""


def _received(port: int) -> int:
    """Messages the connector has read, from its metrics; 0 while it does not answer."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("meterstream_uplink_received_total "):
                    return int(float(line.rpartition(" ")[2]))
    except OSError:
        return 0
    return 0


def _look(conn: Any, uplink_port: int) -> Flow:
    readings, lag_s = conn.execute(_FLOW).fetchone()
    kwh, devices = conn.execute(_TODAY).fetchone()
    newest = conn.execute(_NEWEST).fetchall()
    lag = None if lag_s is None else float(lag_s)
    return Flow(
        time.monotonic(), _received(uplink_port), int(readings), lag, float(kwh), devices, newest
    )


def _rates(before: Flow | None, now: Flow) -> tuple[str, str]:
    if before is None:
        return "…", "…"
    passed = now.at - before.at
    return (
        f"{(now.messages - before.messages) / passed:,.0f}",
        f"{(now.readings - before.readings) / passed:,.0f}",
    )


def _line(before: Flow | None, now: Flow) -> str:
    messages, readings = _rates(before, now)
    lag = "…" if now.stream_lag_s is None else f"{now.stream_lag_s:.1f} s"
    return (
        f"{datetime.now(UTC):%H:%M:%S}Z  messages/s {messages}  readings/s {readings}  "
        f"stream lag {lag}  devices {now.devices}  today {now.today_kwh:.3f} kWh"
    )


def _table(before: Flow | None, now: Flow) -> Table:
    table = Table("device", "channel", "measured", "power W", "register kWh", box=None)
    table.title = _line(before, now)
    for device, channel, at, power_w, import_wh in now.newest:
        table.add_row(
            device,
            channel,
            f"{at:%H:%M:%S}",
            "" if power_w is None else f"{power_w:,.1f}",
            "" if import_wh is None else f"{import_wh / 1000:,.3f}",
        )
    return table
