"""From a command to a relay and back: each family's encoder, a device that speaks its protocol
(`infra.switches`, written from the makers' pages and not from the encoders), and its decoder.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.switches.device import Publish, Switch
from infra.switches.node import Node
from infra.switches.others import Tasmota, ThaiMonitor, WattAway, Zigbee
from infra.switches.shelly import ShellyGen1, ShellyGen2
from ingest.decoders.topic_table import decode
from ingest.encoders.family_table import encode
from ingest.encoders.outgoing import AnsweredBy
from schemas.command import ANSWER, CommandRequest, Kind
from schemas.device import Event
from schemas.units import SECOND_US

NOW_US = 1_763_706_000_000_000
SWITCHING = [Kind.ON, Kind.OFF]
FAMILIES = {
    "homesync": lambda: Node("n1", "h1"),
    "shelly": lambda: ShellyGen2("shellypro4pm-0123456789ab", 4),
    "shelly1": lambda: ShellyGen1("shellyswitch25-AB12CD", 2),
    "wattaway": lambda: WattAway("7"),
    "home": lambda: ThaiMonitor("pump", "h1"),
    "tasmota": lambda: Tasmota("tasmota_12AB", 3),
    "z2m": lambda: Zigbee("plug"),
}


def request(
    device: Switch, kind: Kind, relay: int, seq: int, expires_us: int = NOW_US + 30 * SECOND_US
) -> CommandRequest:
    return CommandRequest(
        command_id=f"0193f2a0-0000-7000-8000-{seq:012d}",
        command_seq=seq,
        device_id=1,
        address=device.address,
        kind=kind,
        channel=device.channel(relay),
        parameters={},
        issued_us=NOW_US,
        expires_us=expires_us,
        issued_by="user:u1",
    )


def deliver(device: Switch, command: CommandRequest, now_us: int = NOW_US) -> list[Publish]:
    outgoing = encode(command)
    return device.receive(outgoing.topic, outgoing.payload, now_us)


def answers(said: list[Publish]) -> list[Event]:
    decoded = [decode(one.topic, one.payload, NOW_US) for one in said]
    return [event for each in decoded for event in each.events if event.name == ANSWER]


def states(said: list[Publish], device: Switch, relay: int) -> list[object]:
    """The relay states that the messages tell, as they would be stored."""
    found = []
    for one in said:
        decoded = decode(one.topic, one.payload, NOW_US)
        assert decoded.address == device.address
        for state in decoded.states:
            if state.channel == device.channel(relay) and "relay" in state.fields:
                found.append(state.fields["relay"])
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.tuples(st.sampled_from(SWITCHING), st.integers(0, 3)), min_size=1, max_size=8),
)
def test_what_is_asked_is_done_and_said(family, asked):
    device = FAMILIES[family]()
    for seq, (kind, wanted_relay) in enumerate(asked, start=1):
        relay = wanted_relay % len(device.on)
        command = request(device, kind, relay, seq)
        before = list(device.on)
        said = deliver(device, command)
        assert device.on[relay] is (kind is Kind.ON)
        assert [on for at, on in enumerate(device.on) if at != relay] == [
            on for at, on in enumerate(before) if at != relay
        ]
        found = answers(said)
        match encode(command).answered_by:
            case AnsweredBy.ID:
                assert [one.attributes["command_id"] for one in found] == [command.command_id]
                assert found[0].attributes["outcome"] == "done"
            case AnsweredBy.SEQ:
                assert [one.attributes["command_seq"] for one in found] == [seq]
                assert found[0].attributes["outcome"] == "done"
            case _:
                assert not found
                assert states(said, device, relay)[-1] is (kind is Kind.ON)
        if before[relay] is not device.on[relay]:
            assert states(said, device, relay)[-1] is device.on[relay]
        assert len(device.take_ran()) == 1


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_node_runs_an_id_once_in_order_and_never_late(data):
    device = Node("n1", "h1")
    commands = [
        request(device, data.draw(st.sampled_from([*SWITCHING, Kind.TOGGLE])), 0, seq,
                NOW_US + data.draw(st.integers(1, 20)) * SECOND_US)
        for seq in range(1, 6)
    ]  # fmt: skip
    now_us = NOW_US
    for _ in range(data.draw(st.integers(1, 20))):
        command = data.draw(st.sampled_from(commands))
        now_us += data.draw(st.integers(0, 3 * SECOND_US))
        said = deliver(device, command, now_us)
        assert len(answers(said)) == 1
    ran = device.take_ran()
    assert len({one.command for one in ran}) == len(ran)
    by_id = {command.command_id: command for command in commands}
    assert all(one.at_us < by_id[one.command].expires_us for one in ran)
    seqs = [by_id[one.command].command_seq for one in ran]
    assert seqs == sorted(seqs)


def test_a_refusal_says_why():
    shelly = ShellyGen2("shellypro2-0123456789ab", 2)
    (answer,) = answers(deliver(shelly, request(shelly, Kind.ON, 3, 9)))
    assert answer.attributes["outcome"] == "failed"
    assert answer.attributes["command_seq"] == 9
    assert "not found" in str(answer.attributes["reason"])
    node = Node("n1", "h1")
    (answer,) = answers(deliver(node, request(node, Kind.ON, 0, 1, NOW_US), NOW_US))
    assert (answer.attributes["outcome"], answer.attributes["reason"]) == ("failed", "expired")
    assert not node.take_ran()
    socket = WattAway("7")
    (answer,) = answers(deliver(socket, request(socket, Kind.REBOOT, 0, 2)))
    assert (answer.attributes["outcome"], answer.attributes["reason"]) == (
        "failed", "unknown command",
    )  # fmt: skip


def test_a_shelly_flips_back_by_itself():
    shelly = ShellyGen2("shellypro2-0123456789ab", 2)
    command = request(shelly, Kind.ON, 1, 1)
    command.parameters = {"revert_after_s": 60}
    deliver(shelly, command)
    assert not shelly.tick(NOW_US + 59 * SECOND_US)
    said = shelly.tick(NOW_US + 60 * SECOND_US)
    assert states(said, shelly, 1) == [False]
    decoded = decode(said[0].topic, said[0].payload, NOW_US + 60 * SECOND_US)
    assert decoded.states[0].fields["switched_by"] == "timer"
