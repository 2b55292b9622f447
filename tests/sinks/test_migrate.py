"""Migrations: from nothing to the newest schema, and then nothing more to do."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from sinks.migrate import migrate

pytestmark = pytest.mark.stack


def new_database(stack: Stack, name: str) -> str:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"'.encode())
    return stack.database_url.rpartition("/")[0] + "/" + name.replace("%", "%25")


def schema(url: str) -> list[Any]:
    """Columns, constraints, indexes and functions, of tables of ours."""
    with psycopg.connect(url) as conn:
        return [
            conn.execute(
                "SELECT table_name, column_name, data_type, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
            ).fetchall(),
            conn.execute(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
            ).fetchall(),
            conn.execute(
                "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
            ).fetchall(),
        ]


def test_migrating_twice_is_migrating_once(stack: Stack):
    url = new_database(stack, "migrate_twice")
    revision = migrate(url)
    before = schema(url)
    assert before[0], "tables were made"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("INSERT INTO device (address, family) VALUES ('homesync:h/n', 'homesync')")
    assert migrate(url) == revision
    assert schema(url) == before
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(*) FROM device").fetchone()
        assert row == (1,)


def test_processes_that_migrate_at_once_take_turns(stack: Stack):
    url = new_database(stack, "migrate_at_once")
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(migrate, [url] * 3))) == 1


def test_a_percent_sign_in_the_address_is_no_placeholder(stack: Stack):
    assert migrate(new_database(stack, "migrate_50%"))


def test_instants_go_to_the_database_and_back_to_the_microsecond(stack: Stack, sinks_url: str):
    instants = [0, 1, 946_684_800_000_000, 1_763_700_000_250_001, 4_133_980_799_999_999, -1]
    with psycopg.connect(sinks_url) as conn:
        row = conn.execute(
            "SELECT array_agg(to_us(from_us(us)) ORDER BY n) "
            "FROM unnest(%s::bigint[]) WITH ORDINALITY AS v (us, n)",
            [instants],
        ).fetchone()
        assert row == (instants,)
