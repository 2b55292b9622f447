"""A real database with the newest schema, empty for each test."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from tests.databases import empty_tables, migrated_database


@pytest.fixture(scope="session")
def sinks_url(stack: Stack) -> str:
    return migrated_database(stack, "sinks_tests")


@pytest.fixture
def db(sinks_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to tables with nothing in them."""
    with psycopg.connect(sinks_url, autocommit=True) as connection:
        empty_tables(connection)
        yield connection
