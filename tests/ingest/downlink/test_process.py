"""`python -m ingest.downlink` between the real Kafka and the real Mosquitto."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from devices_and_logs import DownlinkProcess, Events, Listener, Requests, wait_for

from infra.local import Stack
from infra.local.errors import NotReady
from schemas.command import CommandState, Kind

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

KILLS = 5


def ids(listener: Listener) -> list[str]:
    return [json.loads(one.payload)["command_id"] for one in listener.heard]


def seqs(listener: Listener) -> list[int]:
    return [json.loads(one.payload)["id"] for one in listener.heard]


def answers(servers: Stack, name: str) -> bool:
    """Whether a server that was killed is back; on a busy machine that takes its time."""
    try:
        servers.wait_ready(name)
    except NotReady:
        return False
    return True


def test_a_command_reaches_its_device_unretained_with_an_expiry(
    downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    device = listen("plug-a/rpc")
    command = requests.ask("shelly:plug-a", Kind.ON, channel="switch:0")
    wait_for(lambda: device.heard, "the device hears it")
    (heard,) = device.heard
    assert json.loads(heard.payload)["params"] == {"id": 0, "on": True}
    assert not heard.retain
    assert heard.expiry_s is not None
    assert 0 < heard.expiry_s <= 59
    sent = events.wait(command, CommandState.SENT)
    assert sent.at_us / 1e6 <= heard.at
    print(f"request to device: {heard.at - command.issued_us / 1e6:.4f} s")
    later = listen("plug-a/rpc")
    requests.ask("shelly:plug-a", Kind.OFF)
    wait_for(lambda: later.heard, "the next command")
    assert seqs(later) == [2]


def test_a_wrong_command_fails_with_a_reason_and_is_not_sent(
    downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    device = listen("plug-b/#")
    wrong = requests.ask("shelly:plug-b", Kind.CALIBRATE)
    assert "no calibrate" in str(events.wait(wrong, CommandState.FAILED).reason)
    requests.ask("shelly:plug-b", Kind.ON)
    wait_for(lambda: device.heard, "the good one")
    assert seqs(device) == [2]


def test_kafka_may_bring_a_request_twice(
    downlink: DownlinkProcess, requests: Requests, listen: Callable[..., Listener]
):
    device = listen("plug-c/rpc")
    first, second = requests.make("shelly:plug-c"), requests.make("shelly:plug-c", Kind.OFF)
    requests.send(first, first, second, first, second)
    last = requests.ask("shelly:plug-c")
    wait_for(lambda: last.command_seq in seqs(device), "the last one")
    assert seqs(device) == [1, 2, 3]


def test_a_device_that_comes_later_gets_what_has_not_expired_in_order(
    downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    short = requests.ask("shelly:plug-d", Kind.ON, lives_s=4)
    requests.ask("shelly:plug-d", Kind.OFF, lives_s=300)
    requests.ask("shelly:plug-d", Kind.ON, lives_s=300)
    assert "no device listened" in str(events.wait(short, CommandState.EXPIRED).reason)
    device = listen("plug-d/rpc")
    wait_for(lambda: len(device.heard) >= 2, "both that still live")
    assert seqs(device) == [2, 3]


def test_a_node_is_asked_again_until_it_has_answered(
    downlink: DownlinkProcess, requests: Requests, listen: Callable[..., Listener]
):
    device = listen("homesync/h/nodes/n/command/#")
    command = requests.ask("homesync:h/n", Kind.TOGGLE)
    wait_for(lambda: len(device.heard) >= 3, "it is repeated")
    requests.say(command, CommandState.DONE)
    settled = wait_for(lambda: downlink.metric("open") == 0, "it is settled")
    assert settled
    count = len(device.heard)
    time.sleep(6)
    assert set(ids(device)) == {command.command_id}
    assert len(device.heard) == count


def test_the_broker_away_they_wait_or_expire(
    servers: Stack, downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    servers.stop_process("mosquitto")
    try:
        short = requests.ask("shelly:plug-e", Kind.ON, lives_s=5)
        long = requests.ask("shelly:plug-e", Kind.OFF, lives_s=300)
        late = events.wait(short, CommandState.EXPIRED)
        assert "before it could be sent" in str(late.reason)
    finally:
        servers.start_process("mosquitto")
    device = listen("plug-e/rpc")
    wait_for(lambda: device.heard, "what has not expired is sent")
    assert seqs(device) == [long.command_seq]


def test_kafka_away_nothing_is_lost_or_sent_twice(
    servers: Stack, downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    device = listen("plug-f/rpc")
    requests.ask("shelly:plug-f", lives_s=600)
    wait_for(lambda: device.heard, "the first")
    os.kill(servers.pid("kafka"), signal.SIGKILL)
    wait_for(lambda: answers(servers, "kafka"), "Kafka is back")
    for _ in range(3):
        requests.ask("shelly:plug-f", lives_s=600)
    wait_for(lambda: len(device.heard) >= 4, "all of them")
    assert seqs(device) == [1, 2, 3, 4]


def test_killed_again_and_again_no_message_is_doubled(
    downlink: DownlinkProcess, requests: Requests, events: Events,
    listen: Callable[..., Listener],
):  # fmt: skip
    """A Shelly gets each command at most once, a node each at least once, both in their order."""
    chance = random.Random(7)
    device, node = listen("plug-g/rpc"), listen("homesync/h/nodes/g/command/relay")
    asked = []
    for _ in range(KILLS):
        for _ in range(10):
            asked.append(requests.ask("shelly:plug-g", lives_s=600))
            answered = requests.ask("homesync:h/g", lives_s=600)
            asked.append(answered)
            time.sleep(chance.uniform(0, 0.03))
        downlink.end(signal.SIGKILL)
        downlink.start()
    downlink.wait_ready()
    last = requests.ask("shelly:plug-g", lives_s=600)
    nodes = [one.command_id for one in asked if one.address == "homesync:h/g"]
    wait_for(lambda: set(ids(node)) == set(nodes), "the node has heard all")
    wait_for(lambda: last.command_seq in seqs(device), "the last one")
    for one in asked:
        if one.address == "homesync:h/g":
            requests.say(one, CommandState.DONE)
    heard = seqs(device)
    assert heard == sorted(set(heard)), "each once, in order"
    lost = KILLS * 10 + 1 - len(heard)
    assert lost <= KILLS * 10
    firsts = list(dict.fromkeys(ids(node)))
    assert firsts == nodes
    wait_for(lambda: events.of(last), "what was said has been read")
    said = Counter(one.command_id for one in events.all if one.state is CommandState.SENT)
    assert set(said.values()) == {1}
    print(f"{len(heard)} of {KILLS * 10 + 1} reached the Shelly, once each; {KILLS} kills")


def test_the_one_that_loses_its_session_to_another_ends(
    servers: Stack, downlink: DownlinkProcess, requests: Requests,
    listen: Callable[..., Listener], tmp_path,
):  # fmt: skip
    device = listen("plug-h/rpc")
    other = DownlinkProcess(servers, tmp_path / "other.log")
    try:
        other.start().wait_ready()
        assert downlink.wait() == 70
        requests.ask("shelly:plug-h")
        wait_for(lambda: device.heard, "the other one sends")
        assert other.end() == 0
    finally:
        other.close()
