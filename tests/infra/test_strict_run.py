"""`METERSTREAM_MQTT_ANONYMOUS=false`: nobody gets in without an account, and everything works."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from infra.local import Stack, StackSettings
from infra.local.broker import SERVICES, password_file
from infra.switches.__main__ import DEVICES, HOME
from ingest.decoders.topic_table import SUBSCRIPTIONS
from schemas.mqtt_rights import every_device
from tests.infra.broker_clients import NOT_AUTHORIZED, connected, wait_for

PROJECT_ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 300.0
_COMMAND = "import infra.cli as cli; cli.main()"


def test_who_plays_devices_may_say_what_the_uplink_hears_and_not_acknowledge():
    publish, subscribe = every_device()
    assert "homesync/+/nodes/+/telemetry/#" in publish
    assert "homesync/+/nodes/+/ack" in subscribe
    assert not [one for one in publish if one.endswith("/ack") or "command" in one.split("/")]
    heard = {one.split("/")[0] for one in SUBSCRIPTIONS} - {"$SYS"}
    told = {one.split("/")[0] for one in publish}
    assert heard - told == {"sensor", "alerts"}, "of the Thai monitor, without a node's name"


def environment_of(settings: StackSettings) -> dict[str, str]:
    """What a person would set to have this stack."""
    chosen = settings.model_dump(mode="json")
    return {
        **os.environ,
        **{StackSettings.variable(name): str(value) for name, value in chosen.items()},
        **Stack(settings).environment(),
        "METERSTREAM_MQTT_ANONYMOUS": "false",
    }


@contextmanager
def meterstream_run(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _COMMAND, "run"],
        cwd=PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LONGEST_S)


def wait_line(process: "subprocess.Popen[str]", pattern: str) -> str:
    """The first line that has the pattern; all that came before is in the failure."""
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 1.0)[0]:
            line = process.stdout.readline()
            assert line, f"it has ended:\n{''.join(lines)}"
            lines.append(line)
            if re.search(pattern, line):
                return line
    raise AssertionError(f"no line with {pattern}:\n{''.join(lines[-30:])}")


def meterstream(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
    )


def refit_file(folder: Path) -> Path:
    """Twenty minutes of a house, as REFIT has them."""
    begin = datetime(2014, 3, 1, tzinfo=UTC)
    lines = ["Time,Aggregate,Fridge"]
    for minute in range(20):
        lines.append(f"{begin + timedelta(minutes=minute):%Y-%m-%d %H:%M:%S},{300 + minute},0")
    path = folder / "house.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_run_and_replay_have_accounts_and_load_and_fuzz_say_that_they_have_none(tmp_path: Path):
    settings = StackSettings.free(tmp_path / "state").model_copy(update={"mqtt_anonymous": False})
    environment = environment_of(settings)
    stack = Stack(settings)
    try:
        with meterstream_run(environment) as process:
            wait_line(process, r"readings/s [1-9]")
            with psycopg.connect(stack.database_url, autocommit=True) as conn:

                def relays() -> int:
                    ((count,),) = conn.execute(
                        "SELECT count(DISTINCT device_id) FROM device_state "
                        "JOIN device USING (device_id) WHERE field = 'relay' AND home_id = %s",
                        [HOME],
                    ).fetchall()
                    return int(count)

                wait_for(lambda: relays() == DEVICES, "the relays speak too", LONGEST_S)
            with connected(stack, tls=False) as nobody:
                assert not nobody.accepted
            user = SERVICES["simulator"]
            secret = password_file(settings, user).read_text()
            with connected(stack, user=user, password=secret, tls=False) as player:
                assert player.publish("homesync/h/nodes/n/ack") == NOT_AUTHORIZED
                assert player.subscribe("#", "$SYS/#") == [NOT_AUTHORIZED] * 2

            file = refit_file(tmp_path)
            options = ("--format", "refit", "--device", "Strict house")
            done = meterstream(environment, "replay", str(file), *options, "--json")
            assert done.returncode == 0, done.stderr
            replayed = json.loads(done.stdout)
            assert replayed["stored"] == replayed["sent"] > 0
            unaware = environment | {"METERSTREAM_MQTT_ANONYMOUS": "true"}
            refused = meterstream(unaware, "replay", str(file), *options)
            assert refused.returncode == 1
            assert "METERSTREAM_MQTT_ANONYMOUS=false" in refused.stderr
            for command in (
                ("load", "--devices", "2", "--rate", "2", "--seconds", "2"),
                ("fuzz", "--payloads", "10"),
            ):
                refused = meterstream(environment, *command)
                assert refused.returncode == 1
                assert "without METERSTREAM_MQTT_ANONYMOUS=false" in refused.stderr
                assert "Traceback" not in refused.stderr
    finally:
        stack.wipe()
