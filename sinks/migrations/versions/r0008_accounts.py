"""Accounts of devices on the MQTT broker."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0008_accounts.sql").read_text())
