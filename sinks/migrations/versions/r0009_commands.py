"""Commands: what was asked of devices, what became of it, and who switched what."""

from pathlib import Path

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0009_commands.sql").read_text())
