"""The programs of a stack, as a table: what runs, where it listens, how it stops."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.local.settings import StackSettings


@dataclass(frozen=True)
class Program:
    """One program that the supervisor keeps.

    `command` and `environment` may name settings in braces (`{database_port}`).
    `account` is the Debian account a server runs as in the sandbox; None is a process of ours.
    `ports` and `metrics_port` name fields of StackSettings; of several instances number n has
    `metrics_port + n`, and its number in METERSTREAM_INSTANCE.
    Lower priorities start first and stop last.
    """

    name: str
    command: tuple[str, ...]
    priority: int
    stop_signal: str = "TERM"
    stop_wait_s: int = 20
    account: str | None = None
    config_dir: str | None = None  # of infra/, seen by a server as /run/meterstream
    ports: tuple[str, ...] = ()
    metrics_port: str | None = None
    instances: str | None = None  # names a field of StackSettings; None is one
    environment: Mapping[str, str] = field(default_factory=dict)


TIMESCALE = Program(
    name="timescale",
    account="postgres",
    config_dir="timescale",
    command=(
        "/usr/lib/postgresql/17/bin/postgres",
        "-D",
        "/srv/data",
        "-c",
        "config_file=/run/meterstream/postgresql.conf",
        "-c",
        "port={database_port}",
    ),
    ports=("database_port",),
    priority=10,
    stop_signal="INT",  # PostgreSQL's fast shutdown: clients are cut, the data is flushed
    stop_wait_s=60,
)
KAFKA = Program(
    name="kafka",
    account="daemon",
    config_dir="kafka",
    command=(
        "/usr/bin/java",
        "-Xms512m",
        "-Xmx512m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=50",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:SharedArchiveFile=/run/classes/kafka.jsa",  # starts in half the time
        "-Xlog:cds=off",
        "-Xlog:cds+dynamic=off",
        "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=/run/meterstream/log4j2.properties",
        "{kafka_jvm_options}",
        "-cp",
        "/run/kafka/*",
        "kafka.Kafka",
        "/srv/server.properties",
    ),
    ports=("kafka_port", "kafka_controller_port"),
    priority=20,
    stop_wait_s=30,
)
MOSQUITTO = Program(
    name="mosquitto",
    account="mosquitto",
    config_dir="mosquitto",
    command=("/usr/sbin/mosquitto", "-c", "/run/meterstream/mosquitto.conf"),
    ports=("mqtt_port", "mqtt_tls_port"),
    priority=30,
)
SERVERS = (TIMESCALE, KAFKA, MOSQUITTO)

OWN = (
    Program(
        name="uplink",
        command=(sys.executable, "-m", "ingest"),
        metrics_port="uplink_metrics_port",
        priority=40,
    ),
    Program(
        name="worker",
        command=(sys.executable, "-m", "streams"),
        metrics_port="worker_metrics_port",
        instances="workers",
        priority=50,
    ),
    Program(
        name="rollup",
        command=(sys.executable, "-m", "streams.rollup"),
        metrics_port="rollup_metrics_port",
        priority=60,
    ),
    Program(
        name="cost",
        command=(sys.executable, "-m", "streams.cost"),
        metrics_port="cost_metrics_port",
        priority=65,
    ),
    Program(
        name="billing",
        command=(sys.executable, "-m", "streams.billing"),
        metrics_port="billing_metrics_port",
        priority=66,
    ),
    Program(
        name="poller",
        command=(sys.executable, "-m", "ingest.poller"),
        metrics_port="poller_metrics_port",
        environment={"METERSTREAM_POLLER_SECRETS_DIR": "{state_dir}/secrets"},
        priority=67,
    ),
    Program(
        name="presence",
        command=(sys.executable, "-m", "streams.presence"),
        metrics_port="presence_metrics_port",
        priority=67,
    ),
    Program(
        name="commands",
        command=(sys.executable, "-m", "streams.commands"),
        metrics_port="commands_metrics_port",
        priority=68,
    ),
    Program(
        name="downlink",
        command=(sys.executable, "-m", "ingest.downlink"),
        metrics_port="downlink_metrics_port",
        priority=69,
    ),
    Program(
        name="api",
        command=(sys.executable, "-m", "api"),
        ports=("api_port",),
        priority=70,
    ),
)
ALL = SERVERS + OWN

SIMULATOR = Program(  # of `make run` only
    name="simulator",
    command=(sys.executable, "-m", "infra.simulator", "--devices", "50"),
    priority=80,
)
SWITCHES = Program(  # the same
    name="switches",
    command=(sys.executable, "-m", "infra.switches"),
    priority=81,
)


@dataclass(frozen=True)
class Instance:
    """One process of a program: its name for the supervisor, and its number."""

    name: str
    program: Program
    number: int

    def ports(self, settings: StackSettings) -> dict[int, str]:
        """The ports this process listens on, each with the setting that moves it."""
        named = {getattr(settings, field): field for field in self.program.ports}
        if self.program.metrics_port is not None:
            first = getattr(settings, self.program.metrics_port)
            named[first + self.number] = self.program.metrics_port
        return named

    def environment(self, settings: StackSettings) -> dict[str, str]:
        """What this process has in its environment beside the stack's addresses."""
        own = {key: _filled(value, settings) for key, value in self.program.environment.items()}
        if self.program.metrics_port is not None:
            port = getattr(settings, self.program.metrics_port) + self.number
            own["METERSTREAM_METRICS_PORT"] = str(port)
        if self.program.instances is not None:
            own["METERSTREAM_INSTANCE"] = str(self.number)
        return own

    def command(self, settings: StackSettings) -> list[str]:
        """The command with the settings filled in; one for several options is several words."""
        words: list[str] = []
        for word in self.program.command:
            filled = _filled(word, settings)
            words += filled.split() if "_options}" in word else [filled]
        return words


def instances(program: Program, settings: StackSettings) -> list[Instance]:
    """The processes of a program: `worker`, or `worker-0`, `worker-1`, … if there are several."""
    count = 1 if program.instances is None else getattr(settings, program.instances)
    if count == 1:
        return [Instance(program.name, program, 0)]
    return [Instance(f"{program.name}-{number}", program, number) for number in range(count)]


def _filled(text: str, settings: StackSettings) -> str:
    return text.format_map(settings.model_dump()) if "{" in text else text
