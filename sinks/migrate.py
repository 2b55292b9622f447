"""Bring a database to the newest schema."""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config

_MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x6D65_7465_72  # "meter"


def migrate(database_url: str) -> str:
    """Run every migration that is missing, one process at a time. Returns the revision reached."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option(
        "sqlalchemy.url",
        database_url.replace("postgresql://", "postgresql+psycopg://", 1).replace("%", "%%"),
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        command.upgrade(config, "head")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if row is None:
        raise RuntimeError("Alembic left no version; is this the right database?")
    return str(row[0])
