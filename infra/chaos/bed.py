"""The stack in which losses are planted: the product, with replaceable settings and processes."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg

from infra.chaos.plants import MODULES, PLANT_FILE, Plant
from infra.local import Stack, StackSettings
from infra.local.parts import Progress
from infra.local.programs import MOSQUITTO, OWN, SERVERS, Program
from infra.local.settings import PROJECT_ROOT

HEALTHY_S = 180.0


class SelfTestError(Exception):
    """The self-test itself does not work; the text says where."""


class Bed:
    """The stack in which plants are set, one at a time."""

    def __init__(self, folder: Path) -> None:
        settings = StackSettings.free(folder / "stack")
        self.stack = Stack(settings, _programs())
        self.records = folder / "records"
        self._state = settings.state_dir
        self._planted: Plant | None = None

    def up(self, told: Progress) -> None:
        for folder in (self._state, self._state / MOSQUITTO.name):
            folder.mkdir(mode=0o700)
        self._write_broker({})
        self.stack.up(told)
        self.wait_healthy("uplink")

    def set(self, plant: Plant | None) -> None:
        """Let the stack run with this plant, or as the product is."""
        before, self._planted = self._planted, plant
        if before == plant:
            return
        (self._state / PLANT_FILE).write_text(plant.name if plant else "")
        both = [one for one in (before, plant) if one]
        if any(one.database for one in both):
            self._set_database(before, plant)
        if any(one.broker for one in both):
            self._write_broker(plant.broker if plant else {})
            self.stack.restart("mosquitto")
        for process in {one.process for one in both if one.process}:
            self.stack.restart(process)
        self.wait_healthy("uplink")

    def _write_broker(self, settings: Mapping[str, str | None]) -> None:
        lines = (PROJECT_ROOT / "infra" / "mosquitto" / "mosquitto.conf").read_text().splitlines()
        kept = [line for line in lines if line.partition(" ")[0] not in settings]
        added = [f"{name} {value}" for name, value in settings.items() if value is not None]
        (self._state / MOSQUITTO.name / "mosquitto.conf").write_text("\n".join([*kept, *added, ""]))

    def _set_database(self, before: Plant | None, plant: Plant | None) -> None:
        with psycopg.connect(self.stack.database_url, autocommit=True) as conn:
            for name in before.database if before else ():
                conn.execute(f"ALTER SYSTEM RESET {name}".encode())
            for name, value in (plant.database if plant else {}).items():
                conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            conn.execute("CHECKPOINT")  # none of its own, which would save what shall be lost
            conn.execute("SELECT pg_reload_conf()")

    def wait_healthy(self, name: str) -> None:
        """Wait until a process of ours says that it works."""
        url = f"http://127.0.0.1:{getattr(self.stack.settings, f'{name}_metrics_port')}/health"
        until = time.monotonic() + HEALTHY_S
        while True:
            try:
                with urlopen(url, timeout=5):
                    return
            except (URLError, OSError):
                if time.monotonic() > until:
                    raise SelfTestError(f"{name} is not healthy after {HEALTHY_S:.0f} s") from None
            time.sleep(0.1)


def _programs() -> list[Program]:
    """The product's programs, in forms that can be started with a plant."""
    return [
        *(one for one in SERVERS if one is not MOSQUITTO),
        replace(MOSQUITTO, command=(MOSQUITTO.command[0], "-c", "/srv/mosquitto.conf")),
        *(
            replace(one, command=(one.command[0], "-m", "infra.chaos.plants", one.name))
            for one in OWN
            if one.name in MODULES
        ),
        *(one for one in OWN if one.name == "rollup"),
    ]
