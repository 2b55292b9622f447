"""Firmware: images, and which devices run what."""

from pathlib import Path

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0010_firmware.sql").read_text())
