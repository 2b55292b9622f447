import json

import pytest
import typer
from typer.testing import CliRunner
from wire import NOW_S, payload_of

from infra.cli.decode import register

AT = "2025-11-21T13:20:00+07:00"


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)  # a Typer app of one command has no command names
    register(app)

    def run_decode(topic, value, *arguments):
        return CliRunner().invoke(app, ["decode", topic, *arguments], input=payload_of(value))

    return run_decode


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_reading_is_a_line_with_the_values_it_has(run):
    envelope = {
        "v": 1, "boot": "5f", "seq": 812, "first": 790, "ts": NOW_S, "rssi_dbm": -61,
        "channels": {"total": {"power_w": -3.5}, "l1": {"voltage_v": 229}},
    }  # fmt: skip
    said = lines(run("homesync/h1/nodes/n1/telemetry/power", envelope, "--received-at", AT))
    common = {
        "kind": "reading", "address": "homesync:h1/n1", "clock": "device",
        "measured_at": "2025-11-21T06:19:59.250000Z", "seq": 812,
    }  # fmt: skip
    assert said == [
        common | {"channel": "total", "power_w": -3.5},
        common | {"channel": "l1", "voltage_v": 229.0},
        {
            "kind": "state",
            "address": "homesync:h1/n1",
            "measured_at": "2025-11-21T06:19:59.250000Z",
            "rssi_dbm": -61,
        },
    ]


def test_states_and_events_name_their_channel(run):
    switched = run("shellies/s/relay/0", b"on", "--received-at", "2025-11-21T06:20:00Z")
    assert lines(switched) == [
        {"kind": "state", "address": "shelly1:s", "channel": "relay:0", "relay": True,
         "measured_at": "2025-11-21T06:20:00Z"}
    ]  # fmt: skip
    pushed = {
        "method": "NotifyEvent",
        "params": {"ts": NOW_S, "events": [{"component": "sys", "event": "ota_error", "msg": "x"}]},
    }
    assert lines(run("s/events/rpc", pushed, "--received-at", AT)) == [
        {"kind": "event", "address": "shelly:s", "name": "ota_error", "channel": "sys",
         "measured_at": "2025-11-21T06:19:59.250000Z", "attributes": {"msg": "x"}}
    ]  # fmt: skip


def test_now_is_when_nobody_says_otherwise(run):
    (said,) = lines(run("devices/42/data", {"power": 5}))
    assert said["clock"] == "received_no_clock"


@pytest.mark.parametrize("payload", [b"{", b"\xff\x00", b'{"power": NaN}', b"[" * 1000])
def test_an_undecodable_message_is_one_line_on_stderr_and_exit_65(run, payload):
    result = run("devices/42/data", payload)
    assert result.exit_code == 65
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "devices/42/data" in result.stderr


@pytest.mark.parametrize("text", ["yesterday", "2025-11-21T06:20:00", "1763706000"])
def test_a_wrong_time_of_receipt_is_a_usage_error(run, text):
    result = run("devices/42/data", {"power": 5}, "--received-at", text)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "offset" in result.stderr
