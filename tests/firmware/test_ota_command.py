"""An `ota` command on its way from the roll-out to the node's hands; no server is needed."""

from typing import Any

import msgspec
import pytest
from node.command import Command, Refused, read
from node.mqtt_client import INCOMING_BYTES
from ota.record import Record
from ota.updates import Updates, provision
from ota_device import CutFlash

from infra.firmware_bundle import record_of
from ingest.encoders.family_table import encode
from schemas.command import CommandRequest, Kind
from schemas.firmware import Envelope, OtaParameters
from streams.firmware.documents import manifest_of, sign_manifest
from tests.streams.firmware.test_documents import KEYS, root

NOW_S = 1_763_700_000
DEVICE = {"product": "node", "hw_rev": "r1", "slot_bytes": 2**20}


def told(image_bytes: int, roots: list[Envelope]) -> bytes:
    """The payload that the downlink publishes."""
    manifest = manifest_of(
        bytes(image_bytes),
        product="node",
        hw_rev="r1",
        version="2.0",
        security_counter=3,
        created=NOW_S,
        expires=NOW_S + 86_400,
        signer=KEYS[3].public_key(),
    )
    url = f"http://meterstream.example.org:8080/firmware/{manifest.sha256}"
    parameters = OtaParameters(sign_manifest(manifest, KEYS[3]), url, roots)
    request = CommandRequest(
        command_id="0193a1b2-0000-7000-8000-000000000001",
        command_seq=17,
        device_id=1,
        address="homesync:h/n1",
        kind=Kind.OTA,
        channel=None,
        parameters=msgspec.to_builtins(parameters),
        issued_us=NOW_S * 10**6,
        expires_us=(NOW_S + 3600) * 10**6,
        issued_by="rule:rollout-1",
    )
    sent = encode(request)
    assert sent.topic == "homesync/h/nodes/n1/command/ota"
    return sent.payload


def parameters_of(command: Command) -> Any:
    """They are read when nothing else needs the node's memory."""
    assert command.parameters == {}
    return msgspec.json.decode(command.payload)["parameters"]


@pytest.mark.parametrize("image_bytes", [1, 100_000, 300_000, 1_000_000])
@pytest.mark.parametrize("rotations", [0, 2])
def test_a_node_takes_what_the_server_sends(image_bytes: int, rotations: int):
    roots = [root(version + 2)[1] for version in range(rotations)]
    payload = told(image_bytes, roots)
    assert len(payload) < INCOMING_BYTES - 200  # beside its topic
    flash = CutFlash("prefix")
    provision(flash, msgspec.to_builtins(root()[0]))
    updates = Updates(flash, DEVICE, lambda _url, offset, length: bytes(length))
    command = read("ota", payload)
    updates.command(parameters_of(command), command.command_id, NOW_S)
    while updates.step(NOW_S):
        pass
    assert updates.ready


def test_the_same_command_again_changes_nothing_once_it_is_staged():
    flash = CutFlash("prefix")
    provision(flash, msgspec.to_builtins(root()[0]))
    command = read("ota", told(5000, []))
    for _ in range(3):
        updates = Updates(flash, DEVICE, lambda _url, offset, length: bytes(length))
        updates.command(parameters_of(command), command.command_id, NOW_S)
        while updates.step(NOW_S):
            pass
        assert updates.ready
    assert updates.report() is None


def test_the_root_that_goes_on_a_node_by_cable_is_the_one_it_believes():
    flash = CutFlash("prefix")
    flash.replace("root.0", record_of(root()[0]))
    command = read("ota", told(5000, []))
    Updates(flash, DEVICE, lambda *_: b"").command(parameters_of(command), "c1", NOW_S)
    assert Record(flash, "root").load() == msgspec.to_builtins(root()[0])


def test_a_command_whose_parameters_come_before_all_else_is_refused():
    with pytest.raises(Refused, match="command_id is missing"):
        read("ota", b'{"parameters": {}, "command_id": "c1"}')
    with pytest.raises(Refused, match="do not begin within"):
        read("ota", b'{"command_id": "c1", "x": "' + b"y" * 500 + b'", "parameters": {}}')
