"""Settings of the downlink, read from the environment once at start."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DownlinkSettings(BaseSettings):
    """`METERSTREAM_DOWNLINK_…`"""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_DOWNLINK_", frozen=True)

    group: str = "meterstream-downlink"
    most_open: int = Field(
        default=20_000, ge=1, description="commands held at once; above it no more are read"
    )


class DownlinkMetricsSettings(BaseSettings):
    """Where `/metrics` and `/health` are served (`METERSTREAM_METRICS_HOST`, `…_PORT`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_METRICS_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=9107, ge=0, le=65535, description="0: any free port, see the log")
