"""`meterstream simulate`: meters, plugs and nodes of every family, in real time."""

import json
import logging
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from infra.cli.usage import instant_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def register(app: typer.Typer) -> None:
    app.command("simulate")(simulate)


def main() -> None:
    """Entry point of the supervised program."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    typer.run(simulate)


def simulate(
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Of their names, loads and clocks.")] = 1,
    start: Annotated[
        str | None,
        typer.Option(
            "--start", metavar="T", help="When they begin, RFC 3339; what is past goes out at once."
        ),
    ] = None,
    print_: Annotated[
        int | None,
        typer.Option("--print", min=1, help="Only print the first so many messages, as JSON."),
    ] = None,
) -> None:
    """Publish what simulated, claimed devices say, until SIGTERM or Ctrl-C."""
    from infra.simulator.fleet import fleet, messages
    from infra.simulator.shapes import find_shapes

    start_us = time.time_ns() // 1000
    if start is not None:
        at = instant_of(start, ZoneInfo("UTC"), "--start")
        start_us = (at - _EPOCH) // timedelta(microseconds=1)
    shapes, where_from = find_shapes()
    print(where_from, file=sys.stderr, flush=True)
    every = fleet(seed, devices, shapes)
    if print_ is not None:
        for message in islice(messages(every, start_us), print_):
            line = {
                "due_us": message.due_us,
                "topic": message.topic,
                "payload": message.payload.decode(),
                "qos": message.qos,
                "retain": message.retain,
            }
            print(json.dumps(line))
        return
    from infra.cli.endings import told
    from infra.local.broker import player_account
    from infra.local.door import GIVE_ACCOUNT, knock
    from infra.local.settings import StackSettings
    from infra.simulator.publisher import Publisher, claim_fleet
    from schemas.connections import DatabaseConnection, MqttConnection

    with told():
        mqtt, account = MqttConnection(), player_account(StackSettings())
        knock(mqtt, account, GIVE_ACCOUNT)
        claim_fleet(DatabaseConnection().url, every)
        publisher = Publisher(mqtt, account, every)
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, lambda *_frame: publisher.stop())
        print(f"{devices} devices, seed {seed}", file=sys.stderr, flush=True)
        count = publisher.run(messages(every, start_us))
    print(f"stopped after {count} messages", file=sys.stderr, flush=True)
