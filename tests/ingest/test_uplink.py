"""The uplink against a real Mosquitto and a real Kafka: killed, starved, and asked for proof."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ingest import connector as connector_module
from ingest import dead_letters as dead_letters_module
from ingest.broker_link import DROPPED_COUNTER
from ingest.connector import Connector
from ingest.metrics import Metrics
from ingest.partitioner import partition_of
from ingest.raw_record import RisingClock
from ingest.settings import UplinkSettings
from schemas.connections import KafkaConnection, MqttConnection
from schemas.topics import PARTITIONER, RAW

pytestmark = pytest.mark.stack


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
    return value


@pytest.fixture
def home() -> str:
    """A home of this test only: what earlier tests left in the broker is not ours."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def acks(servers, home) -> Iterator[list[tuple[float, str, dict]]]:
    """What nodes of this home hear."""
    heard: list[tuple[float, str, dict]] = []

    def on_message(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        assert not message.retain
        heard.append((time.monotonic(), message.topic, json.loads(message.payload)))

    client = Client(CallbackAPIVersion.VERSION2, "nodes", protocol=MQTTProtocolVersion.MQTTv5)
    ready = threading.Event()
    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", servers.mqtt_port)
    client.subscribe(f"homesync/{home}/nodes/+/ack", 1)
    client.loop_start()
    assert ready.wait(10)
    yield heard
    client.disconnect()
    client.loop_stop()


def telemetry(home: str, node: str = "n") -> str:
    return f"homesync/{home}/nodes/{node}/telemetry/power"


def payload(seq: int, first: int = 1, boot: str = "b") -> bytes:
    return json.dumps({"v": 1, "boot": boot, "seq": seq, "first": first, "ts": None}).encode()


# ---- what arrives ----


def test_the_bytes_arrive_with_key_and_headers(start_uplink, raw_log, publisher, home):
    start_uplink()
    topic = telemetry(home)
    before = time.time_ns() // 1000
    publisher.publish(topic, b"\x00\xff no utf-8 \xfe")
    publisher.publish(topic, b"")
    publisher.publish(topic, b"qos 0", qos=0)
    publisher.flush()
    junk, empty, qos0 = raw_log.wait(f"homesync/{home}", 3)
    assert [record.value for record in (junk, empty, qos0)] == [
        b"\x00\xff no utf-8 \xfe",
        b"",
        b"qos 0",
    ]
    assert {record.key for record in (junk, empty, qos0)} == {f"homesync:{home}/n".encode()}
    names = ["mqtt_topic", "received_at", "source", "shard"]
    assert [name for name, _ in junk.headers] == [*names, "mid"]
    assert [name for name, _ in qos0.headers] == names
    assert junk.topic == topic
    assert junk.header("source") == "mqtt"
    assert junk.header("shard") == "0"
    assert int(junk.header("mid")) >= 1
    assert before <= junk.at < empty.at < qos0.at <= time.time_ns() // 1000


def test_a_megabyte_arrives_whole(start_uplink, raw_log, publisher, home):
    start_uplink()
    big = random.Random(7).randbytes(1_000_000)
    for number in range(5):
        publisher.publish(telemetry(home, f"n{number}"), big)
    publisher.flush()
    assert [record.value == big for record in raw_log.wait(f"homesync/{home}", 5)] == [True] * 5


def test_many_messages_keep_their_order_and_their_instants_rise(
    start_uplink, raw_log, publisher, home
):
    start_uplink()
    for number in range(5000):
        publisher.publish(telemetry(home, f"n{number % 7}"), str(number).encode())
    publisher.flush()
    records = raw_log.wait(f"homesync/{home}", 5000)
    by_time = sorted(records, key=lambda record: record.at)
    assert [int(record.value) for record in by_time] == list(range(5000))
    assert len({record.at for record in records}) == 5000
    for partition in range(raw_log.partitions):
        mine = [record.at for record in raw_log.records if record.partition == partition]
        assert mine == sorted(mine), "messages and ticks of a partition, in order"


def test_the_partition_is_the_one_that_librdkafka_chooses(servers, raw_log):
    producer = Producer({"bootstrap.servers": servers.kafka_bootstrap, "partitioner": PARTITIONER})
    chosen = []
    for number in range(200):
        key = f"homesync:h{number}/ไฟ{number * 7}".encode()
        producer.produce(
            RAW.name, b"", key, on_delivery=lambda _, m: chosen.append((m.key(), m.partition()))
        )
    producer.flush(10)
    assert len(chosen) == 200
    assert all(partition_of(key, raw_log.partitions) == partition for key, partition in chosen)


def test_the_address_may_stand_in_the_payload(start_uplink, raw_log, publisher, home):
    start_uplink()
    for name in ("one", "two"):
        body = json.dumps({"home_id": f"{home}-{name}"}).encode()
        publisher.publish(f"device/status/{home}", body)
    publisher.flush()
    keys = {record.key for record in raw_log.wait(f"device/status/{home}", 2)}
    assert keys == {f"home:{home}-{name}/{home}".encode() for name in ("one", "two")}


def test_filters_within_filters_deliver_a_message_once(start_uplink, raw_log, publisher, home):
    """Mosquitto sends a copy for each filter of a client that matches."""
    filters = [["x"], ["y"], ["shellies/+/online", "+/+/online", f"shellies/{home}/online"]]
    start_uplink(shards=json.dumps(filters), shard="2")
    for number in range(20):
        publisher.publish(f"shellies/{home}/online", str(number).encode())
    publisher.flush()
    raw_log.wait(f"shellies/{home}", 20)
    time.sleep(1)
    raw_log.poll()
    assert len(raw_log.of(f"shellies/{home}")) == 20


def test_of_retained_messages_only_a_status_passes(start_uplink, raw_log, publisher, home):
    """The session is new, so the broker sends what it has stored."""
    publisher.publish(f"homesync/{home}/nodes/n/online", b"online", retain=True)
    publisher.publish(telemetry(home), b"an old reading", retain=True)
    publisher.flush()
    shards = json.dumps([[f"x/{home}"], [f"homesync/{home}/#"]])
    try:
        running = start_uplink(shards=shards, shard="1")
        (status,) = raw_log.wait(f"homesync/{home}", 1)
        assert status.value == b"online"
        assert status.headers[-1][0] == "retained"
        wait_for(lambda: running.count("retained_dropped_total") == 1, "the drop is counted")
        # Live messages pass, whether or not the publisher wants them stored.
        publisher.publish(telemetry(home), b"a new reading", retain=True)
        publisher.flush()
        _, live = raw_log.wait(f"homesync/{home}", 2)
        assert live.value == b"a new reading"
        assert live.header("retained") is None
        wait_for(lambda: running.count("in_flight") == 0, "the dropped one is acknowledged too")
        # Connected again, the session is there: nothing stored comes a second time.
        assert running.stop() == 0
        start_uplink(shards=shards, shard="1")
        time.sleep(1)
        raw_log.poll()
        assert len(raw_log.of(f"homesync/{home}")) == 2
    finally:
        for topic in (f"homesync/{home}/nodes/n/online", telemetry(home)):
            publisher.publish(topic, b"", retain=True)
        publisher.flush()


# ---- ticks ----


def test_each_partition_gets_a_tick_a_second_and_not_all_at_once(start_uplink, raw_log):
    start_uplink()
    deadline = time.monotonic() + 5.5
    while time.monotonic() < deadline:
        raw_log.poll()
    first = {tick.partition: tick.at for tick in reversed(raw_log.ticks())}
    assert max(first.values()) - min(first.values()) > 500_000
    for partition in range(raw_log.partitions):
        ticks = [record for record in raw_log.ticks() if record.partition == partition]
        assert 4 <= len(ticks) <= 7
        assert all(500_000 < b.at - a.at < 1_900_000 for a, b in pairwise(ticks))
        for tick in ticks:
            assert tick.key is None
            assert tick.value is None
            assert [name for name, _ in tick.headers] == ["shard", "tick"]


def test_the_clock_rises_when_the_wall_clock_stands_or_steps_back():
    wall = iter([100, 100, 50, 500])
    clock = RisingClock(lambda: next(wall))
    assert [clock.take(3), clock.take(1), clock.take(2), clock.take(1)] == [100, 103, 104, 500]


# ---- nothing is acknowledged before Kafka has it ----


def test_without_kafka_nothing_is_acknowledged_and_with_it_all_arrives(
    servers, start_uplink, raw_log, publisher, home, acks
):
    running = start_uplink(receive_maximum="500")
    before = running.count("acked_total")
    rss_mib = running.rss_mib()
    servers.stop_process("kafka")
    try:
        publisher.publish(telemetry(home, "told"), payload(1))
        for number in range(3000):
            publisher.publish(telemetry(home), str(number).encode() + b" " * 500)
        publisher.flush()  # the broker has them
        wait_for(lambda: running.count("in_flight") == 500, "the receive maximum is used up")
        time.sleep(2)
        assert running.count("acked_total") == before
        assert acks == []
        assert running.count("in_flight") == 500
        assert running.count("queue_length") <= 500 + raw_log.partitions, "ticks do not pile up"
        assert running.count("connected") == 1
        assert running.rss_mib() < rss_mib + 30
    finally:
        servers.start_process("kafka")
    records = raw_log.wait(telemetry(home), 3000, timeout_s=60)
    assert [int(record.value.split()[0]) for record in records] == list(range(3000))
    wait_for(lambda: running.count("in_flight") == 0, "all is acknowledged")
    wait_for(lambda: acks and acks[-1][2]["seq"] == 1, "the node is told when Kafka has it")


def test_a_full_queue_stops_the_reading_and_memory_stays_bounded(
    servers, start_uplink, raw_log, publisher, home
):
    running = start_uplink(queue_kbytes="8192")
    rss_mib = running.rss_mib()
    big = random.Random(3).randbytes(1_000_000)
    servers.stop_process("kafka")
    try:
        for _ in range(40):
            publisher.publish(telemetry(home), big)
        publisher.flush()
        wait_for(lambda: running.count("pauses_total") >= 1, "reading is paused")
        time.sleep(2)
        assert running.count("queue_length") < 10 + raw_log.partitions
        assert running.rss_mib() < rss_mib + 64
        assert running.count("connected") == 1
    finally:
        servers.start_process("kafka")
    records = raw_log.wait(f"homesync/{home}", 40, timeout_s=60)
    assert all(record.value == big for record in records)
    assert len(records) == 40
    # What the servers forget on a restart and the connector must not notice: time goes on.
    seen = len(raw_log.ticks())
    wait_for(lambda: raw_log.poll() or len(raw_log.ticks()) > seen + raw_log.partitions, "ticks")


def test_killed_in_mid_stream_everything_arrives_and_copies_are_marked(
    start_uplink, raw_log, publisher, home
):
    running = start_uplink(receive_maximum="1000")
    stop = threading.Event()
    sent = 0

    def publish() -> None:
        nonlocal sent
        while not stop.is_set():
            for _ in range(50):
                publisher.publish(telemetry(home, f"n{sent % 5}"), str(sent).encode())
                sent += 1
            time.sleep(0.005)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(3):
            time.sleep(0.8)
            running.kill()
            time.sleep(0.3)
            running = start_uplink(receive_maximum="1000")
            assert running.logged("mqtt_connected")[0]["session"] == "kept"
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join()
    publisher.flush()
    arrived: set[int] = set()

    def complete() -> bool:
        raw_log.poll()
        arrived.update(int(record.value) for record in raw_log.of(f"homesync/{home}"))
        return len(arrived) == sent

    wait_for(complete, "every message is in Kafka", 60)
    assert arrived == set(range(sent))
    # Each copy but the first carries the sign of a redelivery.
    first: set[int] = set()
    for record in sorted(raw_log.of(f"homesync/{home}"), key=lambda record: record.at):
        number = int(record.value)
        assert number not in first or record.header("dup") is not None
        first.add(number)
    wait_for(lambda: running.count("in_flight") == 0, "all is acknowledged")


def test_a_restarted_broker_is_found_again(servers, start_uplink, raw_log, home, publisher):
    running = start_uplink()
    assert running.health() == (200, [])
    publisher.publish(telemetry(home), b"before")
    publisher.flush()
    raw_log.wait(f"homesync/{home}", 1)
    servers.stop_process("mosquitto")
    _, reasons = wait_for(
        lambda: running.health() if running.health()[0] == 503 else None, "the outage is seen"
    )
    assert reasons[0].startswith("MQTT: ")
    servers.start_process("mosquitto")
    wait_for(lambda: running.health() == (200, []), "healthy again")
    publisher.publish(telemetry(home), b"after")
    assert [record.value for record in raw_log.wait(f"homesync/{home}", 2)] == [b"before", b"after"]
    assert running.count("reconnects_total") == 1
    assert running.count("sessions_lost_total") == 0


def test_a_lost_session_is_counted_and_subscribed_again(
    servers, start_uplink, raw_log, home, publisher
):
    running = start_uplink()
    servers.stop_process("mosquitto")
    (servers.settings.state_dir / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
    servers.start_process("mosquitto")
    wait_for(lambda: running.count("sessions_lost_total") == 1, "the loss is counted")
    wait_for(lambda: running.health() == (200, []), "healthy again")
    publisher.publish(telemetry(home), b"after")
    assert raw_log.wait(f"homesync/{home}", 1)[0].value == b"after"


# ---- end to end ----


def test_a_node_hears_how_far_kafka_has_it_without_gaps(start_uplink, publisher, home, acks):
    start_uplink()
    for seq in (4, 5, 6, 9):
        publisher.publish(telemetry(home), payload(seq, first=4))
    publisher.publish(telemetry(home, "bare"), b'{"power_w": 1}')
    publisher.flush()
    wait_for(lambda: acks and acks[-1][2]["seq"] == 6, "6 is acknowledged")
    time.sleep(1.5)
    *_, (_, topic, said) = acks
    assert abs(said.pop("at_us") / 1e6 - time.time()) < 60
    assert (topic, said) == (f"homesync/{home}/nodes/n/ack", {"boot": "b", "seq": 6})
    for seq in (7, 8):
        publisher.publish(telemetry(home), payload(seq, first=7))
    publisher.flush()
    wait_for(lambda: acks[-1][2]["seq"] == 9, "the gap is closed")
    assert {topic for _, topic, _ in acks} == {f"homesync/{home}/nodes/n/ack"}


def test_a_node_hears_once_a_second_and_is_not_left_waiting(start_uplink, publisher, home, acks):
    start_uplink()
    for seq in range(1, 301):
        publisher.publish(telemetry(home), payload(seq))
        time.sleep(0.01)
    publisher.flush()
    wait_for(lambda: acks and acks[-1][2]["seq"] == 300, "the last is acknowledged", 3)
    assert all(later[0] - earlier[0] > 0.7 for earlier, later in pairwise(acks))
    assert 3 <= len(acks) <= 6


def test_a_restarted_connector_begins_at_first(start_uplink, publisher, home, acks):
    running = start_uplink()
    for seq in (1, 2, 3):
        publisher.publish(telemetry(home), payload(seq))
    publisher.flush()
    wait_for(lambda: acks and acks[-1][2]["seq"] == 3, "3 is acknowledged")
    running.kill()
    start_uplink()
    publisher.publish(telemetry(home), payload(6, first=4))
    publisher.publish(telemetry(home), payload(5, first=4))
    publisher.flush()
    time.sleep(1.5)
    assert acks[-1][2]["seq"] == 3
    publisher.publish(telemetry(home), payload(4, first=4))
    wait_for(lambda: acks[-1][2]["seq"] == 6, "the run is acknowledged")


# ---- refused messages ----


def test_what_kafka_refuses_goes_to_the_dead_letters_and_is_acknowledged(
    servers, start_uplink, dead_letters, raw_log, publisher, home
):
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap})

    def set_limit(value: int | str) -> None:
        entry = ConfigEntry(
            "max.message.bytes", str(value), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ResourceType.TOPIC, RAW.name, incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()

    running = start_uplink()
    big = random.Random(5).randbytes(1_500_000)
    set_limit(1_100_000)
    try:
        publisher.publish(telemetry(home), big)
        publisher.flush()
        (letter,) = dead_letters.wait(f"homesync/{home}", 1)
    finally:
        set_limit(RAW.config["max.message.bytes"])
    assert letter.value == big
    assert letter.key == f"homesync:{home}/n".encode()
    assert letter.header("__connect.errors.class.name") == "kafka_refused"
    assert letter.header("x-sha256") == hashlib.sha256(big).hexdigest()
    assert letter.header("received_at")
    wait_for(lambda: running.count("in_flight") == 0, "it is acknowledged")
    assert running.metric('meterstream_uplink_refused_total{reason="kafka_refused"}') == 1
    publisher.publish(telemetry(home), b"next")
    assert raw_log.wait(f"homesync/{home}", 1)[0].value == b"next"


def test_what_no_topic_can_hold_is_cut_and_says_so(
    servers, monkeypatch, dead_letters, raw_log, publisher, home, acks
):
    """The broker lets nothing through that is too large for us, so our limits are lowered here."""
    monkeypatch.setattr(connector_module, "RAW_MAX_BYTES", 100_000)
    monkeypatch.setattr(connector_module, "UNDOUBTED_BYTES", 50_000)
    monkeypatch.setattr(connector_module, "DLQ_MAX_BYTES", 200_000)
    monkeypatch.setattr(dead_letters_module, "DLQ_MAX_BYTES", 200_000)
    metrics = Metrics()
    connector = Connector(
        UplinkSettings(),
        MqttConnection(port=servers.mqtt_port),
        KafkaConnection(bootstrap=servers.kafka_bootstrap),
        metrics,
        structlog.get_logger(),
    )
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(connector.run()))
    thread.start()
    try:
        wait_for(lambda: not connector.troubles(), "connected")
        body = payload(1) + b" " * 149_000
        publisher.publish(telemetry(home), body)
        publisher.publish(telemetry(home), payload(2) + b" " * 300_000)
        publisher.publish(telemetry(home), payload(3))
        publisher.flush()
        whole, cut = dead_letters.wait(f"homesync/{home}", 2)
        assert whole.value == body
        assert whole.header("__connect.errors.class.name") == "too_large"
        assert whole.header("x-truncated-from") is None
        assert cut.value == (payload(2) + b" " * 300_000)[: 64 * 1024]
        assert cut.header("x-truncated-from") == str(len(payload(2)) + 300_000)
        assert raw_log.wait(f"homesync/{home}", 1)[0].value == payload(3)
        wait_for(lambda: acks and acks[-1][2]["seq"] == 3, "the node may forget all three")
    finally:
        connector.stop()
        thread.join(timeout=20)
    assert codes == [0]


# ---- the process ----


def test_sigterm_flushes_acknowledges_and_leaves_within_ten_seconds(
    start_uplink, raw_log, publisher, home
):
    running = start_uplink()
    for number in range(20_000):
        publisher.publish(telemetry(home), str(number).encode())
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=10) == 0
    (stopped,) = running.logged("stopped")
    assert stopped["left_to_the_broker"] == 0
    publisher.flush()
    # The rest waits in the session, and no message that was acknowledged comes again.
    again = start_uplink()
    wait_for(
        lambda: (
            raw_log.poll(0.1) or len({r.value for r in raw_log.of(f"homesync/{home}")}) == 20_000
        ),
        "all are there",
        60,
    )
    assert len(raw_log.of(f"homesync/{home}")) < 20_000 + 20_000, "few come twice"
    assert again.logged("mqtt_connected")[0]["session"] == "kept"


def test_sigterm_without_kafka_leaves_in_time_and_loses_nothing(
    servers, start_uplink, raw_log, publisher, home
):
    running = start_uplink()
    servers.stop_process("kafka")
    try:
        for number in range(100):
            publisher.publish(telemetry(home), str(number).encode())
        publisher.flush()
        wait_for(lambda: running.count("in_flight") == 100, "all are in flight")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
    finally:
        servers.start_process("kafka")
    start_uplink()
    records = raw_log.wait(f"homesync/{home}", 100)
    assert [int(record.value) for record in records] == list(range(100))
    assert all(record.header("dup") for record in records)


def test_metrics_and_health_tell_the_state(start_uplink, raw_log, publisher, home):
    running = start_uplink()
    wait_for(lambda: running.health() == (200, []), "healthy")
    received = running.count("received_total")
    for number in range(10):
        publisher.publish(telemetry(home), payload(number + 1) + b" " * 10)
    publisher.flush()
    raw_log.wait(f"homesync/{home}", 10)
    wait_for(lambda: running.count("acked_total") >= 10, "acknowledged")
    assert running.count("received_total") >= received + 10
    assert running.count("delivered_total") >= 10
    assert running.count("bytes_total") >= 10 * len(payload(1))
    wait_for(lambda: running.count("in_flight") == 0, "nothing in flight")
    wait_for(lambda: running.count("ticks_total") >= raw_log.partitions, "a tick for each")
    assert running.count("e2e_pending") == 0
    assert home not in running.log_file.read_text()


def test_overlapping_shards_stop_the_start(servers):
    environment = {
        **os.environ,
        **servers.environment(),
        "METERSTREAM_UPLINK_SHARDS": '[["site1/#"], ["+/events/rpc"]]',
    }
    done = subprocess.run(
        [sys.executable, "-m", "ingest"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    assert (
        'shard 0 has "site1/#" and shard 1 has "+/events/rpc"' in json.loads(done.stdout)["error"]
    )


def test_a_fatal_error_of_the_producer_ends_the_process_with_70(servers):
    connector = Connector(
        UplinkSettings(),
        MqttConnection(port=servers.mqtt_port),
        KafkaConnection(bootstrap=servers.kafka_bootstrap),
        Metrics(),
        structlog.get_logger(),
    )
    fatal = KafkaError(KafkaError._FATAL, "fenced", True)

    def fail_when_connected() -> None:
        wait_for(lambda: not connector.troubles(), "connected", 60)
        connector._on_kafka_error(fatal)

    threading.Thread(target=fail_when_connected).start()
    assert connector.run() == 70


def test_a_rise_of_the_brokers_dropped_counter_is_counted(servers):
    metrics = Metrics()
    connector = Connector(
        UplinkSettings(),
        MqttConnection(port=servers.mqtt_port),
        KafkaConnection(bootstrap=servers.kafka_bootstrap),
        metrics,
        structlog.get_logger(),
    )
    counts = []
    for said in (b"7", b"7", b"9", b"junk", b"3"):  # 3: the broker was restarted
        connector._received([(DROPPED_COUNTER, said, 0, 0, 1)])
        counts.append(metrics.registry.get_sample_value("meterstream_uplink_broker_dropped_total"))
    assert counts == [0, 0, 2, 2, 5]
