"""A worker's connection to the database."""

from typing import Any

import psycopg

TRANSACTION_TIMEOUT_S = 60


class Link:
    """A connection of one thread, opened when it is asked for.

    After any error it is dropped: cut off in the middle of a pipeline, libpq neither calls it
    broken nor ever uses it again.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._conn: psycopg.Connection[Any] | None = None

    def connection(self) -> psycopg.Connection[Any]:
        if self._conn is None:
            self._conn = psycopg.connect(
                self._database_url,
                autocommit=True,
                connect_timeout=5,
                application_name="meterstream-worker",
                options=f"-c transaction_timeout={TRANSACTION_TIMEOUT_S}s",
            )
        return self._conn

    def drop(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
