"""A whole stack: start it, stop it, look at it.

from infra.local import StackSettings, start

stack = start(StackSettings.free(tmp_path))  # the three servers, with ports of their own
...
stack.wipe()                                 # ended at once, and its data removed
"""

import fcntl
import json
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from infra.local import broker, class_archive, servers
from infra.local import parts as local_parts
from infra.local.errors import NotReady, PortTaken, StackError
from infra.local.launch import __file__ as launch_file
from infra.local.parts import Parts, Progress, remove_tree
from infra.local.programs import (
    ALL,
    KAFKA,
    MOSQUITTO,
    SERVERS,
    TIMESCALE,
    Instance,
    Program,
    instances,
)
from infra.local.sandbox import sandboxed
from infra.local.settings import PROJECT_ROOT, StackSettings, is_free
from infra.local.supervision import Supervised, Supervisor

READY_TIMEOUT_S = 180.0
LAUNCH_TIMEOUT_S = 60.0
KILLED_WITHIN_S = 60.0
MOST_STARTS = 5  # of a server that should come up
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class ProcessStatus:
    """One process of the stack.

    `state` is the supervisor's word in lower case: running, stopped, exited, …; or `absent` when
    the supervisor does not know the process. `pid` is the supervised one; `restarts` counts
    since the last `up`; `port` is the first it listens on; `detail` explains a state that is not
    running.
    """

    name: str
    state: str
    pid: int | None
    uptime_s: float | None
    restarts: int
    port: int | None
    detail: str

    def document(self) -> dict[str, str | int | float | None]:
        """As JSON shows it."""
        return asdict(self)


def silent(_text: str) -> None:
    """Tell nobody about progress."""


class Stack:
    """The local stack of some settings; making one starts nothing.

    `environments` has what single processes find in their environment in place of, or beside, the
    stack's addresses.
    """

    def __init__(
        self,
        settings: StackSettings,
        programs: Sequence[Program] = ALL,
        environments: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.settings = settings
        self._environments = environments or {}
        self._programs = tuple(programs)
        self._known = (*ALL, *(program for program in programs if program not in ALL))
        self._state_dir = settings.state_dir.absolute()
        self._run_dir = self._state_dir / "run"
        self._supervisor = Supervisor(self._state_dir, PROJECT_ROOT)

    # ---- addresses ----

    @property
    def mqtt_port(self) -> int:
        return self.settings.mqtt_port

    @property
    def kafka_bootstrap(self) -> str:
        return servers.kafka_bootstrap(self.settings)

    @property
    def database_url(self) -> str:
        """Our database; the role is a superuser and needs no password."""
        return servers.database_url(self.settings)

    @property
    def log_dir(self) -> Path:
        return self._supervisor.log_dir

    def environment(self) -> dict[str, str]:
        """What a process of ours needs in its environment to find this stack."""
        return {
            "METERSTREAM_MQTT_HOST": "127.0.0.1",
            "METERSTREAM_MQTT_PORT": str(self.mqtt_port),
            "METERSTREAM_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "METERSTREAM_DATABASE_URL": self.database_url,
            "METERSTREAM_API_PORT": str(self.settings.api_port),
            "METERSTREAM_API_TOKEN_FILE": str(self.token_file),
            "METERSTREAM_STATE_DIR": str(self._state_dir),
        }

    @property
    def token_file(self) -> Path:
        """Holds the bearer token of this stack's API; `up` makes one, for the owner's eyes only."""
        return self._state_dir / "api-token"

    # ---- up and down ----

    def up(self, progress: Progress = silent) -> bool:
        """Start what is not running and wait until it answers. False if all was up already.

        When processes of ours are among the programs, with Kafka and the database, topics and
        tables are brought up to date before these start (`prepare`).

        Raises PortTaken, NotReady or MissingTools; what has started stays up for a look at it.
        """
        wanted = [one for program in self._programs for one in instances(program, self.settings)]
        with self._locked():
            if self._all_running(wanted):
                return False
            built = local_parts.ensure(self.settings.parts_dir, progress)
            if KAFKA in self._programs:
                class_archive.ensure(built, progress)
            known = {info["name"] for info in self._supervisor.processes()}
            new = [one for one in wanted if one.name not in known]
            self._wait_for_leftovers(new)
            self._check_ports(new)
            self._lay_out(new, built, progress)
            every = [
                one
                for program in self._known
                for one in instances(program, self.settings)
                if one in wanted or one.name in known
            ]
            self._supervisor.configure([self._supervised(one, built) for one in every])
            if known:
                self._supervisor.reload()
            else:
                self._supervisor.start()
            wanted_servers = [one for one in wanted if one.program.account is not None]
            for one in wanted_servers:
                if one.program == MOSQUITTO and one in new and TIMESCALE in self._programs:
                    self._write_accounts(progress)
                self._start_process(one.name)
            for one in wanted_servers:
                self._wait_ready(one, progress)
            own = [one for one in wanted if one.program.account is None]
            if own and {KAFKA.name, TIMESCALE.name} <= {one.name for one in wanted}:
                self.prepare(progress)
            for one in own:
                progress(f"starting {one.name}")
                self._start_process(one.name)
            return True

    def prepare(self, progress: Progress = silent) -> None:
        """Create the topics and bring the database's tables up to date."""
        from infra.local.topics import create_topics
        from sinks.migrate import migrate

        progress("creating topics")
        create_topics(self.kafka_bootstrap)
        progress("migrating the database")
        migrate(self.database_url)

    def down(self, progress: Progress = silent) -> bool:
        """Stop everything cleanly, servers last. False if nothing was running."""
        with self._locked():
            return self._down(progress)

    def wipe(self, progress: Progress = silent) -> None:
        """End everything at once and remove the stack's data and logs."""
        if not self._state_dir.exists():
            return
        with self._locked():
            self._kill(progress)
            progress(f"removing {self._state_dir}")
            for path in list(self._state_dir.iterdir()):
                if path.is_dir():
                    remove_tree(path)
                elif path.name != "lock":
                    path.unlink()

    # ---- single processes ----

    def status(self) -> list[ProcessStatus]:
        """Every process of this stack's programs, and those that run beside them."""
        infos = {info["name"]: info for info in self._supervisor.processes()}
        every = self._every()
        mine = {program.name for program in self._programs}
        return [
            self._status(one, infos.get(one.name))
            for one in every
            if one.program.name in mine or one.name in infos
        ]

    def pid(self, name: str) -> int:
        """The supervised process: killing it kills a server with its sandbox.

        Raises StackError if the process does not run.
        """
        for info in self._supervisor.processes():
            if info["name"] == name and info["pid"]:
                return int(info["pid"])
        raise StackError(f"{name} is not running")

    def server_pid(self, name: str) -> int:
        """The server inside the sandbox, for signals that the sandbox would not pass on (STOP)."""
        self.pid(name)
        record = self._record(name)
        if "server_pid" not in record:
            raise StackError(f"{name} is not a server, or is just starting")
        return int(record["server_pid"])

    def restart(self, name: str) -> None:
        """Stop and start one process; a server answers again when this returns."""
        self._supervisor.stop_process(name)
        self.start_process(name)

    def restart_broker(self) -> None:
        """Stop Mosquitto and start it with the accounts of the database; sessions stay."""
        self._supervisor.stop_process(MOSQUITTO.name)
        broker.write_accounts(self.settings, self.database_url)
        self.start_process(MOSQUITTO.name)

    def stop_process(self, name: str) -> None:
        """Stop one process and keep it down; one that is down is left alone."""
        self._supervisor.stop_process(name)

    def start_process(self, name: str) -> None:
        """Start one process; a server answers when this returns."""
        self._start_process(name)
        self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Wait until a server answers, for instance after a kill. Raises NotReady."""
        for program in SERVERS:
            if program.name == name:
                self._wait_ready(Instance(name, program, 0), silent)

    # ---- inside ----

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._state_dir / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _all_running(self, wanted: Sequence[Instance]) -> bool:
        infos = {info["name"]: info for info in self._supervisor.processes()}
        if not infos:
            return False
        running = self._stored_settings()
        now = self._own_settings()
        if running is not None and running != now:
            changed = sorted(key for key in now if running.get(key) != now[key])
            raise StackError(
                "the stack runs with other settings ("
                + ", ".join(f"{StackSettings.variable(key)}={running.get(key)}" for key in changed)
                + "); stop it with `meterstream down` first"
            )
        return all(infos.get(one.name, {}).get("statename") == "RUNNING" for one in wanted)

    def _check_ports(self, new: Sequence[Instance]) -> None:
        for one in new:
            for port, field in one.ports(self.settings).items():
                if not is_free(port):
                    raise PortTaken(
                        f"port {port} ({one.name}) is taken by another program; stop that one, "
                        f"or choose another port with {StackSettings.variable(field)}"
                    )

    def _lay_out(self, new: Sequence[Instance], built: Parts, progress: Progress) -> None:
        """Make folders and first data of processes that supervisord does not know yet."""
        self._run_dir.mkdir(exist_ok=True)
        for one in new:
            (self._run_dir / f"{one.name}.json").unlink(missing_ok=True)
            if one.program.account is not None:
                (self._state_dir / one.name).mkdir(exist_ok=True, mode=0o700)
                progress(f"preparing {one.name}")
                servers.PREPARE[one.name](self.settings, built)
        (self._state_dir / "settings.json").write_text(json.dumps(self._own_settings()))
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600)
            self.token_file.write_text(secrets.token_urlsafe(48))

    def _write_accounts(self, progress: Progress) -> None:
        """Let the broker begin with the accounts of the database."""
        self._wait_ready(Instance(TIMESCALE.name, TIMESCALE, 0), progress)
        broker.write_accounts(self.settings, self.database_url)

    def _supervised(self, one: Instance, built: Parts) -> Supervised:
        program = one.program
        command = one.command(self.settings)
        if program.account is not None:
            assert program.config_dir is not None
            command = sandboxed(
                command,
                parts=built,
                account=program.account,
                config_dir=program.config_dir,
                state=self._state_dir / one.name,
            )
        launch = [
            *(sys.executable, "-I", launch_file, "--run-dir", str(self._run_dir)),
            *("--name", one.name, "--stop-signal", program.stop_signal),
            *(["--sandbox"] if program.account is not None else []),
            "--",
        ]
        return Supervised(
            name=one.name,
            command=[*launch, *command],
            environment={
                **self.environment(),
                **one.environment(self.settings),
                **broker.environment(self.settings, program.name),
                **self._environments.get(one.name, {}),
                "PYTHONUNBUFFERED": "1",
            },
            priority=program.priority,
            stop_signal=program.stop_signal,
            stop_wait_s=program.stop_wait_s,
            autostart=program.account is not None and program != MOSQUITTO,  # `_write_accounts`
        )

    def _start_process(self, name: str) -> None:
        """Start a process, and wait until it is more than a copy of supervisord.

        Such a copy takes a signal to stop, and loses it.
        """
        before = self._starts(name)
        started = self._supervisor.start_process(name)
        if not servers.wait_until(
            lambda: self._starts(name) > (before if started else 0),
            timeout_s=LAUNCH_TIMEOUT_S,
            interval_s=0.02,
        ):
            log = self._supervisor.log_of(name)
            raise NotReady(f"{name} does not start; the end of {log}:\n{_tail(log)}")

    def _wait_ready(self, one: Instance, progress: Progress) -> None:
        progress(f"waiting for {one.name}")
        answers = servers.ANSWERS[one.name]
        first = self._starts(one.name)

        def settled() -> bool:
            return answers(self.settings) or self._starts(one.name) - first >= MOST_STARTS

        servers.wait_until(settled, timeout_s=READY_TIMEOUT_S)
        if not answers(self.settings):
            log = self._supervisor.log_of(one.name)
            raise NotReady(
                f"{one.name} does not answer on port {next(iter(one.ports(self.settings)))}; "
                f"the end of {log}:\n{_tail(log)}"
            )

    def _wait_for_leftovers(self, new: Sequence[Instance]) -> None:
        """Wait for processes of a supervisor that was killed: they stop by themselves."""
        for one in new:
            if not self._gone(one):
                raise StackError(
                    f"{one.name} of an earlier run is still stopping; see `ps -ef`, or try again"
                )

    def _gone(self, one: Instance) -> bool:
        """Whether no process holds the lock of this one, waiting for it to stop."""
        lock = self._run_dir / f"{one.name}.lock"
        if not lock.exists():
            return True

        def free() -> bool:
            with lock.open("w") as held:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

        return servers.wait_until(free, timeout_s=one.program.stop_wait_s)

    def _kill(self, progress: Progress) -> None:
        progress("stopping")
        killed = self._supervisor.kill()
        servers.wait_until(lambda: not any(map(_is_alive, killed)), timeout_s=KILLED_WITHIN_S)
        self._wait_for_leftovers(self._every())

    def _every(self) -> list[Instance]:
        return [one for program in self._known for one in instances(program, self.settings)]

    def _down(self, progress: Progress) -> bool:
        pid = self._supervisor.pid()
        every = self._every()
        if pid is not None:
            progress("stopping")
            self._supervisor.shutdown()
            longest_s = sum(one.program.stop_wait_s for one in every) + 10
            if not servers.wait_until(
                lambda: not _is_alive(pid), timeout_s=longest_s, interval_s=0.05
            ):
                raise StackError(f"supervisord (pid {pid}) is still stopping after {longest_s} s")
        self._wait_for_leftovers(every)
        return pid is not None

    def _status(self, one: Instance, info: dict[str, object] | None) -> ProcessStatus:
        port = next(iter(one.ports(self.settings)), None)
        if info is None:
            return ProcessStatus(one.name, "absent", None, None, 0, port, "")
        state = str(info["statename"]).lower()
        running = state == "running"
        uptime_s = float(str(info["now"])) - float(str(info["start"])) if running else None
        return ProcessStatus(
            name=one.name,
            state=state,
            pid=int(str(info["pid"])) or None,
            uptime_s=uptime_s,
            restarts=max(0, self._starts(one.name) - 1),
            port=port,
            detail="" if running else str(info["spawnerr"] or info["description"]),
        )

    def _record(self, name: str) -> dict[str, float]:
        """What launch.py noted of a process."""
        try:
            record: dict[str, float] = json.loads((self._run_dir / f"{name}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record

    def _starts(self, name: str) -> int:
        return int(self._record(name).get("starts", 0))

    def _own_settings(self) -> dict[str, int]:
        """The settings that a running stack cannot change."""
        return self.settings.model_dump(mode="json", exclude={"state_dir", "parts_dir"})

    def _stored_settings(self) -> dict[str, int] | None:
        try:
            stored: dict[str, int] = json.loads((self._state_dir / "settings.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return stored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.wipe()


def start(
    settings: StackSettings,
    programs: Sequence[Program] = SERVERS,
    progress: Progress = silent,
) -> Stack:
    """A running stack of these programs: the three servers, unless told otherwise.

    As a context manager it is wiped at the end.
    """
    stack = Stack(settings, programs)
    stack.up(progress)
    return stack


def _is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _tail(log: Path) -> str:
    if not log.exists():
        return "(empty)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
