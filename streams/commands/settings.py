"""What the command process reads from the environment, once, at its start."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommandSettings(BaseSettings):
    """`commands_patience_s`: how long a device that answers is waited for before its changed state
    is believed in place of the answer. `commands_grace_s`: how long after its expiry a command may
    still be answered; `commands_longest_s`: the same while the stream stands still.
    """

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    commands_group: str = "meterstream-commands"
    commands_pause_s: float = Field(default=1.0, gt=0)
    commands_patience_s: float = Field(default=5.0, ge=0)
    commands_grace_s: float = Field(default=5.0, ge=0)
    commands_longest_s: float = Field(default=60.0, ge=0)
    metrics_port: int = Field(default=9106, ge=0, le=65535)  # 0: none
