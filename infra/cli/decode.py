"""`meterstream decode`: what one message says, a JSON object a line. It asks no server."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ingest.decoders.clock import parse_rfc3339
from ingest.decoders.topic_table import decode
from schemas.decoded import Decoded, Undecodable
from schemas.reading import VALUE_NAMES

UNDECODABLE_EXIT = 65  # EX_DATAERR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def register(app: typer.Typer) -> None:
    app.command("decode")(decode_message)


def decode_message(
    topic: Annotated[str, typer.Argument(help="The MQTT topic on which the message came.")],
    received_at: Annotated[
        str | None,
        typer.Option(
            "--received-at",
            metavar="T",
            help="When it came, RFC 3339 with offset; now if left out.",
        ),
    ] = None,
) -> None:
    """Decode the payload on standard input; one JSON object a line."""
    received_us = _received_us(received_at)
    payload = sys.stdin.buffer.read()
    try:
        decoded = decode(topic, payload, received_us)
    except Undecodable as error:
        typer.echo(f"{error.reason}: {error}", err=True)
        raise typer.Exit(UNDECODABLE_EXIT) from error
    for line in lines_of(decoded):
        typer.echo(json.dumps(line, ensure_ascii=False))


def lines_of(decoded: Decoded) -> Iterator[dict[str, object]]:
    """The readings, states and events of a message as they are printed."""
    for reading in decoded.readings:
        line: dict[str, object] = {
            "kind": "reading",
            "address": decoded.address,
            "channel": reading.channel,
            "measured_at": _rfc3339(reading.measured_us),
            "clock": reading.clock.name.lower(),
        }
        if reading.seq is not None:
            line["seq"] = reading.seq
        values = {name: getattr(reading.values, name) for name in VALUE_NAMES}
        yield line | {name: value for name, value in values.items() if value is not None}
    for state in decoded.states:
        line = {"kind": "state", "address": decoded.address}
        if state.channel is not None:
            line["channel"] = state.channel
        yield line | {"measured_at": _rfc3339(state.measured_us)} | state.fields
    for event in decoded.events:
        line = {"kind": "event", "address": decoded.address, "name": event.name}
        if event.channel is not None:
            line["channel"] = event.channel
        attributes = {"attributes": event.attributes} if event.attributes else {}
        yield line | {"measured_at": _rfc3339(event.measured_us)} | attributes


def _received_us(text: str | None) -> int:
    if text is None:
        return time.time_ns() // 1_000
    try:
        received_us = parse_rfc3339(text)
    except Undecodable:
        received_us = None
    if received_us is None:
        raise typer.BadParameter(
            f"{text!r:.60} is no time; give RFC 3339 with an offset, 2026-02-06T14:30:00Z",
            param_hint="--received-at",
        )
    return received_us


def _rfc3339(instant_us: int) -> str:
    instant = _EPOCH + timedelta(microseconds=instant_us)
    return instant.isoformat().replace("+00:00", "Z")
