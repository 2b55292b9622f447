"""What several commands share: a connection, and rows as a table or as JSON."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from infra.cli.usage import LEAST_WIDTH, instant_of

if TYPE_CHECKING:
    import psycopg

HomeId = Annotated[str, typer.Argument(metavar="HOME", help="The id of a home.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@contextmanager
def database() -> "Iterator[psycopg.Connection[Any]]":
    """One transaction; what a person can mend ends the command in one line."""
    import psycopg

    from infra.cli.endings import told
    from schemas.connections import DatabaseConnection

    with told(), psycopg.connect(DatabaseConnection().url) as conn:
        yield conn


def tell(rows: Sequence[dict[str, object]], as_json: bool, *, one: bool = False) -> None:
    if as_json:
        print(json.dumps(rows[0] if one else rows, ensure_ascii=False))
    else:
        print_table(rows)


def print_table(rows: Sequence[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    console = Console(width=max(Console().width, LEAST_WIDTH))
    table = Table(box=None)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*("" if row.get(title) is None else str(row[title]) for title in titles))
    console.print(table)


def instant_at(text: str, zone: ZoneInfo, option: str) -> datetime:
    """In UTC; a time without an offset, or a date, is in `zone`."""
    return instant_of(text, zone, option).astimezone(UTC)
