"""The sandbox a server runs in: Debian's files read-only, its state under /srv, no other host file.

It shares the host's network, where each server listens on the loopback address only.
"""

from collections.abc import Sequence
from pathlib import Path

from infra.local.parts import Parts
from infra.local.settings import PROJECT_ROOT


def sandboxed(
    command: Sequence[str], *, parts: Parts, account: str, config_dir: str, state: Path
) -> list[str]:
    """`command` under bwrap, as the user `account` of the root file system.

    The host sees the caller's own user; some servers refuse to run as an unknown one or as root.
    /srv is `state`, /run/meterstream is infra/<config_dir>, /run/kafka Kafka's jars,
    /run/classes their archive, and /run/mosquitto.d the part of Mosquitto's settings that
    differs per stack.
    """
    uid, gid = _account(parts.rootfs, account)
    included = state / "conf.d"
    return [
        *("bwrap", "--unshare-user", "--uid", str(uid), "--gid", str(gid)),
        *("--unshare-pid", "--as-pid-1", "--die-with-parent"),
        *("--ro-bind", str(parts.rootfs), "/", "--dev", "/dev", "--proc", "/proc"),
        *("--tmpfs", "/tmp", "--tmpfs", "/run", "--bind", str(state), "/srv"),
        *("--ro-bind", str(PROJECT_ROOT / "infra" / config_dir), "/run/meterstream"),
        *("--ro-bind", str(parts.kafka), "/run/kafka"),
        *("--ro-bind-try", str(parts.classes), "/run/classes"),
        *("--ro-bind-try", str(included), "/run/mosquitto.d"),
        *("--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/bin:/bin"),
        *("--chdir", "/srv", "--"),
        *command,
    ]


def _account(rootfs: Path, name: str) -> tuple[int, int]:
    """User and group id of an account, as Debian's packages made it."""
    for line in (rootfs / "etc" / "passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2]), int(fields[3])
    raise KeyError(f"{rootfs}/etc/passwd has no account {name}")
