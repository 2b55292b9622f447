"""Models, configuration, sensors, claims, whose a device was when, presence."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0007_registry.sql").read_text())
