"""`python -m infra.switches`: claimed relays of every family on the stack's broker, until SIGTERM.

What they ran is in `switches/` of the state folder.
"""

import os
import signal
import threading
import time
from pathlib import Path

import psycopg

from infra.switches.families import devices_of
from infra.switches.fleet import Fleet
from infra.switches.journal import Journal
from ingest.mqtt_account import MqttAccount
from schemas.connections import DatabaseConnection, MqttConnection
from sinks.registry import claim_device

DEVICES = 9
HOME = "switches"
ZONE = "Asia/Bangkok"


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    devices = devices_of(DEVICES, HOME)
    with psycopg.connect(DatabaseConnection().url) as conn, conn.transaction():
        for device in devices:
            claim_device(conn, device.address, None, HOME, ZONE)
    folder = Path(os.environ["METERSTREAM_STATE_DIR"]) / "switches"
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / f"{time.time_ns()}.jsonl")
    fleet = Fleet(MqttConnection(), devices, journal, account=MqttAccount())
    fleet.start()
    stop.wait()
    fleet.stop()
    journal.close()


if __name__ == "__main__":
    main()
