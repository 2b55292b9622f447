"""A migrated database of its own, empty for each test."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from tests.databases import migrated_database


@pytest.fixture(scope="session")
def presence_url(stack: Stack) -> str:
    return migrated_database(stack, "presence_tests")


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
