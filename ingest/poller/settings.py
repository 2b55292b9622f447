"""Settings of the poller, read from the environment once at start."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class PollerSettings(BaseSettings):
    """`METERSTREAM_POLLER_…`"""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_POLLER_", frozen=True)

    secrets_dir: Path = Field(
        default=Path(".local/state/secrets"),
        description="the folder whose files `polled_device.secret_file` names",
    )
    look_s: float = Field(
        default=10.0, gt=0, description="pause between looks at the registry and the ledger"
    )
    answer_s: float = Field(
        default=30.0, gt=0, description="how long a meter may take for an hour of its minutes"
    )


class PollerMetricsSettings(BaseSettings):
    """Where `/metrics` and `/health` are served (`METERSTREAM_METRICS_HOST`, `…_PORT`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_METRICS_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=9108, ge=0, le=65535, description="0: any free port, see the log")
