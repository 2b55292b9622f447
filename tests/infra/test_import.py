"""`meterstream import` and `replay` up to the brokers; what becomes of it, the system tests see."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
import typer
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from typer.testing import CliRunner

from infra.cli import import_, replay
from infra.household import layout_named
from infra.household.mqtt_node import send_all
from infra.household.node import Node, claim_node
from infra.household.raw_log import RawLog
from infra.household.survey import survey_file
from infra.local import Stack
from ingest.decoders.topic_table import decode
from ingest.mqtt_account import MqttAccount
from ingest.partitioner import partition_of
from schemas.connections import MqttConnection
from schemas.topics import RAW
from schemas.units import DAY_US
from sinks.registry import NameTaken, claim_device, resolve_device
from tests.whole_topic import read_topic

pytestmark = pytest.mark.stack
LONDON = ZoneInfo("Europe/London")


@pytest.fixture(scope="module")
def ready(stack: Stack) -> Stack:
    stack.prepare()
    return stack


@pytest.fixture
def conn(ready: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(ready.database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE device CASCADE")
        yield connection


@pytest.fixture
def house(tmp_path: Path) -> Path:
    path = tmp_path / "house.csv"
    rows = [f"2014-09-01 00:{i:02}:00,{i * 10 if i != 7 else ''},0" for i in range(20)]
    path.write_text("\n".join(["Time,Aggregate,Kettle", *rows, "2014-09-0"]))
    return path


def test_rows_become_records_of_the_device_with_their_own_times(ready: Stack, conn, house: Path):
    node = claim_node(conn, "House 2", "Europe/London")
    device = resolve_device(conn, "House 2")
    assert (device.address, device.home_id) == ("homesync:home-house-2/house-2", "home-house-2")
    assert (device.zone, device.gap_limit_s) == ("Europe/London", 60)
    survey = survey_file(house, layout_named("refit"), LONDON)
    part = partition_of(node.address.encode(), RAW.partitions)
    counted: list[int] = []
    with RawLog(ready.kafka_bootstrap) as log:
        import_.write_rows(survey, node, log, counted.append)
    everything = read_topic(ready.kafka_bootstrap, RAW.name)
    records = [one for one in everything if one.key() == node.address.encode()]
    assert len(records) == sum(counted) == 19
    energy_wh = 0.0
    for record in records:
        assert record.partition() == part
        headers = dict(record.headers())
        assert [name for name, _ in record.headers()] == [
            "mqtt_topic", "received_at", "source", "shard",
        ]  # fmt: skip
        assert headers["source"] == b"import"
        topic, received_us = headers["mqtt_topic"].decode(), int(headers["received_at"])
        decoded = decode(topic, record.value(), received_us, oldest_us_back=30_000 * DAY_US)
        (reading,) = decoded.readings
        assert (decoded.address, reading.channel) == (node.address, "total")
        assert reading.values.interval_s == 60
        energy_wh += reading.values.interval_import_wh or 0
    assert energy_wh == pytest.approx((sum(range(20)) - 7) * 10 / 60, abs=1e-5)
    assert (
        reading.measured_us == 1_409_526_000_000_000 + 20 * 60_000_000
    )  # 01:20 in London's summer


def test_a_name_is_one_node_and_not_another_familys_device(conn):
    first = claim_node(conn, "House 2", "Europe/London")
    assert claim_node(conn, "House 2", "Europe/London") == first
    with pytest.raises(NameTaken, match="House 2"):
        claim_node(conn, "house-2", "Europe/London")
    claim_device(conn, "shelly:plug", "Plug", "home-1", "Asia/Bangkok")
    with pytest.raises(NameTaken, match="shelly:plug"):
        claim_node(conn, "Plug", "Asia/Bangkok")
    claim_device(conn, "homesync:home-9/meter", "Mine", "home-9", "Asia/Bangkok")
    assert claim_node(conn, "Mine", "Asia/Bangkok") == Node("home-9", "meter")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["import", "{house}", "--format", "uci", "--zone", "UTC"], 65, "a uci file has"),
        (["import", "{house}", "--format", "refit", "--zone", "Europe/Londn"], 1, "Europe/London"),
        (["import", "/none.csv", "--format", "refit", "--zone", "UTC"], 65, "No such file"),
        (["import", "{house}", "--format", "refit", "--zone", "UTC"], 1, "meterstream up"),
        (["replay", "{house}", "--format", "json"], 65, "refit, uci"),
        (["replay", "{house}", "--format", "refit", "--speed", "fast"], 2, "max"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    house: Path, arguments: list[str], code: int, said: str
):
    app = typer.Typer()
    import_.register(app)
    replay.register(app)
    arguments = [one.format(house=house) for one in arguments]
    environment = {"METERSTREAM_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    result = CliRunner().invoke(app, [*arguments, "--device", "House"], env=environment)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


class Uplink:
    """Acknowledges what it is told to, as the connector would."""

    def __init__(self, port: int, node: Node, forget: set[int]) -> None:
        self.came: list[dict] = []
        self._forget = forget
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._node = node
        self._subscribed = threading.Event()
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_rest: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(node.topic, qos=1)
        self._client.loop_start()
        assert self._subscribed.wait(5)

    def _take(self, client: Client, _userdata: object, message) -> None:
        said = json.loads(message.payload)
        if said["seq"] in self._forget:
            self._forget.remove(said["seq"])
            return
        self.came.append(said)
        have = {one["seq"] for one in self.came}
        gapless = next(seq for seq in itertools.count(1) if seq not in have) - 1
        if gapless:
            client.publish(
                self._node.ack_topic, json.dumps({"boot": said["boot"], "seq": gapless}), qos=1
            )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_a_replayed_node_sends_again_what_nobody_has(ready: Stack, monkeypatch):
    monkeypatch.setattr("infra.household.mqtt_node.PATIENCE_S", 0.5)
    node = Node("home-x", "x")
    uplink = Uplink(ready.mqtt_port, node, forget={4})
    bodies = [f'"ts":{1_700_000_000 + i},"channels":{{}}}}' for i in range(10)]
    safe: list[int] = []
    try:
        mqtt = MqttConnection(port=ready.mqtt_port)
        send_all(mqtt, MqttAccount(), node, "b00t", bodies, on_safe=safe.append)
    finally:
        uplink.close()
    assert sum(safe) == 10
    assert {one["seq"]: one["ts"] for one in uplink.came} == {
        i + 1: 1_700_000_000 + i for i in range(10)
    }
    again = [one for one in uplink.came[9:] if one["seq"] == 4]
    assert again[0]["first"] == 4


def test_a_node_that_nobody_answers_gives_up(ready: Stack, monkeypatch):
    monkeypatch.setattr("infra.household.mqtt_node.GIVE_UP_S", 0.5)
    mqtt, node = MqttConnection(port=ready.mqtt_port), Node("home-y", "y")
    with pytest.raises(ConnectionError, match="does the uplink run"):
        send_all(mqtt, MqttAccount(), node, "b", ['"ts":1}'])
