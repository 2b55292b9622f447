"""What the presence process reads from the environment, once, at its start."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PresenceSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    presence_pause_s: float = Field(default=1.0, gt=0)
    metrics_port: int = Field(default=9105, ge=0, le=65535)  # 0: none
