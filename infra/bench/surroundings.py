"""On what a run was made: machine, load, commit, versions."""

import os
import subprocess
from importlib.metadata import version

from infra.local.settings import PROJECT_ROOT

PACKAGES = (
    "faust-streaming", "aiokafka", "confluent-kafka", "paho-mqtt", "psycopg", "msgspec", "numpy",
)  # fmt: skip


def machine() -> str:
    """The processor and how many of it."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if "model name" in line), "?")
    return f"{os.cpu_count()} × {model}"


def commit() -> str:
    """The short hash, with `+` where files differ from it."""
    shown = _git("describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*")
    return shown or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}
