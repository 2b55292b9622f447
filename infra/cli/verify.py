"""`meterstream verify`: the accounting over everything that is stored."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.units import MINUTE_US, QUARTER_US

if TYPE_CHECKING:
    import psycopg

    from sinks.stored_checks import ChannelFacts, Check, PointRow
    from sinks.usage_windows import GapRecord, MinuteRecord

CHANNELS_AT_ONCE = 200
CATCH_UP_S = 60.0
ANOTHER_LOOK_S = 1.0
LOOKS = 5  # at channels whose late readings wait for the next tick

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only from this instant on (RFC 3339), from a whole quarter."),
]
Advance = Callable[[int], None]


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(since: Since = None, as_json: Json = False) -> None:
    """Check that all that is stored adds up: readings, windows, the ledger, days and months."""
    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection, KafkaConnection

    start = None if since is None else _instant(since)
    with told():
        checks = verify_stored(
            DatabaseConnection().url, KafkaConnection().bootstrap, since=start, bar=shown_bar
        )
    ok = all(check.ok for check in checks)
    if as_json:
        print(json.dumps({"ok": ok, "checks": [check.document() for check in checks]}))
    else:
        _print(checks)
    if not ok:
        raise typer.Exit(1)


def verify_stored(
    database_url: str,
    kafka_bootstrap: str,
    *,
    since: datetime | None = None,
    bar: "Callable[[str, int], Any] | None" = None,
) -> "list[Check]":
    """Run all checks, on slices of channels, each seen at one instant. `bar` shows progress.

    The stream may run on meanwhile: what it is just about to change is left out and counted as
    `pending`. Windows from before a device's limits were changed are counted as `outdated`: only
    their sums are checked. Errors of Kafka and the database come through.
    """
    import psycopg

    from sinks import stored_checks
    from sinks.finality import log_ends
    from sinks.stored_checks import Check

    progress, log = Check("progress"), Check("log_gaps")
    minutes, gaps, quarters = Check("minutes"), Check("gap_energy"), Check("quarters")
    sums = [quarters, *map(Check, stored_checks.ROLL_UPS)]
    keys = Check("keys")
    ends = log_ends(kafka_bootstrap)
    with psycopg.connect(database_url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        _check_progress(conn, progress, ends)
        with conn.transaction():
            conn.execute("SET LOCAL timezone = 'UTC'")
            stored_checks.check_log_gaps(conn, log)
            every = stored_checks.all_channels(conn)
        with (bar or _no_bar)("verifying channels", len(every)) as advance:
            for at in range(0, len(every), CHANNELS_AT_ONCE):
                ids = every[at : at + CHANNELS_AT_ONCE]
                with conn.transaction():
                    conn.execute("SET LOCAL timezone = 'UTC'")
                    facts = stored_checks.channel_facts(conn, ids)
                    names = {one.channel_id: one.name for one in facts}
                    for check in sums:
                        stored_checks.check_sums(conn, check, names, since)
                    stored_checks.check_keys(conn, keys, names, since)
                _check_windows(conn, minutes, gaps, ids, since)
                advance(len(ids))
    return [progress, log, minutes, gaps, *sums, keys]


def _check_progress(conn: "psycopg.Connection[Any]", check: "Check", ends: dict[int, int]) -> None:
    """Wait until the stream has stored what the log held at the start."""
    from sinks.finality import records_behind

    until = time.monotonic() + CATCH_UP_S
    while True:
        with conn.transaction():
            behind = {
                part: count
                for part, end in ends.items()
                if (count := records_behind(conn, {part: end}))
            }
        if not behind or time.monotonic() > until:
            break
        time.sleep(0.25)
    check.checked = sum(ends.values())
    for part, count in behind.items():
        check.fail(
            f"energy.raw.v1[{part}]",
            datetime.now(UTC),
            f"{count} records before offset {ends[part]} are not stored after {CATCH_UP_S:.0f} s; "
            "is a worker running?",
            count,
        )


def _check_windows(
    conn: "psycopg.Connection[Any]",
    minutes: "Check",
    gaps: "Check",
    ids: Sequence[int],
    since: datetime | None,
) -> None:
    """Recompute the windows of some channels; those with late readings get another look."""
    from sinks import stored_checks

    for look in range(LOOKS):
        with conn.transaction():
            facts = stored_checks.channel_facts(conn, ids)
            steady = [one for one in facts if not one.is_changing]
            _compare(conn, minutes, gaps, steady, since)
        ids = [one.channel_id for one in facts if one.is_changing]
        if not ids:
            return
        if look < LOOKS - 1:
            time.sleep(ANOTHER_LOOK_S)
    minutes.pending += len(ids)
    gaps.pending += len(ids)


def _compare(
    conn: "psycopg.Connection[Any]",
    minutes: "Check",
    gaps: "Check",
    facts: "Sequence[ChannelFacts]",
    since: datetime | None,
) -> None:
    from schemas.families import FAMILIES
    from sinks import stored_checks
    from streams.partition import limits_of

    if not facts:
        return
    ids = [one.channel_id for one in facts]
    limits = [limits_of(FAMILIES[f.family], f.gap_limit_s, f.max_power_w) for f in facts]
    since_us = None if since is None else _us(since)
    oldest = stored_checks.oldest_reading_chunk(conn)
    stored_minutes = stored_checks.minutes(conn, ids, since)
    stored_gaps = stored_checks.gaps(conn, ids, since)
    seconds = [one.gap_limit_us // 1_000_000 for one in limits]
    rows = groupby(stored_checks.points(conn, facts, seconds, since), key=itemgetter(0))
    computed: dict[int, tuple[Any, int]] = {}
    by_id = {f.channel_id: (f, limit) for f, limit in zip(facts, limits, strict=True)}
    for channel, points in rows:
        fact, limit = by_id[channel]
        oldest_window = min(stored_minutes[channel], default=None)
        beyond = oldest is not None and oldest_window is not None and oldest_window < _us(oldest)
        from_us = max(since_us or 0, fact.limits_since_us or 0)
        computed[channel] = _recompute(fact, list(points), limit, from_us, beyond)
    for fact in facts:
        limits_us = fact.limits_since_us or 0
        found = stored_minutes[fact.channel_id], stored_gaps[fact.channel_id]
        minutes.outdated += sum(at_us < limits_us for at_us in found[0])
        gaps.outdated += sum(at_us < limits_us for at_us, _ in found[1])
        measured, start_us = computed.get(fact.channel_id, (None, max(since_us or 0, limits_us)))
        _compare_minutes(minutes, fact, measured and measured.minutes, found[0], start_us)
        _compare_gaps(gaps, fact, measured and measured.gaps, found[1], start_us)


def _recompute(
    fact: "ChannelFacts",
    rows: "list[PointRow]",
    limits: Any,
    from_us: int,
    beyond: bool,
) -> tuple[Any, int]:
    """What the readings say, from which instant on: not before `from_us`. `beyond`: older readings
    were dropped.
    """
    from streams.energy import REACH, minutes_of
    from streams.store import point_of_stored

    points = [point_of_stored(row[1:]) for row in rows]
    start_us = min(p.at_us - (p.interval_us or 0) for p in points)
    if beyond:
        start_us = points[min(len(points) - 1, 2 * REACH)].at_us + limits.gap_limit_us + MINUTE_US
    start_us = max(start_us, from_us) // MINUTE_US * MINUTE_US
    end_us = fact.complete_until_us or start_us
    if end_us <= start_us:
        return None, start_us
    return minutes_of(points, start_us, end_us, limits), start_us


def _compare_minutes(
    check: "Check",
    fact: "ChannelFacts",
    minutes: Any,
    stored: "dict[int, MinuteRecord]",
    start_us: int,
) -> None:
    from streams.store import minute_record

    wanted = {m.start_us: minute_record(fact.channel_id, m) for m in minutes or ()}
    for at_us in sorted(wanted.keys() | {at for at in stored if at >= start_us}):
        check.checked += 1
        mine, theirs = wanted.get(at_us), stored.get(at_us)
        if mine == theirs or (mine is None and theirs is not None and _is_empty(theirs)):
            continue
        if theirs is None:
            text = f"no row; the readings say {mine.energy_uwh} µWh" if mine else ""
        elif mine is None:
            text = f"stored is {theirs.energy_uwh} µWh; the readings say nothing of this minute"
        else:
            text = ", ".join(
                f"{name} is {is_} and the readings say {said}"
                for name, is_, said in zip(mine._fields, theirs, mine, strict=True)
                if is_ != said
            )
        check.fail(fact.name, _at(at_us), text)


def _is_empty(row: "MinuteRecord") -> bool:
    """A window that lost all its energy to a correction keeps its row."""
    return row.energy_uwh == 0 and row.export_uwh == 0 and row.readings == 0


def _compare_gaps(
    check: "Check",
    fact: "ChannelFacts",
    gaps: Any,
    stored: "dict[tuple[int, int], GapRecord]",
    start_us: int,
) -> None:
    wanted = {(gap.start_us, gap.end_us): gap for gap in gaps or ()}
    for key in sorted(wanted.keys() | {key for key in stored if key[0] >= start_us}):
        check.checked += 1
        mine, theirs = wanted.get(key), stored.get(key)
        said = (mine.energy_uwh, mine.export_uwh) if mine else (0, 0)
        is_ = (theirs.energy_uwh, theirs.export_uwh) if theirs else None
        if is_ == said:
            continue
        check.fail(
            fact.name,
            _at(key[0]),
            f"until {_at(key[1]).isoformat()}: stored is {is_} µWh (import, export), "
            f"the readings say {said}",
        )


# ---------------------------------------------------------------- for people


@contextmanager
def shown_bar(text: str, total: float) -> Iterator[Advance]:
    """A progress bar on stderr, moved on by what this gives; silent where nobody looks."""
    from infra.cli.import_ import shown_bar as bar

    with bar(text, int(total)) as advance:
        yield advance


@contextmanager
def _no_bar(text: str, total: int) -> Iterator[Advance]:
    yield lambda count: None


def _print(checks: "Sequence[Check]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "", "checked", "failed", "pending", "outdated", box=None)
    for check in checks:
        word = "[green]ok[/]" if check.ok else "[red]FAILED[/]"
        table.add_row(
            *(check.name, word),
            *(f"{n:,}" for n in (check.checked, check.failed, check.pending, check.outdated)),
        )
    console = Console()
    console.print(table)
    for check in checks:
        for failure in check.failures:
            console.print(
                f"{check.name}: {failure.channel}, {failure.at}: {failure.text}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if check.failed > len(check.failures):
            console.print(f"{check.name}: and {check.failed - len(check.failures):,} more")


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a time; write 2026-02-06T14:30:00Z") from error
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no offset; write 2026-02-06T14:30:00Z")
    return _at(_us(at) // QUARTER_US * QUARTER_US)


def _us(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _at(at_us: int) -> datetime:
    return datetime.fromtimestamp(at_us / 1e6, UTC)
