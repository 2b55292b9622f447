"""Where a local stack listens and where it keeps its data."""

import os
import random
import socket
from pathlib import Path
from typing import Self

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.local.errors import StackError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
MAX_WORKERS = 8  # of one stack: their metrics ports follow each other

# Below the range from which the kernel takes ports for outgoing connections: a server that
# is killed must find its port free when it comes back.
_FREE_PORTS = range(20_000, 32_000)


class StackSettings(BaseSettings):
    """Ports and folders of one stack (`METERSTREAM_MQTT_PORT`, `METERSTREAM_STATE_DIR`, …)."""

    model_config = SettingsConfigDict(env_prefix="METERSTREAM_", frozen=True)

    mqtt_port: int = Field(default=1883, ge=1, le=65535)
    mqtt_tls_port: int = Field(default=8883, ge=1, le=65535)
    mqtt_anonymous: bool = True  # on the plain port; else it wants accounts too
    mqtt_require_certificate: bool = False  # of clients on the TLS port, beside their account
    mqtt_device_host: str = "127.0.0.1"  # what devices are told, and the certificate is for
    kafka_port: int = Field(default=9092, ge=1, le=65535)
    kafka_controller_port: int = Field(default=9093, ge=1, le=65535)
    database_port: int = Field(default=5433, ge=1, le=65535)
    api_port: int = Field(default=8080, ge=1, le=65535)
    uplink_metrics_port: int = Field(default=9101, ge=1, le=65535)
    rollup_metrics_port: int = Field(default=9102, ge=1, le=65535)
    cost_metrics_port: int = Field(default=9103, ge=1, le=65535)
    billing_metrics_port: int = Field(default=9104, ge=1, le=65535)
    presence_metrics_port: int = Field(default=9105, ge=1, le=65535)
    commands_metrics_port: int = Field(default=9106, ge=1, le=65535)
    downlink_metrics_port: int = Field(default=9107, ge=1, le=65535)
    poller_metrics_port: int = Field(default=9108, ge=1, le=65535)
    worker_metrics_port: int = Field(default=9110, ge=1, le=65535)  # of worker 0; others follow
    kafka_jvm_options: str = ""  # as `-Xmx2g`; the later one counts
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)

    state_dir: Path = PROJECT_ROOT / ".local" / "state"
    parts_dir: Path = PROJECT_ROOT / ".local" / "parts"

    @classmethod
    def free(cls, state_dir: Path) -> Self:
        """Settings of a private stack: free ports, data under `state_dir`, the shared parts."""
        singles = [name for name in cls.model_fields if name.endswith("_port")]
        singles.remove("worker_metrics_port")
        first = free_block(len(singles) + MAX_WORKERS)
        ports = {name: first + index for index, name in enumerate(singles)}
        return cls.model_validate(
            {
                **ports,
                "worker_metrics_port": first + len(singles),
                "state_dir": state_dir.resolve(),
            }
        )

    @staticmethod
    def variable(field: str) -> str:
        """The environment variable that sets a field."""
        return f"METERSTREAM_{field.upper()}"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_block(length: int) -> int:
    """The first of `length` free ports in a row, below those of outgoing connections."""
    chance = random.Random(os.urandom(8))
    for _ in range(1000):
        first = chance.randrange(_FREE_PORTS.start, _FREE_PORTS.stop - length)
        if all(is_free(port) for port in range(first, first + length)):
            return first
    raise StackError(f"no {length} free ports in a row in {_FREE_PORTS}; stop other stacks first")
