"""How much CPU the uplink spends on a message, beside stock paho doing the same.

The broker's queue is filled while the connector is away (persistent session), so that the
connector is what is measured: it starts, drains the queue into Kafka and acknowledges. Both
connectors get the same messages, use the same producer settings and headers, and acknowledge in
order after the delivery report. CPU is user + system time of the connector's process, threads of
librdkafka included, from its start line to the last acknowledgement.

    meterstream up && python -m infra.bench.uplink
"""

import argparse
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

CONNECTORS = ("meterstream", "stock paho")
FEEDS = ("shelly", "homesync")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROJECT_ROOT = Path(__file__).resolve().parents[2]
PUBLISH_WINDOW = 2000


@dataclass(frozen=True)
class Row:
    connector: str
    feed: str
    messages: int
    bytes_per_message: float
    cpu_us_per_message: float
    messages_per_s: float


def feed(kind: str, messages: int, devices: int) -> Iterator[tuple[str, bytes]]:
    """Messages of about 200 bytes, the devices in turn."""
    for index in range(messages):
        device, seq = index % devices, index // devices + 1
        power = 100 + index % 997 / 10
        if kind == "shelly":
            status = (
                f'{{"id":0,"a_act_power":{power},"b_act_power":{power + 1},'
                f'"c_act_power":{power + 2},"total_act_power":{3 * power + 3:.1f},'
                f'"a_voltage":230.1,"b_voltage":229.8,"c_voltage":231.0,"n_current":null,'
                f'"total_current":{power / 230:.3f},"seen":{seq:08d}}}'
            )
            yield f"shellypro3em-{device:012x}/status/em:0", status.encode()
        else:
            payload = (
                f'{{"v":1,"boot":"5f1c09ab","seq":{seq},"first":1,"ts":1763700000.25,"channels":'
                f'{{"total":{{"power_w":{power},"voltage_v":230.1,"current_a":{power / 230:.3f},'
                f'"import_total_wh":{15_000_000 + index}.0}},"l1":{{"power_w":{power}}}}}}}'
            )
            yield f"homesync/h{device // 10}/nodes/n{device}/telemetry/power", payload.encode()


# ---- filling the broker's queue ----


def _packet(first: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | 128 if length else digit)
        if not length:
            return bytes((first, *digits)) + body


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack(">H", len(raw)) + raw


def publish(port: int, messages: Iterator[tuple[str, bytes]]) -> int:
    """Publish with QoS 1 (MQTT 3.1.1), at most 2,000 unacknowledged. Returns how many."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connect = _text("MQTT") + bytes((4, 2)) + struct.pack(">H", 600) + _text("bench-publisher")
        connection.sendall(_packet(0x10, connect))
        answer = connection.recv(4)
        if answer[3:] != b"\x00":
            raise RuntimeError(f"the broker answers CONNECT with {answer.hex()}")
        sent = answered = 0  # PUBACKs have 4 bytes
        out = bytearray()
        for topic, payload in messages:
            packet_id = sent % 65_535 + 1
            out += _packet(0x32, _text(topic) + struct.pack(">H", packet_id) + payload)
            sent += 1
            if sent % 200 == 0:
                connection.sendall(out)
                out.clear()
                while sent - answered // 4 > PUBLISH_WINDOW:
                    answered += len(connection.recv(65_536))
        connection.sendall(out)
        while answered < 4 * sent:
            answered += len(connection.recv(65_536))
        connection.sendall(b"\xe0\x00")
        return sent


# ---- the connectors under test ----


def _environment(mqtt_port: int, bootstrap: str, kind: str) -> dict[str, str]:
    filters = ["+/status/+"] if kind == "shelly" else ["homesync/+/nodes/+/telemetry/+"]
    return {
        **os.environ,
        "METERSTREAM_MQTT_HOST": "127.0.0.1",
        "METERSTREAM_MQTT_PORT": str(mqtt_port),
        "METERSTREAM_KAFKA_BOOTSTRAP": bootstrap,
        "METERSTREAM_METRICS_PORT": "0",
        "METERSTREAM_UPLINK_SHARD": "0",
        "METERSTREAM_UPLINK_SHARDS": json.dumps([filters]),
    }


class Child:
    """A connector process that tells how many messages it has acknowledged."""

    def __init__(self, connector: str, environment: Mapping[str, str]) -> None:
        ours = connector == "meterstream"
        module = ["ingest"] if ours else ["infra.bench.uplink", "--stock"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=dict(environment),
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        for line in self._out:
            started = json.loads(line)
            if started["event"] == "started":
                break
        else:
            raise RuntimeError(f"{connector} did not start: {self._said()}")
        self._url = f"http://127.0.0.1:{started['metrics_port']}/metrics"
        self._reader = threading.Thread(target=self._swallow, daemon=True)
        self._reader.start()

    def _swallow(self) -> None:
        for _ in self._out:
            pass

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf"^meterstream_uplink_{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait(self, name: str, least: float, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (seen := self.metric(name)) < least:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{name} is {seen}, not {least}: {self._said()}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        self._reader.join(timeout=5)
        self._out.close()
        self._errors.close()


def measure(
    connector: str, mqtt_port: int, bootstrap: str, *, kind: str, messages: int, devices: int
) -> Row:
    """One run: session, queue, drain."""
    environment = _environment(mqtt_port, bootstrap, kind)
    with Child(connector, environment) as child:  # leaves a session
        child.wait("connected", 1, 30)
        time.sleep(0.5)
    publish(mqtt_port, feed(kind, messages, devices))
    size = sum(len(payload) for _, payload in feed(kind, min(messages, 1000), devices))
    with Child(connector, environment) as child:
        cpu_s, began = child.cpu_s(), time.monotonic()
        child.wait("acked_total", messages, 30 + messages / 2000)
        took_s, cpu_s = time.monotonic() - began, child.cpu_s() - cpu_s
    return Row(
        connector=connector,
        feed=kind,
        messages=messages,
        bytes_per_message=round(size / min(messages, 1000), 1),
        cpu_us_per_message=round(cpu_s / messages * 1e6, 2),
        messages_per_s=round(messages / took_s),
    )


def run(
    mqtt_port: int,
    bootstrap: str,
    *,
    messages: int = 200_000,
    stock_messages: int = 50_000,
    devices: int = 1000,
    feeds: Sequence[str] = FEEDS,
    connectors: Sequence[str] = CONNECTORS,
) -> list[Row]:
    """A row a connector and feed. Needs the declared topics, and no other uplink with shard 0."""
    return [
        measure(
            connector,
            mqtt_port,
            bootstrap,
            kind=kind,
            messages=messages if connector == "meterstream" else stock_messages,
            devices=devices,
        )
        for kind in feeds
        for connector in connectors
    ]


# ---- stock paho doing the same ----


def stock() -> None:
    """Stock paho-mqtt, manual acknowledgement in order after Kafka's delivery report."""
    from confluent_kafka import Producer
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.subscribeoptions import SubscribeOptions

    from ingest.batch_client import connect_properties
    from ingest.broker_link import KEEPALIVE_S, SESSION_EXPIRY_S
    from ingest.connector import producer_config
    from ingest.decoders.topic_table import address_of
    from ingest.metrics import Metrics, serve
    from ingest.raw_record import RisingClock
    from ingest.settings import UplinkSettings
    from schemas.connections import KafkaConnection, MqttConnection
    from schemas.topics import RAW

    settings, mqtt = UplinkSettings(), MqttConnection()
    producer = Producer(producer_config(settings, KafkaConnection()))
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=True,
    )
    metrics, clock, lock = Metrics(), RisingClock(), threading.RLock()
    waiting: deque[list[Any]] = deque()

    def delivered(entry: list[Any]) -> Callable[..., None]:
        def report(error: object, _message: object) -> None:
            if error is not None:
                os._exit(70)
            with lock:
                entry[1] = True
                while waiting and waiting[0][1]:
                    client.ack(waiting.popleft()[0], 1)
                    metrics.acked.inc()

        return report

    def on_message(_client: Client, _userdata: object, message: Any) -> None:
        entry = [message.mid, False]
        with lock:
            waiting.append(entry)
        producer.produce(
            RAW.name,
            message.payload,
            address_of(message.topic, message.payload),
            on_delivery=delivered(entry),
            headers=[
                ("mqtt_topic", message.topic),
                ("received_at", str(clock.take(1))),
                ("source", "mqtt"),
                ("shard", "0"),
                ("dup" if message.dup else "mid", str(message.mid)),
            ],
        )

    def on_connect(*_arguments: object) -> None:
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=1)
        client.subscribe([(name, options) for name in settings.filters])

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: metrics.connected.set(1)
    client.on_message = on_message
    server = serve(metrics.registry, list, "127.0.0.1", 0)
    print(json.dumps({"event": "started", "metrics_port": server.server_port}), flush=True)
    client.connect(
        mqtt.host,
        mqtt.port,
        keepalive=KEEPALIVE_S,
        clean_start=False,
        properties=connect_properties(settings.receive_maximum, SESSION_EXPIRY_S),
    )
    client.loop_start()
    while True:
        producer.poll(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stock", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--stock-messages", type=int, default=50_000)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--feed", action="append", choices=FEEDS)
    parser.add_argument("--connector", action="append", choices=CONNECTORS)
    arguments = parser.parse_args()
    if arguments.stock:
        stock()
        return
    from schemas.connections import KafkaConnection, MqttConnection

    rows = run(
        MqttConnection().port,
        KafkaConnection().bootstrap,
        messages=arguments.messages,
        stock_messages=arguments.stock_messages,
        devices=arguments.devices,
        feeds=arguments.feed or FEEDS,
        connectors=arguments.connector or CONNECTORS,
    )
    print(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
