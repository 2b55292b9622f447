"""Alembic's entry: plain SQL files beside the revisions, run in one transaction each."""

from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.get_main_option("sqlalchemy.url")
if url is None:
    raise SystemExit("sinks.migrate sets the database's address; run `meterstream migrate`")

with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
