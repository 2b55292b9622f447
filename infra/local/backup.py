"""A dump of a stack's database, and a database made from one, with PostgreSQL's own tools.

The offsets lie in the database: workers that find a restored one read on from where it was dumped,
as long as Kafka's log goes back so far.
"""

import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from infra.local import parts as local_parts
from infra.local.errors import StackError
from infra.local.programs import TIMESCALE
from infra.local.sandbox import sandboxed
from infra.local.servers import DATABASE, ROLE, database_url
from infra.local.settings import StackSettings
from infra.local.stack import Stack

RESTORING = f"{DATABASE}_restoring"


def dump(stack: Stack, name: str = "backup.dump") -> Path:
    """`pg_dump -Fc` of the running database to a file beside its data. Raises StackError."""
    _run(stack.settings, "pg_dump", "--format=custom", f"--file=/srv/{name}", DATABASE)
    return stack.settings.state_dir / TIMESCALE.name / name


def restore(stack: Stack, name: str = "backup.dump") -> None:
    """Put a dump in the place of the database, whatever that holds. Raises StackError.

    It is restored under another name and renamed when it is whole, so that nobody works on the
    half of it; meanwhile there is no database.
    """
    settings = stack.settings
    with psycopg.connect(database_url(settings, "postgres"), autocommit=True) as conn:
        for old in (DATABASE, RESTORING):
            conn.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(old))
            )
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(RESTORING)))
    with psycopg.connect(database_url(settings, RESTORING), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION timescaledb")
        conn.execute("SELECT timescaledb_pre_restore()")
    _run(settings, "pg_restore", "--exit-on-error", f"--dbname={RESTORING}", f"/srv/{name}")
    with psycopg.connect(database_url(settings, RESTORING), autocommit=True) as conn:
        conn.execute("SELECT timescaledb_post_restore()")
        conn.execute("ANALYZE")
    with psycopg.connect(database_url(settings, "postgres"), autocommit=True) as conn:
        conn.execute(  # Timescale's own background workers connect to every database
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [RESTORING],
        )
        conn.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(RESTORING), sql.Identifier(DATABASE)
            )
        )


def _run(settings: StackSettings, tool: str, *arguments: str) -> None:
    assert TIMESCALE.account is not None
    assert TIMESCALE.config_dir is not None
    command = [
        f"/usr/lib/postgresql/17/bin/{tool}",
        *("--host=127.0.0.1", f"--port={settings.database_port}", f"--username={ROLE}"),
        *arguments,
    ]
    done = subprocess.run(
        sandboxed(
            command,
            parts=local_parts.ensure(settings.parts_dir, lambda _: None),
            account=TIMESCALE.account,
            config_dir=TIMESCALE.config_dir,
            state=settings.state_dir / TIMESCALE.name,
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(f"{tool} failed: {' / '.join(done.stderr.splitlines()[-5:])}")
