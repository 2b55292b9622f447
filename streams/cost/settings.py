"""What the cost process reads from the environment, once, at its start."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CostSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    cost_group: str = "meterstream-cost"
    cost_pause_s: float = Field(default=1.0, gt=0)
    metrics_port: int = Field(default=9103, ge=0, le=65535)  # 0: none
