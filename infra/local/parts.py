"""The read-only parts of every stack: a Debian root file system with the servers, and Kafka's jars.

Each part lies in a folder that carries its recipe's hash, so a changed recipe is built anew
beside the old one, under which a stack may still be running. A build happens in a folder of
its own that gets its name when it is complete: one cut short is begun again.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.local.errors import MissingTools, StackError
from infra.local.settings import PROJECT_ROOT

Progress = Callable[[str], None]

SUITE = "trixie"
PACKAGES = (
    "postgresql-17",
    "postgresql-17-timescaledb",
    "mosquitto",
    "openjdk-21-jre-headless",
    "micropython",
)
# No translations (manual pages stay: OpenJDK links to them), and no database cluster made
# while installing.
MMDEBSTRAP_OPTIONS = (
    "--variant=apt",
    "--format=tar",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=force-confold",
    "--essential-hook=mkdir -p $1/etc/postgresql-common"
    " && echo create_main_cluster=false > $1/etc/postgresql-common/createcluster.conf",
)
KAFKA_POM = PROJECT_ROOT / "infra" / "kafka" / "pom.xml"
KEYRINGS = tuple(
    Path("/usr/share/keyrings") / name
    for name in ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
)
# Which Debian package brings a tool of the host.
TOOLS = {
    "bwrap": "bubblewrap",
    "mmdebstrap": "mmdebstrap",
    "mvn": "maven",
    "newuidmap": "uidmap",
    "keyring": "debian-archive-keyring",
}


@dataclass(frozen=True)
class Parts:
    """Where the built parts lie."""

    rootfs: Path
    kafka: Path
    classes: Path  # Kafka's class data archive: it makes the start faster, and may be missing

    @property
    def complete(self) -> bool:
        return self.rootfs.is_dir() and self.kafka.is_dir()


def locate(parts_dir: Path) -> Parts:
    """Where the parts of the present recipes are, built or not."""
    rootfs = _recipe_hash(SUITE, *PACKAGES, *MMDEBSTRAP_OPTIONS)
    kafka = _recipe_hash(KAFKA_POM.read_text())
    return Parts(
        rootfs=parts_dir / f"rootfs-{rootfs}",
        kafka=parts_dir / f"kafka-{kafka}",
        classes=parts_dir / f"classes-{_recipe_hash(rootfs, kafka)}",
    )


def ensure(parts_dir: Path, progress: Progress) -> Parts:
    """The parts, built where missing. Only one process builds; others wait for it.

    Raises MissingTools if the host lacks a program and we may not install it.
    """
    parts = locate(parts_dir)
    ensure_tools(["bwrap"], progress)
    if parts.complete:
        return parts
    parts_dir.mkdir(parents=True, exist_ok=True)
    with locked(parts_dir, progress):
        needed = []
        if not parts.rootfs.is_dir():
            needed += ["mmdebstrap", "keyring"] + ([] if os.geteuid() == 0 else ["newuidmap"])
        if not parts.kafka.is_dir():
            needed.append("mvn")
        ensure_tools(needed, progress)
        if not parts.kafka.is_dir():
            with building(parts.kafka) as folder:
                _fetch_kafka(folder, progress)
        if not parts.rootfs.is_dir():
            with building(parts.rootfs) as folder:
                _build_rootfs(folder, progress)
        for name, target in (("rootfs", parts.rootfs), ("kafka", parts.kafka)):
            _point(parts_dir / name, target)
    return parts


def ensure_tools(names: Sequence[str], progress: Progress) -> None:
    """Install what is missing of these tools, where root or `sudo -n` lets us."""
    missing = [name for name in names if not _has(name)]
    if not missing:
        return
    packages = sorted(TOOLS[name] for name in missing)
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    prefix = _privilege()
    by_hand = f"sudo apt-get update && sudo {shlex.join(install)}"
    if prefix is None or shutil.which("apt-get") is None:
        raise MissingTools(
            f"missing on this machine: {', '.join(packages)}; run `{by_hand}`, "
            f"or use Docker: docker compose -f infra/compose.yaml up -d"
        )
    progress(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], install):
        done = subprocess.run(
            [*prefix, *command], env=environment, capture_output=True, text=True, check=False
        )
    still = [TOOLS[name] for name in missing if not _has(name)]
    if still:
        raise MissingTools(
            f"could not install {', '.join(still)}: {_last_line(done.stderr)}; run `{by_hand}` "
            f"by hand, or use Docker: docker compose -f infra/compose.yaml up -d"
        )


def _has(tool: str) -> bool:
    if tool == "keyring":
        return any(path.exists() for path in KEYRINGS)
    return shutil.which(tool) is not None


def _privilege() -> list[str] | None:
    """What to put before a command that needs root; None if we cannot have it."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return ["sudo", "-n"] if allowed.returncode == 0 else None


def _build_rootfs(folder: Path, progress: Progress) -> None:
    """Unpack what mmdebstrap makes into `folder`, owned by us whoever we are."""
    progress(f"building the root file system (Debian {SUITE}: {', '.join(PACKAGES)})")
    keyring = next(path for path in KEYRINGS if path.exists())
    command = [
        "mmdebstrap",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        f"--include={','.join(PACKAGES)}",
        f"--keyring={keyring}",
        *MMDEBSTRAP_OPTIONS,
        *(f"--aptopt={option}" for option in _host_acquire_options()),
        SUITE,
        "-",
        *_host_mirrors(keyring),
    ]
    unpack = ["tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-C", str(folder)]
    with (
        tempfile.TemporaryFile("w+") as tar_errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False
        ) as build,
        subprocess.Popen(unpack, stdin=build.stdout, stderr=tar_errors) as tar,
    ):
        assert build.stdout is not None
        assert build.stderr is not None
        build.stdout.close()  # so that mmdebstrap hears of a dead tar
        lines = []
        for raw in build.stderr:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            if line.startswith("I: "):
                progress(f"root file system: {line[3:]}")
        build_status, tar_status = build.wait(), tar.wait()
        tar_errors.seek(0)
        unpack_error = _last_line(tar_errors.read())
    log = folder.with_name("rootfs.log")
    log.write_text("\n".join(lines))
    if build_status != 0:
        errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
        hint = ""
        if any("NO_PUBKEY" in line or "not signed" in line for line in lines):
            hint = (
                f"; this machine's debian-archive-keyring is too old to know {SUITE}: run "
                "`sudo apt-get update && sudo apt-get install --only-upgrade "
                "debian-archive-keyring`"
            )
        raise StackError(
            f"mmdebstrap ended with status {build_status} (all it said: {log}): {errors[0]}{hint}"
        )
    if tar_status != 0:
        raise StackError(f"cannot unpack the root file system into {folder}: {unpack_error}")


def _host_mirrors(keyring: Path) -> list[str]:
    """Lines for sources.list from the Debian mirrors this host uses; none on other systems.

    Without any, mmdebstrap takes its own default.
    """
    if shutil.which("apt-get") is None:
        return []
    fields = "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = []
    for target in listed.stdout.splitlines():
        origin, label, uri, component = target.split("|")
        suite = {"Debian": SUITE, "Debian-Security": f"{SUITE}-security"}.get(label)
        line = f"deb [signed-by={keyring}] {uri} {suite} main"
        if origin == "Debian" and component == "main" and suite and line not in lines:
            lines.append(line)
    return lines


def _host_acquire_options() -> list[str]:
    """How this host's apt reaches its mirrors (proxies, certificates), for the apt inside."""
    if shutil.which("apt-config") is None:
        return []
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Check-")
    return [
        line
        for line in dumped.stdout.splitlines()
        if line.startswith(wanted) and not line.endswith('"";')
    ]


def _fetch_kafka(folder: Path, progress: Progress) -> None:
    """Let Maven copy Kafka's jars into `folder`."""
    progress("fetching Apache Kafka's jars through Maven")
    done = subprocess.run(
        [
            "mvn",
            "--batch-mode",
            "--quiet",
            f"--file={KAFKA_POM}",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={folder}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(f"Maven could not fetch Kafka: {_first_error(done.stdout)}")


@contextmanager
def locked(parts_dir: Path, progress: Progress) -> Iterator[None]:
    """Let only one process build in this folder."""
    with (parts_dir / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that builds the parts")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `target` if all goes well. Call it under the lock.

    What builds that were killed have left is removed.
    """
    for left in target.parent.glob(f"{target.name}.building-*"):
        shutil.rmtree(left, ignore_errors=True)  # a process of theirs may still be writing
    folder = Path(tempfile.mkdtemp(prefix=f"{target.name}.building-", dir=target.parent))
    folder.chmod(0o755)
    try:
        yield folder
    except BaseException:
        remove_tree(folder)
        raise
    folder.rename(target)


def _point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, for people; the code uses the hashed names."""
    draft = link.with_name(f"{link.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target.name)
    draft.replace(link)


def remove_tree(folder: Path) -> None:
    """Remove a folder, read-only ones inside it too."""
    if not folder.exists():
        return
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder)


def _recipe_hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _first_error(text: str) -> str:
    errors = [line for line in text.splitlines() if "ERROR" in line]
    return errors[0] if errors else _last_line(text)
