"""What a worker reads from the environment, once, at its start."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """`METERSTREAM_WORKER_*`, and what every process has: state directory and metrics port."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    instance: int = Field(default=0, ge=0)  # number of this worker; its name in the group
    worker_group: str = "meterstream-streams"
    worker_most_records: int = Field(default=10_000, ge=1)
    worker_pace_ms: int = Field(default=2, ge=0)  # the shortest time between transactions
    state_dir: Path = Path(".local/state")
    metrics_port: int = Field(default=9110, ge=0, le=65535)  # 0: none

    @property
    def worker_id(self) -> str:
        return f"worker-{self.instance}"
