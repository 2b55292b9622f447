"""Kafka's class data archive: made once, after which every Kafka starts in half the time."""

import subprocess
import sys
import tempfile
from pathlib import Path

from infra.local import parts as local_parts
from infra.local.launch import __file__ as launch_file
from infra.local.parts import Parts, Progress
from infra.local.programs import KAFKA, Instance
from infra.local.sandbox import sandboxed
from infra.local.servers import kafka_answers, prepare_kafka, wait_until
from infra.local.settings import StackSettings

TIMEOUT_S = 60.0


def ensure(parts: Parts, progress: Progress) -> None:
    """Run a Kafka of its own until it answers, and keep the classes it had loaded when it ended.

    Without an archive Kafka works as well; so if this Kafka does not come up, nothing is kept,
    and the stack's own says why.
    """
    if parts.classes.is_dir():
        return
    parts_dir = parts.classes.parent
    with (
        local_parts.locked(parts_dir, progress),
        tempfile.TemporaryDirectory(prefix="classes.state-", dir=parts_dir) as folder,
    ):
        if parts.classes.is_dir():
            return
        progress("preparing Kafka for quick starts")
        archive = _record(StackSettings.free(Path(folder)), parts)
        if archive.exists():
            with local_parts.building(parts.classes) as building:
                archive.rename(building / "kafka.jsa")


def _record(settings: StackSettings, parts: Parts) -> Path:
    """Where the archive is, if it could be made."""
    state = settings.state_dir / KAFKA.name
    state.mkdir()
    prepare_kafka(settings, parts)
    assert KAFKA.account is not None
    assert KAFKA.config_dir is not None
    java, *options = Instance(KAFKA.name, KAFKA, 0).command(settings)
    options = [option for option in options if not option.startswith("-XX:SharedArchiveFile")]
    server = sandboxed(
        [java, "-XX:ArchiveClassesAtExit=/srv/kafka.jsa", *options],
        parts=parts,
        account=KAFKA.account,
        config_dir=KAFKA.config_dir,
        state=state,
    )
    launch = [sys.executable, "-I", launch_file, "--run-dir", str(settings.state_dir)]
    with subprocess.Popen(
        [*launch, "--name", KAFKA.name, "--sandbox", "--", *server],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(
            lambda: kafka_answers(settings) or process.poll() is not None, timeout_s=TIMEOUT_S
        )
        process.terminate()
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return state / "kafka.jsa"
