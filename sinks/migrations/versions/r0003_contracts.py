"""Homes, their contracts and billed meters, and what the utility read."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0003_contracts.sql").read_text())
