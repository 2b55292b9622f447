"""Who switched: the word of the device, with the change that it is about."""

from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0013_switch_sources.sql").read_text())
