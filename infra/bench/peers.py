"""Other stream processors on the same readings: one-minute windows of power alone.

Two of their jobs lie beside the project, in ../shared/bench; each has a pinned environment of its
own under .local/bench. Where one is missing it is left out, and the row says so.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psycopg

from infra.bench.cpu import CpuLog, of_process
from infra.bench.log import PEER_DEAD_LETTERS, PEER_TOPIC, Log
from infra.bench.results import Taken
from infra.bench.workers import server_clocks, settle
from infra.local import Stack
from infra.local.parts import Progress
from infra.local.settings import PROJECT_ROOT

JOBS = PROJECT_ROOT.parent / "shared" / "bench"
ENVIRONMENTS = PROJECT_ROOT / ".local" / "bench"
PINS = Path(__file__).parent / "pinned"
Process = subprocess.Popen[bytes]
OTHER_PYTHONS = ("python3.12", "python3.11", "python3.10")


class PeerMissing(Exception):
    """The peer cannot be run here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """`arguments` may hold brokers, topic, dead, database, table, group, folder and limit.

    `part` of the log is enough: a slow one would take minutes for all of it.
    """

    name: str
    arguments: tuple[str, ...]
    job: Path | None = None  # None: a module of ours, in our own environment
    pins: Path | None = None
    part: float = 1.0
    note: str = ""


QUIXSTREAMS = Peer(
    "quixstreams",
    (
        *("--brokers", "{brokers}", "--topic", "{topic}", "--dlq", "{dead}", "--pg", "{database}"),
        *("--table", "{table}", "--group", "{group}", "--limit", "{limit}"),
    ),
    JOBS / "quix_job.py",
    PINS / "quixstreams.txt",
    note="windows of power alone; state on disk and in a changelog topic",
)
BYTEWAX = Peer(
    "bytewax",
    (
        *("--brokers", "{brokers}", "--topic", "{topic}", "--dlq", "{dead}", "--pg", "{database}"),
        *("--table", "{table}", "--eof"),
    ),
    JOBS / "bytewax_job.py",
    PINS / "bytewax.txt",
    note="windows of power alone; keeps no state on disk",
)
_FAUST = (
    *("-m", "infra.bench.stock_faust"),
    *("--brokers", "{brokers}", "--topic", "{topic}", "--pg", "{database}", "--table", "{table}"),
    *("--group", "{group}", "--limit", "{limit}", "--folder", "{folder}"),
)
STOCK_FAUST = Peer(
    "stock Faust",
    (*_FAUST, "--state", "memory"),
    part=0.2,
    note="windows of power alone; keeps no state on disk",
)
STOCK_FAUST_TABLE = Peer(
    "stock Faust, Table",
    (*_FAUST, "--state", "table"),
    part=0.03,
    note="windows of power alone; state in a changelog topic",
)
PEERS = (QUIXSTREAMS, BYTEWAX, STOCK_FAUST, STOCK_FAUST_TABLE)


def interpreter(peer: Peer, progress: Progress) -> Path:
    """The Python of the peer's environment, made if need be. Raises PeerMissing."""
    if peer.job is None or peer.pins is None:
        return Path(sys.executable)
    if not peer.job.exists():
        raise PeerMissing(f"left out: {peer.job.name} is missing in ../shared/bench")
    folder = ENVIRONMENTS / peer.name
    python, stamp = folder / "bin" / "python", folder / "pins"
    wanted = hashlib.sha256(peer.pins.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    progress(f"installing {peer.name} into an environment of its own")
    found = [path for name in OTHER_PYTHONS if (path := shutil.which(name))]
    said: list[str] = []
    for one in (sys.executable, *found):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _run([one, "-m", "venv", str(folder)])
            install = ("-m", "pip", "install", "--quiet", "--only-binary=:all:")
            _run([str(python), *install, "--requirement", str(peer.pins)])
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            continue
        stamp.write_text(wanted)
        return python
    raise PeerMissing(f"left out: {peer.name} cannot be installed: {''.join(said)}")


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def measure(stack: Stack, log: Log, peer: Peer, progress: Progress, *, timeout_s: float) -> Taken:
    """Run a peer from the begin of its topic; a row without figures where it is missing.

    Its CPU is that of the stretch whose length it tells. Raises PeerFailed.
    """
    try:
        python = interpreter(peer, progress)
    except PeerMissing as error:
        progress(str(error))
        return Taken(peer.name, {}, str(error))
    run = uuid.uuid4().hex[:8]
    limit = max(1, round(log.readings * peer.part))
    filled = {
        "brokers": stack.kafka_bootstrap,
        "topic": PEER_TOPIC,
        "dead": PEER_DEAD_LETTERS,
        "database": stack.database_url,
        "table": f"peer_{run}",
        "group": f"peer-{run}",
        "folder": str(stack.settings.state_dir / f"peer-{run}"),
        "limit": str(limit),
    }
    command = [str(python), *([str(peer.job)] if peer.job else [])]
    command += [argument.format_map(filled) for argument in peer.arguments]
    settle(stack)
    output = stack.log_dir / f"{peer.name.replace(' ', '-')}.log"
    with (
        output.open("wb") as errors,
        _ended(command, errors, timeout_s) as process,
        CpuLog(server_clocks(stack) | {"job": of_process(process.pid)}) as cpu,
    ):
        told = _told(process)
        ended_s = time.monotonic()
    if told is None:
        raise PeerFailed(f"{peer.name} told nothing: {output.read_text()[-2000:]}")
    readings, seconds = told["messages"], told["seconds"]
    used = cpu.used_s(ended_s - seconds, ended_s)
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        windows = conn.execute(f"SELECT count(*) FROM {filled['table']}").fetchone()
        conn.execute(f"DROP TABLE {filled['table']}")
    note = f"{peer.note}; {readings:,.0f} readings" if peer.part < 1 else peer.note
    assert windows is not None
    return Taken(
        peer.name,
        {
            "readings_per_s": readings / seconds,
            "cpu_us_per_reading": used["job"] / readings * 1e6,
            "postgres_us_per_reading": used["postgres"] / readings * 1e6,
            "kafka_us_per_reading": used["kafka"] / readings * 1e6,
            "windows_stored": windows[0],
        },
        note,
    )


class PeerFailed(Exception):
    """A peer ended without its line, or took too long; the text ends with what it said."""


@contextlib.contextmanager
def _ended(command: list[str], errors: BinaryIO, timeout_s: float) -> Iterator[Process]:
    """The process, which is gone after the block, or after the timeout."""
    process = subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    alarm = threading.Timer(timeout_s, process.kill)
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()


def _told(process: Process) -> dict[str, float] | None:
    """The JSON line with which a job tells its rate; None when it ends without."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and "seconds" in told:
                return told
    return None
