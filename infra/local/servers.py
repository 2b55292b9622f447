"""The three servers: what each needs before its first start, and when it truly answers."""

import base64
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from infra.local import broker
from infra.local.errors import StackError
from infra.local.parts import Parts, remove_tree
from infra.local.programs import KAFKA, MOSQUITTO, TIMESCALE, Program
from infra.local.sandbox import sandboxed
from infra.local.settings import PROJECT_ROOT, StackSettings

DATABASE = "meterstream"
ROLE = "meterstream"


def database_url(settings: StackSettings, database: str = DATABASE) -> str:
    return f"postgresql://{ROLE}@127.0.0.1:{settings.database_port}/{database}"


def kafka_bootstrap(settings: StackSettings) -> str:
    return f"127.0.0.1:{settings.kafka_port}"


# ---- before the first start ----


def prepare_timescale(settings: StackSettings, parts: Parts) -> None:
    """Make the database cluster, once.

    Our role is the cluster's superuser, as in the Docker image: migrations make the extension
    and roles with it. There is no password (`trust`): the port is on the loopback address, and
    whoever may connect to it on this machine could as well read the files. Not for a machine
    with other users.
    """
    state = settings.state_dir / TIMESCALE.name
    if (state / "data").is_dir():
        return
    remove_tree(state / "data.new")
    _run_in_sandbox(
        TIMESCALE,
        [
            "/usr/lib/postgresql/17/bin/initdb",
            "--pgdata=/srv/data.new",
            f"--username={ROLE}",
            "--encoding=UTF8",
            "--locale-provider=builtin",  # sorts the same on every machine and image
            "--locale=C.UTF-8",
            "--auth=trust",
            "--data-checksums",
        ],
        settings,
        parts,
    )
    (state / "data.new").rename(state / "data")


def prepare_kafka(settings: StackSettings, parts: Parts) -> None:
    """Write the settings with this stack's ports, and format the log folder, once."""
    state = settings.state_dir / KAFKA.name
    broker, controller = settings.kafka_port, settings.kafka_controller_port
    shared = (PROJECT_ROOT / "infra" / "kafka" / "server.properties").read_text()
    (state / "server.properties").write_text(
        f"{shared}\n# This stack's own, written by `meterstream up`; the last line counts.\n"
        f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
        f"listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n"
        f"advertised.listeners=PLAINTEXT://127.0.0.1:{broker}\n"
    )
    formatted = state / "formatted"
    if formatted.exists():
        return
    remove_tree(state / "data")
    (state / "data").mkdir()
    _run_in_sandbox(
        KAFKA,
        [
            *("/usr/bin/java", "-XX:TieredStopAtLevel=1", "-cp", "/run/kafka/*"),
            *("-Dlog4j2.configurationFile=/run/meterstream/log4j2.properties",),
            *("kafka.tools.StorageTool", "format"),
            *("--cluster-id", _cluster_id(), "--config", "/srv/server.properties"),
        ],
        settings,
        parts,
    )
    formatted.touch()


PREPARE: dict[str, Callable[[StackSettings, Parts], None]] = {
    TIMESCALE.name: prepare_timescale,
    KAFKA.name: prepare_kafka,
    MOSQUITTO.name: broker.prepare,
}


def _run_in_sandbox(
    program: Program, command: list[str], settings: StackSettings, parts: Parts
) -> None:
    assert program.account is not None
    assert program.config_dir is not None
    done = subprocess.run(
        sandboxed(
            command,
            parts=parts,
            account=program.account,
            config_dir=program.config_dir,
            state=settings.state_dir / program.name,
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise StackError(f"{Path(command[0]).name} for {program.name} failed: {' / '.join(said)}")


def _cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes, base64, not like an option."""
    while True:
        text = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text


# ---- does it answer? ----


def timescale_answers(settings: StackSettings) -> bool:
    """Whether a query runs; makes our database if this is the first."""
    try:
        with psycopg.connect(
            database_url(settings, "postgres"), connect_timeout=2, autocommit=True
        ) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError:
        return False
    return True


def kafka_answers(settings: StackSettings) -> bool:
    """Whether the broker is in the metadata it gives out."""
    if not _listens(settings.kafka_port):
        return False  # librdkafka would wait, and log
    client = AdminClient(
        {
            "bootstrap.servers": kafka_bootstrap(settings),
            "socket.timeout.ms": 2000,
            "log_level": 0,
        }
    )
    try:
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def mosquitto_answers(settings: StackSettings) -> bool:
    """Whether an MQTT 5 CONNECT without a client id is accepted; where it takes an account, whether
    it is refused.
    """
    connect = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x00"  # clean start, keepalive 10 s
    disconnect = b"\xe0\x00"
    with contextlib.suppress(OSError):
        address = ("127.0.0.1", settings.mqtt_port)
        with socket.create_connection(address, timeout=2) as connection:
            connection.sendall(connect)
            answer = connection.recv(4)
            connection.sendall(disconnect)
            refused = answer[3:] == b"\x87"  # not authorized
            welcome = answer[3:] == b"\x00"
            return answer[:1] == b"\x20" and (welcome if settings.mqtt_anonymous else refused)
    return False


ANSWERS: dict[str, Callable[[StackSettings], bool]] = {
    TIMESCALE.name: timescale_answers,
    KAFKA.name: kafka_answers,
    MOSQUITTO.name: mosquitto_answers,
}


def wait_until(condition: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.1) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
