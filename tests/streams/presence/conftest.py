"""A migrated database of its own, empty for each test."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from sinks.migrate import migrate


@pytest.fixture(scope="session")
def presence_url(stack: Stack) -> str:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE presence_tests")
    url = stack.database_url.rpartition("/")[0] + "/presence_tests"
    migrate(url)
    return url


@pytest.fixture
def db(presence_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(presence_url, autocommit=True) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            "TRUNCATE device, model, stream_progress, presence_progress, presence_dirty, "
            "device_config_report RESTART IDENTITY CASCADE"
        )
        conn.execute("RESET session_replication_role")
        yield conn
