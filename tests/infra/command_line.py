"""A command line over a database of its own, for the tests of several commands."""

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import psycopg
import typer
from typer.testing import CliRunner

from infra.local import Stack
from sinks.migrate import migrate


def migrated_database(stack: Stack, name: str) -> str:
    """The address of a new database with the newest tables."""
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"'.encode())
    url = stack.database_url.rpartition("/")[0] + f"/{name}"
    migrate(url)
    return url


def emptied(conn: psycopg.Connection[Any], *tables: str) -> None:
    """Empty these tables, and what hangs on them; issued bills too, which triggers keep."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(f"TRUNCATE {', '.join(tables)} CASCADE".encode())
    conn.execute("RESET session_replication_role")


class CommandLine:
    """The commands of some modules, as a person runs them."""

    def __init__(
        self,
        database_url: str,
        *modules: ModuleType,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._app = typer.Typer()
        for module in modules:
            module.register(self._app)
        self._environment = {"METERSTREAM_DATABASE_URL": database_url, **(environment or {})}

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """Run a command line; it must end with `code`. Gives its JSON, or its words."""
        result = CliRunner().invoke(self._app, arguments, env=self._environment)
        assert result.exit_code == code, f"{result.output}{result.exception!r}"
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if code:
            return result.stderr
        return json.loads(result.stdout) if "--json" in arguments else result.stdout
