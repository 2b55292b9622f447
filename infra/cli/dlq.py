"""`meterstream dlq`: the records that were refused, and putting them back once that is mended."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.usage import LEAST_WIDTH, instant_of
from schemas.reading import SOURCES, Source

if TYPE_CHECKING:
    import psycopg

    from infra.household.raw_log import RawLog

SHARD = "replay"
BATCH = 1_000
PREVIEW_BYTES = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Reason = Annotated[str | None, typer.Option("--reason", help="Only those of this reason.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="T", help="Received at T or later; RFC 3339.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@dataclass(frozen=True)
class Refused:
    """A row of `refused`: `part` and `log_offset` say where in the raw log its bytes came."""

    part: int
    log_offset: int
    address: str
    mqtt_topic: str
    source: int
    received_at: datetime
    reason: str
    error: str
    payload: bytes
    replayed_at: datetime | None

    @property
    def place(self) -> str:
        return f"{self.part}:{self.log_offset}"

    @property
    def received_us(self) -> int:
        return (self.received_at - _EPOCH) // timedelta(microseconds=1)

    def headers(self) -> dict[str, str]:
        """The headers that the record had; its shard is not kept."""
        return {
            "mqtt_topic": self.mqtt_topic,
            "received_at": str(self.received_us),
            "source": Source(self.source).name.lower(),
        }

    def document(self) -> dict[str, object]:
        """As JSON shows it; bytes that are not UTF-8 are shown as U+FFFD."""
        return {
            "place": self.place,
            "address": self.address,
            "reason": self.reason,
            "error": self.error,
            "received_at": self.received_at.isoformat(),
            "replayed_at": None if self.replayed_at is None else self.replayed_at.isoformat(),
            "headers": self.headers(),
            "bytes": len(self.payload),
            "payload": self.payload.decode("utf-8", "replace"),
        }


@dataclass(frozen=True)
class Chosen:
    """Which refused records are meant: those at `places`, or all of a reason and time."""

    places: Sequence[tuple[int, int]] = ()
    reason: str | None = None
    since: datetime | None = None
    replayed_too: bool = True


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="dlq", help="Refused records.", no_args_is_help=True)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group)


def list_(
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the newest refused records."""
    from infra.cli.endings import told

    chosen = Chosen(reason=reason, since=_since(since))
    with told(), _database() as conn:
        found = refused(conn, chosen, limit)
    if as_json:
        print(json.dumps([one.document() for one in found]))
    else:
        _print_table(found)


def show(
    place: Annotated[str, typer.Argument(metavar="PART:OFFSET", help="As `dlq list` shows it.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write only the original bytes to stdout.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one refused record: why, its headers, its original bytes."""
    from infra.cli.endings import told

    where = _place(place)
    with told(), _database() as conn:
        found = refused(conn, Chosen(places=[where]), 1)
    if not found:
        _fail(f"no refused record came from {place}; see `meterstream dlq list`")
    one = found[0]
    if raw:
        sys.stdout.buffer.write(one.payload)
        sys.stdout.buffer.flush()
    elif as_json:
        print(json.dumps(one.document()))
    else:
        print(f"{one.place}  {one.address}")
        print(f"{one.reason}: {one.error}")
        for name, value in one.headers().items():
            print(f"{name}: {value}")
        print(f"received {one.received_at.isoformat()}")
        print(f"replayed {one.replayed_at.isoformat() if one.replayed_at else 'never'}")
        print(f"{len(one.payload)} bytes:")
        print(one.payload.decode("utf-8", "backslashreplace"))


def replay(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PART:OFFSET]…", help="These; else all.")
    ] = None,
    reason: Reason = None,
    since: Since = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many it would be.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Those too that were replayed before.")
    ] = False,
    any_age: Annotated[
        bool,
        typer.Option("--any-age", help="As imports: a clock far in the past is believed."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put the original bytes back onto the raw log, as they were received then.

    What is refused once more is a new refused record.
    """
    from infra.cli.endings import told
    from infra.household.raw_log import RawLog
    from schemas.connections import KafkaConnection

    chosen = Chosen([_place(one) for one in places or ()], reason, _since(since), again)
    with told(), _database() as conn:
        if dry_run:
            count = count_refused(conn, chosen)
        else:
            log = RawLog(KafkaConnection().bootstrap)
            count = replay_refused(conn, log, chosen, any_age=any_age)
    if as_json:
        print(json.dumps({"replayed": 0 if dry_run else count, "chosen": count}))
    elif dry_run:
        print(f"{count} refused records would be replayed")
    else:
        print(f"{count} refused records replayed")


def refused(conn: "psycopg.Connection[Any]", chosen: Chosen, limit: int) -> list[Refused]:
    """The newest first."""
    from psycopg.rows import class_row

    with conn.cursor(row_factory=class_row(Refused)) as cursor:
        query = f"SELECT * FROM refused WHERE {_CHOSEN} ORDER BY received_at DESC LIMIT %(limit)s"
        return cursor.execute(query.encode(), _parameters(chosen) | {"limit": limit}).fetchall()


def count_refused(conn: "psycopg.Connection[Any]", chosen: Chosen) -> int:
    query = f"SELECT count(*) FROM refused WHERE {_CHOSEN}"
    row = conn.execute(query.encode(), _parameters(chosen)).fetchone()
    assert row is not None
    return int(row[0])


def replay_refused(
    conn: "psycopg.Connection[Any]", log: "RawLog", chosen: Chosen, *, any_age: bool = False
) -> int:
    """Write the chosen records to the raw log again and note when. Returns how many.

    Each batch is noted after Kafka has it: a crash between the two replays it twice, which the
    key of the readings forgives.
    """

    query = f"SELECT part, log_offset FROM refused WHERE {_CHOSEN} ORDER BY part, log_offset"
    # Chosen once: what is refused again meanwhile is not taken again.
    places = conn.execute(query.encode(), _parameters(chosen)).fetchall()
    conn.commit()
    done = 0
    for i in range(0, len(places), BATCH):
        batch = Chosen(places[i : i + BATCH], replayed_too=chosen.replayed_too)
        done += _replay_batch(conn, log, batch, any_age)
    return done


def _replay_batch(
    conn: "psycopg.Connection[Any]", log: "RawLog", chosen: Chosen, any_age: bool
) -> int:
    from psycopg.rows import class_row

    from infra.household.raw_log import raw_headers

    query = f"SELECT * FROM refused WHERE {_CHOSEN} ORDER BY part, log_offset FOR UPDATE"
    with conn.transaction(), conn.cursor(row_factory=class_row(Refused)) as cursor:
        batch = cursor.execute(query.encode(), _parameters(chosen)).fetchall()
        for one in batch:
            source = Source.IMPORT if any_age else Source(one.source)
            headers = raw_headers(one.mqtt_topic, one.received_us, _NAMES[source], SHARD)
            log.write(one.address.encode(), one.payload, headers)
        log.flush()
        cursor.executemany(
            "UPDATE refused SET replayed_at = now() WHERE part = %s AND log_offset = %s",
            [(one.part, one.log_offset) for one in batch],
        )
    return len(batch)


_NAMES = {source: name for name, source in SOURCES.items()}
_CHOSEN = """
    (cardinality(%(parts)s::int[]) = 0
     OR (part, log_offset) IN (SELECT * FROM unnest(%(parts)s::int[], %(offsets)s::bigint[])))
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
    AND (%(replayed_too)s OR replayed_at IS NULL)"""


def _parameters(chosen: Chosen) -> dict[str, object]:
    return {
        "parts": [part for part, _ in chosen.places],
        "offsets": [offset for _, offset in chosen.places],
        "reason": chosen.reason,
        "since": chosen.since,
        "replayed_too": chosen.replayed_too,
    }


def _database() -> "psycopg.Connection[Any]":
    import psycopg

    from schemas.connections import DatabaseConnection

    return psycopg.connect(DatabaseConnection().url)


def _place(text: str) -> tuple[int, int]:
    part, _, offset = text.partition(":")
    if not (part.isdecimal() and offset.isdecimal()):
        raise typer.BadParameter(f"{text!r:.40} is no place; give PARTITION:OFFSET, like 3:1042")
    return int(part), int(offset)


def _since(text: str | None) -> datetime | None:
    return None if text is None else instant_of(text, ZoneInfo("UTC"), "--since")


def _fail(text: str) -> None:
    print(f"meterstream: {text}", file=sys.stderr)
    raise typer.Exit(1)


def _print_table(found: Sequence[Refused]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("place", "received", "address", "reason", "error", "payload", "", box=None)
    for one in found:
        table.add_row(
            one.place,
            one.received_at.astimezone(UTC).isoformat(timespec="seconds"),
            one.address,
            one.reason,
            one.error[:100],
            repr(one.payload[:PREVIEW_BYTES])[2:-1],
            "replayed" if one.replayed_at else "",
        )
    width = max(Console().width, LEAST_WIDTH)
    Console(width=width, markup=False).print(table if found else "nothing was refused")
