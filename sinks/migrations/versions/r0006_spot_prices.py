"""Spot prices; bills to be announced; changed reading days; the utility's meter beside ours."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_name("0006_spot_prices.sql").read_text())
