"""A real database with the newest schema, empty for each test."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from sinks.migrate import migrate

_DATABASE = "sinks_tests"


@pytest.fixture(scope="session")
def sinks_url(stack: Stack) -> str:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {_DATABASE}".encode())
    url = stack.database_url.rpartition("/")[0] + f"/{_DATABASE}"
    migrate(url)
    return url


@pytest.fixture
def db(sinks_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to tables with nothing in them."""
    with psycopg.connect(sinks_url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
            "WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        ).fetchone()
        assert tables is not None
        connection.execute("SET session_replication_role = replica")  # bills are kept by triggers
        connection.execute(f"TRUNCATE {tables[0]} RESTART IDENTITY CASCADE".encode())
        connection.execute("RESET session_replication_role")
        yield connection
