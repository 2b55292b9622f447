"""Commands at hundreds a second: plans that are kept, requests that are told apart."""

from pathlib import Path

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0012_command_pace.sql").read_text())
