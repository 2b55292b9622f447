"""Polling: devices asked over HTTP, and silences asked of devices that store their minutes."""

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0011_polling.sql").read_text())
