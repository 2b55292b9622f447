"""Where the servers are: one frozen class each, read from the environment once at start.

Every process of Meterstream takes these; what is its own stands in its room's `settings.py`.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MqttConnection(BaseSettings):
    """The MQTT broker (`METERSTREAM_MQTT_HOST`, `…_PORT`, `…_USERNAME`, `…_PASSWORD`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_MQTT_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: str | None = None


class AccountsConnection(BaseSettings):
    """The broker's TLS listener for devices, and its administrator (`METERSTREAM_ACCOUNTS_…`).

    `device_host` is the name that devices are told, `ca_file` the certificate that the broker's
    descends from, as PEM; `certificate_file` and `key_file` are the administrator's own, which the
    broker may ask for.
    """

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_ACCOUNTS_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8883, ge=1, le=65535)
    device_host: str = "127.0.0.1"
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    admin_password_file: Path | None = None


class KafkaConnection(BaseSettings):
    """The Kafka cluster (`METERSTREAM_KAFKA_BOOTSTRAP`: `host:port[,host:port…]`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_KAFKA_", frozen=True)

    bootstrap: str = "127.0.0.1:9092"


class DatabaseConnection(BaseSettings):
    """TimescaleDB, as a libpq address without a secret (`METERSTREAM_DATABASE_URL`)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_DATABASE_", frozen=True)

    url: str = "postgresql://meterstream@127.0.0.1:5433/meterstream"
