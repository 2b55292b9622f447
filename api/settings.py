"""Settings of the API, read from the environment once at start."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ApiSettings(BaseSettings):
    """The API process (`METERSTREAM_API_PORT`, …). The token has no default: see `token`."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_API_", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    token: SecretStr = Field(
        default=SecretStr(""), description="the operator's bearer token; it sees everything"
    )
    token_file: Path | None = Field(
        default=None, description="a file that holds the token, where `token` is unset"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "localhost", "[::1]"),
        description="Host headers that are answered, with commas between; `*.example.org` too",
    )
    pool_max: int = Field(default=8, ge=1, le=100, description="connections to the database")
    homes_pool_max: int = Field(
        default=4, ge=1, le=100, description="connections that may write, for homes and bills"
    )
    commands_pool_max: int = Field(
        default=4, ge=1, le=100, description="connections for commands to devices"
    )
    pool_timeout_s: float = Field(default=3.0, gt=0, description="wait for a connection")
    statement_timeout_s: float = Field(default=10.0, gt=0)
    ready_max_stream_lag_s: float = Field(
        default=60.0, gt=0, description="an older stream time makes `/ready` fail"
    )
    shutdown_timeout_s: int = Field(default=10, ge=1, description="for requests under way")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [one.strip() for one in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _sound_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or ("*" in host.removeprefix("*.") and host != "*"):
                raise ValueError(f"{host!r} is no host name; write example.org or *.example.org")
        return hosts

    @model_validator(mode="after")
    def _has_token(self) -> Self:
        self.bearer_token()
        return self

    def bearer_token(self) -> str:
        """The operator's token. Raises ValueError if there is none: the process makes none up."""
        token = self.token.get_secret_value().strip()
        if not token and self.token_file is not None:
            try:
                token = self.token_file.read_text("ascii").strip()
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"METERSTREAM_API_TOKEN_FILE={self.token_file} cannot be read: "
                    f"{getattr(error, 'strerror', None) or 'not ASCII text'}"
                ) from None
        if not token:
            raise ValueError(
                "no token: set METERSTREAM_API_TOKEN, or METERSTREAM_API_TOKEN_FILE to a file that "
                "holds one (python -c 'import secrets; print(secrets.token_urlsafe(32))')"
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("the token has spaces or signs that a header cannot carry; take ASCII")
        return token
