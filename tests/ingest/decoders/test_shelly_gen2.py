import json

import pytest
from wire import NOW_S, NOW_US, RECEIVED_US, SHELLY, decoded, readings, refused

from ingest.decoders.topic_table import decode
from schemas.decoded import Reason
from schemas.reading import Clock
from schemas.units import DAY_US

PLUG = "shellyplugsg3-b08184a53f24"
METER = "shellypro3em-ec6260890b50"
# Captures are older than the 90 days that a live message may be.
ALWAYS = {"received_us": 1_790_000_000_000_000, "oldest_us_back": 4_000 * DAY_US}

needs_captures = pytest.mark.skipif(
    not SHELLY.is_dir(), reason=f"captured frames of Shelly devices are not in {SHELLY}"
)
FRAMES = sorted((SHELLY / "frames").glob("*.json"))


def notified(params, src=PLUG, prefix=PLUG, **kwargs):
    frame = {"src": src, "dst": f"{prefix}/events", "method": "NotifyStatus", "params": params}
    return decoded(f"{prefix}/events/rpc", frame, **kwargs)


def measured(params, **kwargs):
    frame = {"src": PLUG, "method": "NotifyStatus", "params": params}
    return readings(f"{PLUG}/events/rpc", frame, **kwargs)


def status(dump):
    """The status of a dumped device, as it is sent when the device connects."""
    said = json.loads((SHELLY / "dumps" / dump).read_text())
    device = said["shelly"]["id"]
    params = {"ts": said["status"]["sys"]["unixtime"]} | said["status"]
    frame = {"src": device, "method": "NotifyFullStatus", "params": params}
    message = decoded(f"{device}/events/rpc", frame, **ALWAYS)
    assert message.address == f"shelly:{device}"
    return message, readings(f"{device}/events/rpc", frame, **ALWAYS)


@needs_captures
@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_every_captured_frame_says_what_its_name_says(path):
    kind, _, component, *event = path.stem.split("__")
    frame = json.loads(path.read_bytes())
    message = decode(f"{frame['src']}/events/rpc", path.read_bytes(), **ALWAYS)
    assert message.address == f"shelly:{frame['src']}"
    assert message.readings == []
    if kind == "notify_event":
        said, *reports = message.events
        told = ["config_report"] if event == ["config_changed"] else []
        assert [one.name for one in reports] == told
        assert said.name.replace("-", "_") == event[0]
        assert said.channel.replace(":", "_") == component
        assert said.measured_us == round(frame["params"]["ts"] * 1_000_000)
        assert message.states == []
    else:
        assert message.events == []
        states = [(state.channel, state.fields) for state in message.states]
        assert states == ([(None, {"online": True})] if component == "mqtt" else [])


@needs_captures
def test_events_keep_what_they_say():
    path = SHELLY / "frames" / "notify_event__shelly1minig3__script_3__remote_input_event.json"
    src = json.loads(path.read_bytes())["src"]
    (event,) = decode(f"{src}/events/rpc", path.read_bytes(), **ALWAYS).events
    assert event.attributes == {
        "data.component": "switch:0", "data.src": "shellyplus1-b8d61a85ed58",
    }  # fmt: skip


@needs_captures
def test_the_status_of_a_three_phase_meter():
    message, by_channel = status("pro3em_fw1.1.0.json")
    assert by_channel == {
        "l1": {
            "power_w": 375.5, "voltage_v": 229.0, "current_a": 2.392, "apparent_va": 547.4,
            "power_factor": 0.76, "frequency_hz": 50.0, "import_total_wh": 2034616.71,
            "export_total_wh": 0.0,
        },
        "l2": {
            "power_w": 170.8, "voltage_v": 229.0, "current_a": 1.037, "apparent_va": 237.2,
            "power_factor": 0.78, "frequency_hz": 50.0, "import_total_wh": 185686.89,
            "export_total_wh": 40.7,
        },
        "l3": {
            "power_w": 12.7, "voltage_v": 229.2, "current_a": 0.428, "apparent_va": 97.8,
            "power_factor": 0.53, "frequency_hz": 50.0, "import_total_wh": 369469.8,
            "export_total_wh": 985.91,
        },
        "total": {
            "power_w": 558.965, "current_a": 3.856, "apparent_va": 882.413,
            "import_total_wh": 2589773.39, "export_total_wh": 1026.61,
        },
        "temperature:0": {"temperature_c": 46.6},
    }  # fmt: skip
    phases_w = sum(by_channel[phase]["power_w"] for phase in ("l1", "l2", "l3"))
    assert phases_w == pytest.approx(by_channel["total"]["power_w"], abs=0.1)
    assert {each.measured_us for each in message.readings} == {1_707_326_927_000_000}
    assert [(state.channel, state.fields) for state in message.states] == [
        (None, {"ip": "192.168.1.105", "mac": "AABBCCDDEEFF", "uptime_s": 2085615.0})
    ]


@needs_captures
def test_the_status_of_a_metering_switch():
    message, by_channel = status("plus1pm_fw1.1.0.json")
    assert by_channel == {
        "switch:0": {
            "power_w": 0.0, "voltage_v": 232.8, "current_a": 0.0, "import_total_wh": 110.046,
            "temperature_c": 30.3,
        }
    }  # fmt: skip
    assert {state.channel: state.fields for state in message.states} == {
        "switch:0": {"relay": False, "switched_by": "WS_in"},
        None: {
            "mac": "AABBCCDDEEFF", "uptime_s": 2622735.0, "rssi_dbm": -64, "ip": "192.168.1.52",
        },
    }  # fmt: skip


@needs_captures
def test_a_device_that_does_not_meter_has_no_readings():
    message, by_channel = status("pro3_fw1.1.0.json")
    assert by_channel == {}
    relays = {state.channel: state.fields for state in message.states if state.channel}
    assert relays == {
        f"switch:{number}": {"relay": False, "switched_by": "WS_in"} for number in range(3)
    }


def test_a_minute_of_210_969_mwh_is_12_66_w():
    zero = {"by_minute": [0, 0, 0], "minute_ts": 1755016500, "total": 0}
    both = {"by_minute": [210.969, 210.969, 0], "minute_ts": 1755016500, "total": 18572.574}
    switch = {"aenergy": both, "id": 0, "ret_aenergy": zero}
    (said,) = measured({"switch:0": switch, "ts": 1755016500}, **ALWAYS).values()
    assert said == {
        "import_total_wh": 18572.574, "export_total_wh": 0.0,
        "interval_s": 60.0, "interval_import_wh": 0.210969,
    }  # fmt: skip
    assert said["interval_import_wh"] * 60 == pytest.approx(12.66, abs=0.005)


@pytest.mark.parametrize(
    ("ts", "minute_ts"), [(1755016503.2, 1755016500), (1755016534, 1755016534), (9.0, 9)]
)
def test_a_minute_that_does_not_end_at_the_message_is_left_out(ts, minute_ts):
    both = {"by_minute": [210.969], "minute_ts": minute_ts, "total": 18572.574}
    said = measured({"switch:0": {"aenergy": both}, "ts": ts}, **ALWAYS)
    assert said == {"switch:0": {"import_total_wh": 18572.574}}


@pytest.mark.parametrize(
    ("both_wh", "back_wh", "import_wh", "export_wh"),
    [(10000, 4000, 6000.0, 4000.0), (4000, 4000, 0.0, 4000.0), (18572.574, 0, 18572.574, 0.0),
     (0.3, 0.1, 0.2, 0.1)],
)  # fmt: skip
def test_with_returned_energy_the_total_holds_both_directions(
    both_wh, back_wh, import_wh, export_wh
):
    switch = {"aenergy": {"total": both_wh}, "ret_aenergy": {"total": back_wh}}
    assert measured({"switch:0": switch}) == {
        "switch:0": {"import_total_wh": import_wh, "export_total_wh": export_wh}
    }


def test_a_plug_says_watts_and_watt_hours():
    switch = {"id": 0, "output": True, "apower": 399.2, "aenergy": {"total": 2574466.629}}
    message = notified({"switch:0": switch, "ts": NOW_S})
    (reading,) = message.readings
    assert (reading.channel, reading.measured_us, reading.clock) == (
        "switch:0", NOW_US, Clock.DEVICE,
    )  # fmt: skip
    assert (reading.values.power_w, reading.values.import_total_wh) == (399.2, 2574466.629)
    assert (message.states[0].channel, message.states[0].fields) == ("switch:0", {"relay": True})


def test_a_full_status_after_a_cold_start():
    payload = (
        b'{"id":0,"source":"init","output":false,"apower":0.0,"voltage":232.7,"current":0.000,'
        b'"aenergy":{"total":0.000,"by_minute":[0.000,0.000,0.000],"minute_ts":1661517385},'
        b'"temperature":{"tC":39.2,"tF":102.5},"errors":["overpower","overtemp"]}'
    )
    message = decoded(f"{PLUG}/status/switch:0", payload)
    assert readings(f"{PLUG}/status/switch:0", payload) == {
        "switch:0": {
            "power_w": 0.0, "voltage_v": 232.7, "current_a": 0.0, "import_total_wh": 0.0,
            "temperature_c": 39.2,
        }
    }  # fmt: skip
    assert message.readings[0].clock is Clock.RECEIVED_NO_CLOCK
    assert message.states[0].fields == {
        "relay": False, "switched_by": "init", "alarm": "overpower,overtemp",
    }  # fmt: skip


def test_an_overlay_without_the_components_id_is_understood():
    message = notified({"switch:0": {"output": True, "source": "loopback"}, "ts": NOW_S})
    assert message.readings == []
    assert [(state.channel, state.fields) for state in message.states] == [
        ("switch:0", {"relay": True, "switched_by": "loopback"})
    ]


def test_a_relays_own_temperature_alone_is_no_reading():
    switch = {"temperature": {"tC": 47.93, "tF": 118.27}}
    assert measured({"switch:0": switch, "ts": NOW_S}) == {}


def test_seconds_since_boot_are_no_time():
    frame = (
        b'{"src":"shellyplus1pm-4417939341dc","dst":"shellies/plus1pm/events",'
        b'"method":"NotifyStatus","params":{"ts":1.61,"mqtt":{"connected":true},"pm1:0":{"apower":5}}}'
    )
    message = decoded("shellies/plus1pm/events/rpc", frame)
    assert message.address == "shelly:shellies/plus1pm"
    assert (message.readings[0].measured_us, message.readings[0].clock) == (
        RECEIVED_US, Clock.RECEIVED_SINCE_BOOT,
    )  # fmt: skip
    assert message.states[0].fields == {"online": True}


def test_phases_may_flow_either_way_and_the_neutral_may_be_absent():
    em = {
        "id": 0, "a_current": 0.132, "a_voltage": 236.0, "a_act_power": -3.9, "a_aprt_power": 31.0,
        "a_pf": -0.53, "n_current": None, "total_current": 1.094, "total_act_power": 103.610,
        "total_aprt_power": 258.799, "user_calibrated_phase": [], "errors": ["phase_sequence"],
    }  # fmt: skip
    message = decoded(f"{METER}/status/em:0", em)
    assert readings(f"{METER}/status/em:0", em) == {
        "l1": {"power_w": -3.9, "voltage_v": 236.0, "current_a": 0.132, "apparent_va": 31.0,
               "power_factor": -0.53},
        "total": {"power_w": 103.61, "current_a": 1.094, "apparent_va": 258.799},
    }  # fmt: skip
    assert (message.states[0].channel, message.states[0].fields) == (
        "total", {"alarm": "phase_sequence"},
    )  # fmt: skip
    assert readings(f"{METER}/status/em:0", em | {"n_current": 0.5})["n"] == {"current_a": 0.5}


def test_registers_belong_to_the_channel_whose_power_they_count():
    params = {
        "ts": NOW_S,
        "em1:1": {"id": 1, "current": 2.681, "voltage": 236.7, "act_power": -607.3,
                  "aprt_power": 636.0, "pf": 0.95, "freq": 50.0, "calibration": "factory"},
        "em1data:1": {"id": 1, "total_act_energy": 1.5, "total_act_ret_energy": 2075.0},
    }  # fmt: skip
    assert measured(params) == {
        "em1:1": {
            "power_w": -607.3, "voltage_v": 236.7, "current_a": 2.681, "apparent_va": 636.0,
            "power_factor": 0.95, "frequency_hz": 50.0, "import_total_wh": 1.5,
            "export_total_wh": 2075.0,
        }
    }  # fmt: skip


def test_a_reply_with_the_whole_status_is_read_like_a_notification():
    topic = f"meterstream/{METER}/rpc"
    result = {
        "em:0": {"id": 0, "a_act_power": 342.8, "n_current": None, "total_act_power": 1300.252},
        "emdata:0": {"id": 0, "a_total_act_energy": 1075513.08, "total_act": 2852055.81,
                     "total_act_ret": 0.0},
    }  # fmt: skip
    reply = {"id": 1, "src": METER, "dst": f"meterstream/{METER}", "result": result}
    assert decoded(topic, reply).address == f"shelly:{METER}"
    assert readings(topic, reply) == {
        "l1": {"power_w": 342.8, "import_total_wh": 1075513.08},
        "total": {"power_w": 1300.252, "import_total_wh": 2852055.81, "export_total_wh": 0.0},
    }


def test_other_replies_are_events():
    topic = f"meterstream/{PLUG}/rpc"
    (event,) = decoded(topic, {"id": "ask", "src": PLUG, "result": {"was_on": False}}).events
    assert (event.name, event.attributes) == ("rpc_reply", {"id": "ask", "was_on": False})
    error = {"code": -109, "message": "shutting down in 952 ms"}
    (event,) = decoded(topic, {"id": 0, "src": PLUG, "error": error}).events
    assert event.attributes == {"id": 0, "code": -109, "message": "shutting down in 952 ms"}


def test_a_reply_to_a_commands_number_is_its_answer():
    topic = f"meterstream/{PLUG}/rpc"
    (event,) = decoded(topic, {"id": 7, "src": PLUG, "result": {"was_on": False}}).events
    assert event.name == "command_response"
    assert event.attributes == {"command_seq": 7, "was_on": False, "outcome": "done"}
    (event,) = decoded(topic, {"id": 8, "src": PLUG, "result": None}).events
    assert event.attributes == {"command_seq": 8, "outcome": "done"}
    error = {"code": -109, "message": "shutting down in 952 ms"}
    (event,) = decoded(topic, {"id": 9, "src": PLUG, "error": error}).events
    assert event.attributes == {
        "command_seq": 9, "code": -109, "message": "shutting down in 952 ms",
        "outcome": "failed", "reason": "shutting down in 952 ms",
    }  # fmt: skip


def test_an_answer_may_say_what_the_device_is():
    topic = f"meterstream/{PLUG}/rpc"
    about = {"model": "SNPL-1", "mac": "B08184A53F24", "ver": "1.7.0", "fw_id": "x"}
    (state,) = decoded(topic, {"id": 1, "src": PLUG, "result": about}).states
    assert state.fields == {"model": "SNPL-1", "mac": "B08184A53F24", "firmware": "1.7.0"}


SYSTEM = {
    "device": {"name": "Kitchen", "mac": PLUG[-12:].upper(), "fw_id": "x", "eco_mode": True},
    "location": {"tz": "Asia/Bangkok", "lat": 13.75, "lon": None},
    "rpc_udp": {"dst_addr": None, "listen_port": None},
    "cfg_rev": 12,
}


@pytest.mark.parametrize(("request_id", "answer"), [("ask", "rpc_reply"), (7, "command_response")])
def test_the_answer_to_a_question_for_settings_reports_them(request_id, answer):
    whole = {
        "sys": SYSTEM,
        "switch:0": {"id": 0, "initial_state": "restore_last", "auto_off_delay": 60.0},
        "wifi": {
            "sta": {"ssid": "home", "pass": "secret", "enable": True},
            "roam": {"rssi_thr": -80},
        },
        "mqtt": {"enable": True, "server": "10.0.0.2:8883", "topic_prefix": PLUG},
        "schedule": {"times": [1, 2]},
    }
    topic = f"meterstream/{PLUG}/rpc"
    reply = decoded(topic, {"id": request_id, "src": PLUG, "result": whole})
    first, report = reply.events
    assert (first.name, report.name) == (answer, "config_report")
    assert "sys.cfg_rev" not in first.attributes
    assert report.attributes == {
        "sys.device.name": "Kitchen", "sys.device.mac": PLUG[-12:].upper(), "sys.device.fw_id": "x",
        "sys.device.eco_mode": True, "sys.location.tz": "Asia/Bangkok", "sys.location.lat": 13.75,
        "sys.location.lon": None, "sys.rpc_udp.dst_addr": None, "sys.rpc_udp.listen_port": None,
        "sys.cfg_rev": 12, "switch:0.id": 0, "switch:0.initial_state": "restore_last",
        "switch:0.auto_off_delay": 60.0, "wifi.sta.ssid": "home", "wifi.sta.enable": True,
        "wifi.roam.rssi_thr": -80, "mqtt.enable": True, "mqtt.server": "10.0.0.2:8883",
        "mqtt.topic_prefix": PLUG,
    }  # fmt: skip
    assert (reply.readings, reply.states) == ([], [])
    alone = decoded(topic, {"id": request_id, "src": PLUG, "result": SYSTEM}).events[1]
    assert {f"{name}" for name in alone.attributes} == {
        name for name in report.attributes if name.startswith("sys.")
    }


def test_a_changed_configuration_says_its_revision():
    event = {"component": "sys", "event": "config_changed", "restart_required": False,
             "ts": NOW_S, "cfg_rev": 13}  # fmt: skip
    frame = {"src": PLUG, "method": "NotifyEvent", "params": {"ts": NOW_S, "events": [event]}}
    changed, report = decoded(f"{PLUG}/events/rpc", frame).events
    assert (changed.name, changed.channel) == ("config_changed", "sys")
    assert (report.name, report.attributes) == ("config_report", {"sys.cfg_rev": 13})


def test_more_settings_than_any_device_has_are_refused():
    topic, many = f"meterstream/{PLUG}/rpc", {f"n{n}": n for n in range(501)}
    result = {"sys": SYSTEM, "other": many}
    refused(topic, {"id": "ask", "src": PLUG, "result": result}, Reason.OUT_OF_RANGE)


def test_the_last_will_says_offline():
    message = decode(f"{PLUG}/online", b"false", RECEIVED_US, retained=True)
    assert [(state.fields, state.retained) for state in message.states] == [
        ({"online": False}, True)
    ]


def test_a_custom_prefix_may_be_anybodys():
    assert notified({"ts": NOW_S, "sys": {}}, prefix="plug").address == "shelly:plug"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"src": "shellyplugsg3-e4b3233885e8", "method": "NotifyStatus", "params": {}},
         Reason.WRONG_IDENTITY),
        ({"src": 5, "method": "NotifyStatus", "params": {}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus"}, Reason.WRONG_TYPE),
        ({"method": "NotifyMood", "params": {}}, Reason.MISSING_VALUE),
        ({"params": {}}, Reason.MISSING_VALUE),
        ({"method": "NotifyEvent", "params": {"events": {}}}, Reason.WRONG_TYPE),
        ({"method": "NotifyEvent", "params": {"events": [{"event": "x"}]}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"ts": "now"}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"switch:0": None}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"switch:0 x": {}}}, Reason.OUT_OF_RANGE),
        ({"method": "NotifyStatus", "params": {"switch:0": {"output": "on"}}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"switch:0": {"apower": "5"}}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"switch:0": {"voltage": -5}}}, Reason.OUT_OF_RANGE),
        ({"method": "NotifyStatus", "params": {"switch:0": {"errors": "none"}}}, Reason.WRONG_TYPE),
        ({"method": "NotifyStatus", "params": {"emdata:0": {"total_act": -5}}},
         Reason.OUT_OF_RANGE),
        ({"method": "NotifyStatus", "params": {
            "switch:0": {"aenergy": {"total": 1}, "ret_aenergy": {"total": 2}}}},
         Reason.OUT_OF_RANGE),
    ],
)  # fmt: skip
def test_wrong_frames_are_refused(frame, reason):
    refused(f"{PLUG}/events/rpc", frame, reason)
