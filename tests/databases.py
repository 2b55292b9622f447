"""Databases of their own for tests, on the stack's server, and how they get empty."""

from typing import Any

import psycopg
from psycopg import sql

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


def empty_tables(conn: psycopg.Connection[Any]) -> None:
    """Leave no row in any table of ours, and let identities begin anew.

    Rows are deleted where there are any. Hypertables are truncated, which drops their chunks too.
    """
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")  # bills are kept by triggers
        hypertables = _names(
            conn, "SELECT hypertable_name FROM timescaledb_information.hypertables"
        )
        for name in _with_rows(conn):
            statement = "TRUNCATE {}" if name in hypertables else "DELETE FROM {}"
            conn.execute(sql.SQL(statement).format(sql.Identifier(name)))
        conn.execute(
            "SELECT setval(format('%I', sequencename)::regclass, start_value, false) "
            "FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"
        )


def _with_rows(conn: psycopg.Connection[Any]) -> list[str]:
    tables = _names(
        conn,
        "SELECT tablename FROM pg_tables "
        "WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
    )
    looks = sql.SQL(", ").join(
        sql.SQL("({}, EXISTS (SELECT FROM {}))").format(sql.Literal(name), sql.Identifier(name))
        for name in sorted(tables)
    )
    found = conn.execute(
        sql.SQL("SELECT name FROM (VALUES {}) AS t (name, has_rows) WHERE has_rows").format(looks)
    )
    return [name for (name,) in found]


def _names(conn: psycopg.Connection[Any], query: str) -> set[str]:
    return {name for (name,) in conn.execute(query.encode())}
