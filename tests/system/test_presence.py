"""A device falls silent, says farewell and comes back; a kill and a replay change nothing of it."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from schemas.models import Model
from schemas.topics import ALERT, DEVICE
from sinks.device_details import change_device
from sinks.models import set_model
from sinks.registry import claim_device
from tests.system.conftest import Node, Pipeline, Publisher, TopicReader, wait_for

pytestmark = pytest.mark.stack

LATE, OFFLINE = timedelta(seconds=3), timedelta(seconds=8)
MODEL = Model("presence-test", "homesync", 1, 3, 8)
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(pipeline: Pipeline) -> Iterator[Start]:
    """Starts the presence process; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def one() -> "subprocess.Popen[str]":
        running.append(pipeline.spawn("-m", "streams.presence", METERSTREAM_PRESENCE_PAUSE_S="0.2"))
        return running[-1]

    yield one
    for process in running:
        if process.poll() is None:
            process.kill()
        print(process.communicate()[0][-2000:])


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    process.send_signal(number)
    assert process.wait(60) == (0 if number is signal.SIGTERM else -number)


def with_will(pipeline: Pipeline, node: Node) -> Client:
    """A connected client whose last will says that the node is offline."""
    topic = node.topic.partition("/telemetry/")[0] + "/online"
    client = Client(CallbackAPIVersion.VERSION2, f"will-{node.home}")
    client.will_set(topic, b"offline", qos=1)
    client.connect("127.0.0.1", pipeline.stack.mqtt_port)
    client.loop_start()
    client.publish(topic, b"online", qos=1).wait_for_publish(60)
    return client


def test_silence_farewell_return_kill_and_replay(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str, start: Start
):
    node = Node(publisher, home)
    with psycopg.connect(pipeline.stack.database_url) as conn:
        set_model(conn, MODEL)
        device_id = claim_device(conn, node.address, f"Presence {home}", home, "Asia/Bangkok")
        change_device(conn, device_id, {"model": MODEL.name})

    def rows() -> list[tuple[Any, ...]]:
        return pipeline.query(
            "SELECT state::text, reason, since_at, heard_at FROM device_presence "
            "WHERE device_id = %s ORDER BY since_at, state",
            device_id,
        )

    def told(*states: str) -> Callable[[], bool]:
        return lambda: tuple(row[0] for row in rows()) == states

    process = start()
    node.say(None, power_w=100.0)
    node.safe()
    wait_for(told("online", "late", "offline"), "a silent device is offline")
    first, late, offline = rows()
    assert first[1:2] == ("first",)
    assert (late[1:], offline[1:]) == (
        ("silence", first[2] + LATE, first[2]),
        ("silence", first[2] + OFFLINE, first[2]),
    )

    end(process, signal.SIGKILL)
    node.say(None, power_w=100.0)
    node.safe()
    client = with_will(pipeline, node)
    process = start()
    wait_for(lambda: len(rows()) >= 4, "it is back")
    assert rows()[3][:2] == ("online", "heard")
    said_offline = (
        "SELECT value = 'false' FROM device_state WHERE device_id = %s AND field = 'online'"
    )
    pipeline.caught_up()
    before = len(rows())
    if rows()[-1][0] != "online":  # a slow machine: silent meanwhile
        client.publish(node.topic.partition("/telemetry/")[0] + "/online", b"online", qos=1)
        wait_for(lambda: rows()[-1][0] == "online" and len(rows()) > before, "it is back again")
    client.loop_stop()
    sock = client.socket()
    assert sock is not None
    sock.close()  # no DISCONNECT: the broker speaks the will
    wait_for(lambda: pipeline.value(said_offline, device_id), "the will is stored")
    wait_for(lambda: rows()[-1][0] == "offline", "the will is believed")

    def alerts(record: Any) -> bool:
        return record.value != b"" and record.document.get("device_id") == device_id

    raised = [one for one in rows() if one[0] == "offline"]
    wait_for(
        lambda: pipeline.value(
            "SELECT bool_and(announced) FROM device_presence WHERE device_id = %s", device_id
        ),
        "all is told",
    )
    found = {one.document["alert_id"]: one.document for one in topics.of(ALERT.name, alerts)}
    turns = sorted(
        (one["at"], one["turn"]) for one in found.values() if one["kind"] == "device_offline"
    )
    assert [turn for _, turn in turns] == (["raised", "cleared"] * len(raised))[: len(turns)]
    assert {one["home_id"] for one in found.values()} == {home}

    def told() -> object:
        states = topics.of(DEVICE.name, lambda one: one.key == str(device_id))
        fields: dict[str, object] = {}
        for state in states[-1].document["states"]:
            fields |= state["fields"]
        return fields["presence"]

    wait_for(lambda: told() == "offline", "the topic has the newest presence")

    end(process, signal.SIGTERM)
    whole = rows()
    assert whole[-1][0] == "offline"
    with psycopg.connect(pipeline.stack.database_url) as conn:
        conn.execute("TRUNCATE device_presence, presence, presence_progress")
        conn.execute("DELETE FROM device_state WHERE field = 'presence'")
    process = start()
    wait_for(lambda: rows() == whole, "the log gives the same rows again")
    end(process, signal.SIGTERM)
    assert rows() == whole
