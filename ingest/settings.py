"""Settings of the uplink, read from the environment once at start."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingest.decoders.topic_table import SUBSCRIPTIONS
from ingest.filters import check_shards


class UplinkSettings(BaseSettings):
    """One connector shard (`METERSTREAM_UPLINK_…`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_UPLINK_", frozen=True)

    shard: int = Field(default=0, ge=0, description="index into `shards`; part of the client id")
    shards: tuple[tuple[str, ...], ...] = Field(
        default=(SUBSCRIPTIONS,),
        description="topic filters of each shard; disjoint between shards. Changing the map needs "
        "a drain: messages queued for a filter that moves away come through the old shard",
    )
    receive_maximum: int = Field(
        default=20_000, ge=1, le=65535, description="messages the broker may leave unacknowledged"
    )
    queue_kbytes: int = Field(
        default=256 * 1024,
        ge=8 * 1024,
        description="memory for messages that Kafka does not have yet; when full, reading stops",
    )

    @model_validator(mode="after")
    def _sound_shards(self) -> Self:
        if self.shard >= len(self.shards):
            raise ValueError(
                f"shard {self.shard} does not exist: METERSTREAM_UPLINK_SHARDS has "
                f"{len(self.shards)}; count from 0"
            )
        empty = [index for index, filters in enumerate(self.shards) if not filters]
        if empty:
            raise ValueError(f"shard {empty[0]} has no filter; give it one or leave it out")
        check_shards(self.shards)
        return self

    @property
    def client_id(self) -> str:
        return f"meterstream-uplink-{self.shard}"

    @property
    def filters(self) -> tuple[str, ...]:
        return self.shards[self.shard]


class MetricsSettings(BaseSettings):
    """Where `/metrics` and `/health` are served (`METERSTREAM_METRICS_HOST`, `…_PORT`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_METRICS_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=9101, ge=0, le=65535, description="0: any free port, see the log")
