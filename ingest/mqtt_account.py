"""Who a process of ours is for the MQTT broker: its account, and whom it trusts."""

from functools import cached_property
from pathlib import Path
from typing import Self

from paho.mqtt.client import Client
from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class MqttAccount(BaseSettings):
    """`METERSTREAM_MQTT_USER`, `…_PASSWORD_FILE` and `…_CA_FILE`; none of them on a broker that
    trusts this machine's users.

    `ca_file` holds the certificates that the broker's must descend from, as PEM: with it the
    connection is TLS, and the broker's name is verified.
    Raises ValidationError where a file cannot be read, or a user has no password.
    """

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_MQTT_", frozen=True)

    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError(
                "METERSTREAM_MQTT_USER and METERSTREAM_MQTT_PASSWORD_FILE go together; "
                "set both, or neither"
            )
        _ = self.password
        if self.ca_file is not None and not self.ca_file.is_file():
            raise ValueError(f"METERSTREAM_MQTT_CA_FILE={self.ca_file} is no file")
        return self

    @cached_property
    def password(self) -> str | None:
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"METERSTREAM_MQTT_PASSWORD_FILE={self.password_file} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'not ASCII text'}"
            ) from None

    def apply(self, client: Client) -> None:
        """Give a client, before it connects, its user, its password and its trust."""
        if self.user is not None:
            client.username_pw_set(self.user, self.password)
        if self.ca_file is not None:
            client.tls_set(ca_certs=str(self.ca_file))
