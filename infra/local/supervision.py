"""supervisord for one stack: its settings file, its start, and calls over its unix socket."""

import hashlib
import http.client
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.errors import StackError

# A unix socket's path has at most 108 bytes; supervisor makes `<path>.<pid>` first.
LONGEST_SOCKET_PATH = 90
LEAST_OPEN_FILES = 65_536  # Mosquitto with thousands of nodes
BAD_NAME, ALREADY_STARTED, NOT_RUNNING = 10, 60, 70  # its fault codes


@dataclass(frozen=True)
class Supervised:
    """A process as supervisord shall run it."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    priority: int
    stop_signal: str
    stop_wait_s: int
    autostart: bool


class Supervisor:
    """The supervisord of the stack whose data lies in `state_dir`."""

    def __init__(self, state_dir: Path, directory: Path) -> None:
        self._state_dir = state_dir
        self._directory = directory
        self.log_dir = state_dir / "logs"
        self._config = state_dir / "supervisor" / "supervisord.conf"
        self._socket = _short_path(state_dir / "supervisor" / "supervisord.sock")

    def configure(self, processes: Sequence[Supervised]) -> None:
        """Write the settings file; a running supervisord reads it at `reload`."""
        for folder in (self._config.parent, self.log_dir, self._socket.parent):
            _make_private(folder)
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = LEAST_OPEN_FILES if most_files == resource.RLIM_INFINITY else most_files
        lines = [
            "; Written by `meterstream up`.",
            "[unix_http_server]",
            f"file={_escaped(str(self._socket))}",
            "chmod=0600",
            "[supervisord]",
            f"pidfile={_escaped(str(self._config.with_name('supervisord.pid')))}",
            f"logfile={_escaped(str(self.log_dir / 'supervisord.log'))}",
            "logfile_maxbytes=1MB",
            "logfile_backups=1",
            f"childlogdir={_escaped(str(self.log_dir))}",
            f"directory={_escaped(str(self._directory))}",
            f"minfds={min(files, LEAST_OPEN_FILES)}",
            *(["user=root"] if os.geteuid() == 0 else []),
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for process in processes:
            environment = ",".join(
                f'{key}="{_escaped(value)}"' for key, value in process.environment.items()
            )
            lines += [
                f"[program:{process.name}]",
                f"command={_escaped(shlex.join(process.command))}",
                f"environment={environment}",
                f"directory={_escaped(str(self._directory))}",
                f"priority={process.priority}",
                f"autostart={str(process.autostart).lower()}",
                # launch.py spaces and counts the starts, so that retries stay quick for ever.
                "autorestart=true",
                "startsecs=0",
                f"stopsignal={process.stop_signal}",
                f"stopwaitsecs={process.stop_wait_s}",
                "killasgroup=true",
                "redirect_stderr=true",
                f"stdout_logfile={_escaped(str(self.log_of(process.name)))}",
                "stdout_logfile_maxbytes=10MB",
                "stdout_logfile_backups=3",
            ]
        draft = self._config.with_suffix(".new")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self._config)

    def start(self) -> None:
        """Start supervisord in the background; it outlives the caller."""
        done = subprocess.run(
            # Its pkg_resources is deprecated, and nothing to do with us.
            [
                *(sys.executable, "-W", "ignore", "-m", "supervisor.supervisord"),
                "-c",
                str(self._config),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"supervisord does not start: {done.stdout}{done.stderr}".strip())

    def pid(self) -> int | None:
        """supervisord's own process id; None if it does not run."""
        try:
            return int(self.call("supervisor.getPID"))
        except OSError:
            return None

    def processes(self) -> list[dict[str, Any]]:
        """What supervisord knows of each process (`getAllProcessInfo`); empty if it is down."""
        try:
            return list(self.call("supervisor.getAllProcessInfo"))
        except OSError:
            return []

    def start_process(self, name: str) -> bool:
        """Start a process. False if it runs already."""
        return self._command("supervisor.startProcess", name, ALREADY_STARTED)

    def stop_process(self, name: str) -> None:
        """Stop a process and wait for it; one that is stopped already is left alone."""
        self._command("supervisor.stopProcess", name, NOT_RUNNING)

    def reload(self) -> None:
        """Take over added programs from the settings file; those that run are not touched."""
        added, _changed, _removed = self.call("supervisor.reloadConfig")[0]
        for name in added:
            self.call("supervisor.addProcessGroup", name)

    def shutdown(self) -> None:
        """Ask supervisord to stop everything, the last started first, and then itself."""
        self.call("supervisor.shutdown")

    def kill(self) -> list[int]:
        """`kill -9` of supervisord and all its processes; returns their ids."""
        pid = self.pid()
        if pid is None:
            return []
        # It goes first: it would start the others again.
        every = [pid, *(int(info["pid"]) for info in self.processes() if info["pid"])]
        for one in every:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._socket.unlink(missing_ok=True)
        return every

    def log_of(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def call(self, method: str, *arguments: Any) -> Any:
        """One XML-RPC call. Raises OSError if supervisord does not run."""
        transport = _UnixTransport(self._socket)
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy, method)(*arguments)

    def _command(self, method: str, name: str, harmless: int) -> bool:
        """One call about one process. False if it had nothing to do, as `harmless` says."""
        try:
            self.call(method, name)
            return True
        except OSError as error:
            raise StackError("the stack is not running; start it with `meterstream up`") from error
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == BAD_NAME:
                raise StackError(f"this stack has no process {name}") from fault
            if fault.faultCode != harmless:
                raise StackError(f"{name}: {fault.faultString}") from fault
            return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # where `close` looks for it
        return connection


def _short_path(path: Path) -> Path:
    """The path itself, or one in the system's temporary folder that stands for it."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"meterstream-{os.geteuid()}" / f"{name}.sock"


def _make_private(folder: Path) -> None:
    """Make a folder that only we may enter. Raises StackError if another user has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        raise StackError(f"{folder} belongs to another user; remove it")


def _escaped(text: str) -> str:
    """A value as supervisord reads it: it expands `%(name)s`.

    Raises StackError for what it would take for the end of the value.
    """
    for end in ('"', "\n", " ;", " #"):
        if end in text:
            raise StackError(f"{end!r} cannot stand in supervisord's settings, as in {text!r}")
    return text.replace("%", "%%")
