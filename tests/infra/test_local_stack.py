"""The local stack keeps its promises: real servers, killed and counted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from infra.local import Stack, StackError, StackSettings, parts, start
from infra.local.errors import MissingTools, NotReady, PartitionCountDiffers, PortTaken
from infra.local.programs import MOSQUITTO, SERVERS, Program
from infra.local.servers import wait_until
from infra.local.topics import create_topics
from schemas.topics import Topic

pytestmark = pytest.mark.stack

BACK_WITHIN_S = 30.0
NAMES = [program.name for program in SERVERS]


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[StackSettings]:
    """Settings of a stack that does not run yet; whatever a test starts there is wiped."""
    settings = StackSettings.free(tmp_path / "state")
    yield settings
    Stack(settings).wipe()


def cli(settings: StackSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `meterstream` as a person would, with the settings in the environment."""
    own = {
        StackSettings.variable(field): str(value) for field, value in settings.model_dump().items()
    }
    return subprocess.run(
        [Path(sys.executable).with_name("meterstream"), *arguments],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )


# ---- up, down, status ----


def test_a_second_up_does_nothing(stack: Stack):
    before = {name: stack.pid(name) for name in NAMES}
    said: list[str] = []
    assert start(stack.settings, progress=said.append).status()
    assert {name: stack.pid(name) for name in NAMES} == before
    assert said == []
    assert Stack(stack.settings, SERVERS).up() is False


def test_up_with_other_settings_is_refused_while_the_stack_runs(stack: Stack):
    other = stack.settings.model_copy(update={"api_port": 1})
    with pytest.raises(StackError, match="METERSTREAM_API_PORT"):
        Stack(other, SERVERS).up()


def test_a_taken_port_is_named_with_the_variable_that_moves_it(empty: StackSettings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", empty.mqtt_port))
        other.listen()
        with pytest.raises(PortTaken, match=rf"{empty.mqtt_port}.*METERSTREAM_MQTT_PORT"):
            start(empty, [MOSQUITTO])
    assert Stack(empty, [MOSQUITTO]).status()[0].state == "absent"


def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(empty: StackSettings):
    data = empty.state_dir / "mosquitto"
    data.mkdir(parents=True)
    (data / "mosquitto.db").write_bytes(b"this is no database of mosquitto")
    with pytest.raises(NotReady, match=r"(?s)mosquitto does not answer.*mosquitto\.log.*Error"):
        start(empty, [MOSQUITTO])


def test_stacks_run_side_by_side(stack: Stack, empty: StackSettings):
    second = start(empty, [MOSQUITTO])
    assert second.pid("mosquitto") != stack.pid("mosquitto")
    assert second.mqtt_port != stack.mqtt_port


def test_a_state_dir_too_long_for_a_socket_works(tmp_path: Path):
    settings = StackSettings.free(tmp_path / ("long" * 30))
    with start(settings, [MOSQUITTO]) as deep:
        assert deep.status()[0].state == "running"


def test_wipe_stops_everything_and_removes_the_data(empty: StackSettings):
    running = start(empty, [MOSQUITTO])
    pid = running.pid("mosquitto")
    running.wipe()
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=10)
    assert {path.name for path in empty.state_dir.iterdir()} <= {"lock"}
    assert running.down() is False


def test_down_keeps_the_data(empty: StackSettings):
    running = start(empty, [MOSQUITTO])
    publish_retained(running, b"kept")
    running.down()
    start(empty, [MOSQUITTO])
    assert read_retained(running) == b"kept"


def test_the_command_line_starts_reports_and_wipes(empty: StackSettings):
    done = cli(empty, "up", "--servers-only", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["started"] is True

    again = cli(empty, "up", "--servers-only")
    assert "already up" in again.stdout

    listed = json.loads(cli(empty, "status", "--json").stdout)
    states = {one["name"]: one["state"] for one in listed}
    assert states == {
        "timescale": "running",
        "kafka": "running",
        "mosquitto": "running",
        "uplink": "absent",
        "worker": "absent",
        "rollup": "absent",
        "cost": "absent",
        "billing": "absent",
        "poller": "absent",
        "presence": "absent",
        "commands": "absent",
        "downlink": "absent",
        "api": "absent",
    }
    kafka = next(one for one in listed if one["name"] == "kafka")
    assert kafka["port"] == empty.kafka_port
    assert kafka["restarts"] == 0
    assert 0 <= kafka["uptime_s"] < 120
    assert kafka["pid"] == Stack(empty).pid("kafka")

    assert cli(empty, "down", "--wipe").returncode == 0
    assert not (empty.state_dir / "kafka").exists()


def test_a_wrong_setting_is_one_line_on_stderr(empty: StackSettings):
    done = subprocess.run(
        [Path(sys.executable).with_name("meterstream"), "status"],
        env={**os.environ, "METERSTREAM_KAFKA_PORT": "many"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("meterstream: METERSTREAM_KAFKA_PORT=many: ")
    assert len(done.stderr.splitlines()) == 1


# ---- kills ----


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_comes_back_with_its_data(stack: Stack, name: str):
    write, read = WRITE[name], READ[name]
    value = os.urandom(8).hex().encode()
    write(stack, value)
    if name == "mosquitto":
        written_ns = time.time_ns()
        saved = stack.settings.state_dir / "mosquitto" / "mosquitto.db"
        assert wait_until(
            lambda: saved.exists() and saved.stat().st_mtime_ns > written_ns, timeout_s=60
        ), "it saves once a second"
    restarts = {one.name: one.restarts for one in stack.status()}[name]
    killed = stack.pid(name)
    server = stack.server_pid(name)

    os.kill(killed, signal.SIGKILL)

    assert wait_until(lambda: not Path(f"/proc/{server}").exists(), timeout_s=5)
    assert wait_until(lambda: pid_of(stack, name) not in (None, killed), timeout_s=BACK_WITHIN_S)
    stack.wait_ready(name)
    assert read(stack) == value
    assert {one.name: one.restarts for one in stack.status()}[name] == restarts + 1


def test_a_killed_supervisor_takes_its_servers_along_and_up_mends_it(empty: StackSettings):
    running = start(empty, [MOSQUITTO])
    publish_retained(running, b"kept")
    server = running.server_pid("mosquitto")
    supervisor = int((empty.state_dir / "supervisor" / "supervisord.pid").read_text())

    os.kill(supervisor, signal.SIGKILL)

    assert wait_until(lambda: not Path(f"/proc/{server}").exists(), timeout_s=10)
    assert Stack(empty, [MOSQUITTO]).up() is True
    assert read_retained(running) == b"kept"


def test_a_stopped_process_stays_down_until_it_is_started(stack: Stack):
    stack.stop_process("mosquitto")
    try:
        stack.stop_process("mosquitto")
        assert {one.name: one.state for one in stack.status()}["mosquitto"] == "stopped"
        with pytest.raises(StackError, match="mosquitto is not running"):
            stack.pid("mosquitto")
    finally:
        stack.start_process("mosquitto")
    before = stack.pid("mosquitto")
    stack.restart("mosquitto")
    assert stack.pid("mosquitto") != before


def test_an_unknown_process_is_named(stack: Stack):
    with pytest.raises(StackError, match="no process mosquito"):
        stack.stop_process("mosquito")


# ---- processes of ours ----

REPORT = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["METERSTREAM_STATE_DIR"])
number = os.environ["METERSTREAM_INSTANCE"]
(folder / f"seen-{number}.new").write_text(json.dumps(dict(os.environ)))
(folder / f"seen-{number}.new").rename(folder / f"seen-{number}.json")
time.sleep(600)
"""


@pytest.fixture
def probe(tmp_path: Path) -> Program:
    """A program like ours that writes its environment down, and then sleeps."""
    script = tmp_path / "probe.py"
    script.write_text(REPORT)
    return Program(
        name="probe",
        command=(sys.executable, str(script)),
        environment={"METERSTREAM_PROBE": "port {api_port}"},
        metrics_port="worker_metrics_port",
        instances="workers",
        priority=50,
    )


def test_our_processes_find_the_stack_in_their_environment(empty: StackSettings, probe: Program):
    settings = empty.model_copy(update={"workers": 2})
    running = start(settings, [MOSQUITTO, probe])
    assert [one.name for one in running.status()] == ["mosquitto", "probe-0", "probe-1"]
    second = settings.state_dir / "seen-1.json"
    assert wait_until(second.exists, timeout_s=10)
    seen = json.loads(second.read_text())
    assert seen["METERSTREAM_METRICS_PORT"] == str(settings.worker_metrics_port + 1)
    assert seen["METERSTREAM_PROBE"] == f"port {settings.api_port}"
    assert running.environment().items() <= seen.items()
    assert running.environment() == {
        "METERSTREAM_MQTT_HOST": "127.0.0.1",
        "METERSTREAM_MQTT_PORT": str(settings.mqtt_port),
        "METERSTREAM_KAFKA_BOOTSTRAP": f"127.0.0.1:{settings.kafka_port}",
        "METERSTREAM_DATABASE_URL": (
            f"postgresql://meterstream@127.0.0.1:{settings.database_port}/meterstream"
        ),
        "METERSTREAM_API_PORT": str(settings.api_port),
        "METERSTREAM_API_TOKEN_FILE": str(running.token_file),
        "METERSTREAM_STATE_DIR": str(settings.state_dir),
    }
    assert running.token_file.stat().st_mode & 0o777 == 0o600
    assert len(running.token_file.read_text()) >= 43  # 256 bits


def test_programs_join_a_stack_that_runs(empty: StackSettings, probe: Program):
    before = start(empty, [MOSQUITTO]).pid("mosquitto")
    both = Stack(empty, [MOSQUITTO, probe])
    assert both.up() is True
    assert [one.state for one in both.status()] == ["running", "running"]
    assert both.pid("mosquitto") == before


def test_a_process_that_dies_at_once_is_started_again_and_again_but_calmly(empty: StackSettings):
    dying = Program(name="dying", command=(sys.executable, "-c", "exit(1)"), priority=50)
    begun = time.monotonic()
    running = start(empty, [dying])
    assert wait_until(lambda: running.status()[0].restarts >= 4, timeout_s=30)
    assert running.status()[0].restarts <= time.monotonic() - begun + 1


def test_a_killed_process_of_ours_comes_back(empty: StackSettings, probe: Program):
    running = start(empty, [probe])
    assert wait_until((empty.state_dir / "seen-0.json").exists, timeout_s=60)
    killed = running.pid("probe")
    os.kill(killed, signal.SIGKILL)
    assert wait_until(lambda: running.status()[0].restarts == 1, timeout_s=5)
    assert pid_of(running, "probe") not in (None, killed)


# ---- parts ----


def test_a_missing_tool_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingTools) as caught:
        parts.ensure_tools(["bwrap", "mvn"], print)
    assert str(caught.value) == (
        "missing on this machine: bubblewrap, maven; run `sudo apt-get update && "
        "sudo apt-get install -y --no-install-recommends bubblewrap maven`, "
        "or use Docker: docker compose -f infra/compose.yaml up -d"
    )


def test_a_build_that_fails_leaves_nothing_and_one_that_was_killed_is_cleared(tmp_path: Path):
    target = tmp_path / "rootfs-1"
    killed = tmp_path / "rootfs-1.building-0"
    (killed / "half").mkdir(parents=True)

    def fail() -> None:
        with parts.building(target) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []

    with parts.building(target) as folder:
        (folder / "whole").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_another_recipe_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = parts.locate(tmp_path)
    monkeypatch.setattr(parts, "PACKAGES", (*parts.PACKAGES, "one-more"))
    after = parts.locate(tmp_path)
    assert after.rootfs != before.rootfs
    assert after.classes != before.classes
    assert after.kafka == before.kafka


# ---- who can reach it ----


def test_nothing_listens_beyond_loopback(stack: Stack):
    own = {
        stack.mqtt_port,
        stack.settings.mqtt_tls_port,
        stack.settings.kafka_port,
        stack.settings.kafka_controller_port,
        stack.settings.database_port,
    }
    listening = list(listening_sockets(processes_below(supervisor_of(stack))))
    assert {port for _, port in listening} == own
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_the_servers_see_no_files_of_the_host(stack: Stack):
    for name in NAMES:
        inside = Path(f"/proc/{stack.server_pid(name)}/root")
        assert not (inside / "home").exists() or not list((inside / "home").iterdir())
        with pytest.raises(OSError, match="Read-only file system"):
            (inside / "usr" / "written").touch()


# ---- settings of the servers that our promises rest on ----


def test_the_database_is_durable_and_can_have_timescale(stack: Stack):
    expected = {
        "synchronous_commit": "on",
        "fsync": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "jit": "off",
        "timescaledb.telemetry_level": "off",
        "shared_preload_libraries": "timescaledb",
    }
    with psycopg.connect(stack.database_url) as connection:
        for name, value in expected.items():
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            assert row == (value,), name
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        connection.rollback()


def test_topics_get_the_declared_partitions_and_settings_and_follow_the_table(stack: Stack):
    def topic(name: str, partitions: int, **config: str) -> Topic:
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        return Topic(
            name, key="device", summary="Of this test.", partitions=partitions, config=dotted
        )

    first = [
        topic("test.raw.v1", 3, retention_ms="604800000", max_message_bytes="3145728"),
        topic("test.state.v1", 1, cleanup_policy="compact"),
    ]
    create_topics(stack.kafka_bootstrap, topics=first)
    create_topics(stack.kafka_bootstrap, topics=first)
    assert partition_counts(stack, "test.raw.v1", "test.state.v1") == [3, 1]
    assert config_of(stack, "test.raw.v1") == {
        "retention.ms": "604800000",
        "max.message.bytes": "3145728",
    }
    assert config_of(stack, "test.state.v1") == {"cleanup.policy": "compact"}

    changed = [topic("test.raw.v1", 3, retention_ms="86400000"), first[1]]
    create_topics(stack.kafka_bootstrap, topics=changed)
    assert config_of(stack, "test.raw.v1") == {"retention.ms": "86400000"}

    wider = [topic("test.state.v1", 1), topic("test.raw.v1", 4), topic("test.new.v1", 1)]
    with pytest.raises(PartitionCountDiffers, match=r"test\.raw\.v1 has 3 partitions.*declares 4"):
        create_topics(stack.kafka_bootstrap, topics=wider)
    assert partition_counts(stack, "test.raw.v1", "test.new.v1") == [3, None]
    assert config_of(stack, "test.state.v1") == {"cleanup.policy": "compact"}


def test_kafka_makes_no_topic_by_itself(stack: Stack):
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    admin.list_topics("test.undeclared.v1", timeout=10)
    assert partition_counts(stack, "test.undeclared.v1") == [None]


# ---- helpers ----


def write_row(stack: Stack, value: bytes) -> None:
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value bytea)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def read_row(stack: Stack) -> bytes | None:
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
    return row[0] if row else None


def write_record(stack: Stack, value: bytes) -> None:
    create_topics(
        stack.kafka_bootstrap, topics=[Topic("test.kept.v1", key="-", summary="-", partitions=1)]
    )
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "acks": "all"})
    producer.produce("test.kept.v1", value)
    assert producer.flush(10) == 0


def read_record(stack: Stack) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": stack.kafka_bootstrap, "group.id": "test-kept"})
    try:
        consumer.assign([TopicPartition("test.kept.v1", 0, 0)])
        record = consumer.poll(20)
        assert record is not None
        assert record.error() is None
        value = record.value()
        assert value is None or isinstance(value, bytes)
        return value
    finally:
        consumer.close()


def publish_retained(stack: Stack, value: bytes) -> None:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", stack.mqtt_port)
    client.loop_start()
    client.publish("test/kept", value, qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def read_retained(stack: Stack) -> bytes | None:
    arrived: list[bytes] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = lambda _client, _data, message: arrived.append(message.payload)
    client.connect("127.0.0.1", stack.mqtt_port)
    client.subscribe("test/kept", qos=1)
    client.loop_start()
    wait_until(lambda: bool(arrived), timeout_s=10)
    client.disconnect()
    client.loop_stop()
    return arrived[0] if arrived else None


WRITE = {"timescale": write_row, "kafka": write_record, "mosquitto": publish_retained}
READ = {"timescale": read_row, "kafka": read_record, "mosquitto": read_retained}


def pid_of(stack: Stack, name: str) -> int | None:
    return {one.name: one.pid for one in stack.status()}[name]


def partition_counts(stack: Stack, *names: str) -> list[int | None]:
    """How many partitions each topic has; None if there is no such topic."""
    topics = (
        AdminClient({"bootstrap.servers": stack.kafka_bootstrap}).list_topics(timeout=10).topics
    )
    return [len(topics[name].partitions) if name in topics else None for name in names]


def config_of(stack: Stack, name: str) -> dict[str, str]:
    """The settings a topic has of its own."""
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, name)
    entries = admin.describe_configs([resource])[resource].result().values()
    return {entry.name: entry.value for entry in entries if entry.source == 1}


def supervisor_of(stack: Stack) -> int:
    return int((stack.settings.state_dir / "supervisor" / "supervisord.pid").read_text())


def processes_below(root: int) -> set[int]:
    """A process and all its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


def listening_sockets(pids: set[int]) -> Iterator[tuple[str, int]]:
    """Address and port of every TCP socket on which one of these processes listens."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                raw = b"".join(
                    bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)
                )
                text = socket.inet_ntop(family, raw).removeprefix("::ffff:")
                yield text, int(port, 16)
