"""The thread through all parts: what meters say over MQTT, in tables and derived topics."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from schemas.topics import DEVICE, RAW_DLQ, READING, USAGE_1M, USAGE_15M
from schemas.units import MINUTE_US, SECOND_US
from schemas.usage import Quality
from tests.system.conftest import Node, Pipeline, Publisher, TopicReader, minute_ago, wait_for

pytestmark = pytest.mark.stack


def test_registers_become_minutes_quarters_hours_and_the_civil_day(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str
):
    #  minute    0      1      2  …  15     16
    #  Wh     1000   1003   1004  …  1017   1018      power stands still at 60 W, then 120 W
    start_us = minute_ago(180)
    node = Node(publisher, home)
    node.say(start_us, power_w=60.0, import_total_wh=1000.0)
    node.say(start_us + 30 * SECOND_US, power_w=60.0, import_total_wh=1002.0)
    for minute in range(1, 17):
        power_w = 60.0 if minute < 10 else 120.0
        node.say(start_us + minute * MINUTE_US, power_w=power_w, import_total_wh=1002.0 + minute)
    node.safe()
    pipeline.final(node.address)

    minutes = pipeline.minutes(node.address)
    assert [window.start_us for window in minutes] == [
        start_us + minute * MINUTE_US for minute in range(16)
    ]
    assert [window.energy_uwh for window in minutes] == [3_000_000] + [1_000_000] * 15
    assert [window.readings for window in minutes] == [2] + [1] * 15
    assert {window.quality for window in minutes} == {Quality.MEASURED}
    assert {window.revision for window in minutes} == {1}
    assert [window.power_avg_w for window in minutes] == [60.0] * 10 + [120.0] * 6
    quarters = pipeline.quarters(node.address)
    assert [(window.start_us, window.energy_uwh) for window in quarters] == [
        (start_us, 17_000_000),
        (start_us + 15 * MINUTE_US, 1_000_000),
    ]  # and none before the first reading
    assert (quarters[0].power_min_w, quarters[0].power_max_w) == (60.0, 120.0)
    assert (quarters[0].revision, quarters[0].readings) == (1, 16)

    at = datetime.fromtimestamp(start_us / SECOND_US, UTC)
    of_device = "JOIN channel USING (channel_id) JOIN device USING (device_id) WHERE address = %s"
    hours = pipeline.query(
        f"SELECT window_start, energy_uwh FROM usage_1h {of_device} ORDER BY 1", node.address
    )
    last_us = start_us + 15 * MINUTE_US  # whose minute may lie in the next hour, or day
    last = datetime.fromtimestamp(last_us / SECOND_US, UTC)
    expected: dict[datetime, int] = {}
    for instant, energy_uwh in ((at, 17_000_000), (last, 1_000_000)):
        hour = instant.replace(minute=0)
        expected[hour] = expected.get(hour, 0) + energy_uwh
    assert dict(hours) == expected
    civil = timedelta(hours=7)  # Bangkok
    days: dict[object, int] = {}
    for instant, energy_uwh in ((at, 17_000_000), (last, 1_000_000)):
        day = (instant + civil).date()
        days[day] = days.get(day, 0) + energy_uwh
    assert dict(pipeline.query(f"SELECT day, energy_uwh FROM usage_1d {of_device}",
                               node.address)) == days  # fmt: skip
    for table in ("usage_1w", "usage_1mo"):
        total = pipeline.value(f"SELECT sum(energy_uwh) FROM {table} {of_device}", node.address)
        assert total == 18_000_000

    def of_node(record) -> bool:
        return record.value and record.document["address"] == node.address

    windows = {
        record.document["window_start_us"]: record.document
        for record in topics.of(USAGE_1M.name, of_node, 16)
    }
    assert {start: said["energy_uwh"] for start, said in windows.items()} == {
        window.start_us: window.energy_uwh for window in minutes
    }
    (quarter,) = topics.of(USAGE_15M.name, of_node)
    assert quarter.document["energy_uwh"] == 17_000_000
    assert quarter.key == node.address  # unclaimed
    assert quarter.headers["ce_id"].endswith(b"/1")
    packed = topics.of(READING.name, of_node)
    said = [reading for record in packed for reading in record.document["readings"]]
    assert sorted(reading["seq"] for reading in said) == list(range(1, 19))
    assert said[0]["values"] == {"power_w": 60.0, "import_total_wh": 1000.0}
    assert {record.key for record in packed} == {str(record.document["device_id"])
                                                 for record in packed}  # fmt: skip


def test_power_without_a_register_is_integrated(
    pipeline: Pipeline, publisher: Publisher, home: str
):
    #  0 W at 0 s, 600 W at 60 s, 600 W at 120 s, -600 W at 180 s (a solar roof), -600 W at 240 s
    start_us = minute_ago(120)
    node = Node(publisher, home)
    for minute, power_w in enumerate((0.0, 600.0, 600.0, -600.0, -600.0)):
        node.say(start_us + minute * MINUTE_US, power_w=power_w)
    node.safe()
    pipeline.final(node.address)
    minutes = pipeline.minutes(node.address)
    assert [window.energy_uwh for window in minutes] == [5_000_000, 10_000_000, 2_500_000, 0]
    assert [window.export_uwh for window in minutes] == [0, 0, 2_500_000, 10_000_000]
    assert {window.quality for window in minutes} == {Quality.INTEGRATED}


def test_a_three_phase_message_makes_four_rows(pipeline: Pipeline, publisher: Publisher, home: str):
    node = Node(publisher, home)
    at_us = minute_ago(60)
    channels = {
        "total": {"power_w": 600.5, "import_total_wh": 15_234_560.0},
        "l1": {"power_w": 100.5, "voltage_v": 230.1},
        "l2": {"power_w": 200.0, "current_a": 0.9},
        "l3": {"power_w": 300.0, "frequency_hz": 50.02},
    }
    publisher.publish(node.topic, node.payload(at_us, **channels))
    wait_for(lambda: len(_rows(pipeline, node.address)) == 4, "four rows")
    assert _rows(pipeline, node.address) == {
        name: (at_us, values) for name, values in channels.items()
    }


def test_every_family_reaches_readings_states_and_events(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str
):
    at_us = minute_ago(60)
    ts = at_us / SECOND_US
    plain = home.removeprefix("h")
    sent = {
        f"shellypro3em-{plain}/events/rpc": {
            "src": f"shellypro3em-{plain}",
            "dst": "x/events",
            "method": "NotifyStatus",
            "params": {
                "ts": ts,
                "em:0": {
                    "id": 0, "a_act_power": 10.5, "a_voltage": 229.0, "b_act_power": 20.25,
                    "c_act_power": -3.5, "n_current": None, "total_act_power": 27.25,
                },
                "emdata:0": {"id": 0, "total_act": 5000.5, "total_act_ret": 17.25},
            },
        },
        f"shellies/shellyplug-s-{plain}/relay/0/power": 42.5,
        f"shellies/shellyplug-s-{plain}/relay/0": "on",
        f"devices/{plain}/data": {
            "voltage": 229.8, "current": 5.67, "power": 1250.5, "energy": 15.2, "timestamp": ts,
        },
        f"home/{home}/sensor/power/l2": {"value": 512.5, "ts": ts},
        f"home/{home}/device/fridge/telemetry": {"w": 88.0, "v": 231.0, "pf": 0.97, "ts": ts},
        f"home/{home}/device/fridge/alerts": {"type": "overload", "ts": ts, "limit_w": 80},
        f"homesync/{home}/nodes/pzem/telemetry/power": 77.25,
    }  # fmt: skip
    for topic, said in sent.items():
        publisher.publish(topic, said if isinstance(said, str) else json.dumps(said))
    publisher.flush()
    expected = {
        f"shelly:shellypro3em-{plain}": {
            "total": {"power_w": 27.25, "import_total_wh": 5000.5, "export_total_wh": 17.25},
            "l1": {"power_w": 10.5, "voltage_v": 229.0},
            "l2": {"power_w": 20.25},
            "l3": {"power_w": -3.5},
        },
        f"shelly1:shellyplug-s-{plain}": {"relay:0": {"power_w": 42.5}},
        f"wattaway:{plain}": {
            "total": {
                "power_w": 1250.5, "voltage_v": 229.8, "current_a": 5.67,
                "import_total_wh": 15_200.0,
            }
        },
        f"home:{home}/main": {"l2": {"power_w": 512.5}},
        f"home:{home}/fridge": {
            "total": {"power_w": 88.0, "voltage_v": 231.0, "power_factor": 0.97}
        },
        f"homesync:{home}/pzem": {"total": {"power_w": 77.25}},
    }  # fmt: skip
    for address, channels in expected.items():
        wait_for(lambda a=address: _rows(pipeline, a), f"rows of {address}")
        found = _rows(pipeline, address)
        assert {name: values for name, (_, values) in found.items()} == channels, address
        for measured_us, _ in found.values():
            clockless = address.startswith("shelly1:") or address.endswith("/pzem")
            assert abs(measured_us - (time.time() * 1e6 if clockless else at_us)) < (
                120 * SECOND_US if clockless else 1
            )
    plug = f"shelly1:shellyplug-s-{plain}"
    assert pipeline.query(
        "SELECT channel, field, value FROM device_state JOIN device USING (device_id) "
        "WHERE address = %s", plug,
    ) == [("relay:0", "relay", True)]  # fmt: skip
    assert pipeline.query(
        "SELECT e.name, attributes FROM device_event e JOIN device USING (device_id) "
        "WHERE address = %s", f"home:{home}/fridge",
    ) == [("overload", {"limit_w": 80})]  # fmt: skip
    (state, *_) = topics.of(
        DEVICE.name, lambda record: record.value and record.document["address"] == plug
    )
    assert state.document["states"][0]["fields"] == {"relay": True}


def test_what_is_refused_is_in_the_table_and_the_dead_letter_topic(
    pipeline: Pipeline, publisher: Publisher, topics: TopicReader, home: str
):
    node = Node(publisher, home)
    publisher.publish(node.topic, b"{not json")
    wait_for(lambda: pipeline.refused(node.address), "the refused record")
    assert pipeline.refused(node.address) == [("malformed", b"{not json")]
    (letter,) = topics.of(RAW_DLQ.name, lambda record: record.key == node.address)
    assert letter.value == b"{not json"
    assert letter.headers["mqtt_topic"] == node.topic.encode()
    assert letter.headers["__connect.errors.exception.class.name"] == b"malformed"
    assert letter.headers["__connect.errors.topic"] == b"energy.raw.v1"
    assert int(letter.headers["__connect.errors.offset"]) == pipeline.value(
        "SELECT log_offset FROM refused WHERE address = %s", node.address
    )


VALUES = ("power_w", "voltage_v", "current_a", "frequency_hz", "power_factor", "import_total_wh",
          "export_total_wh")  # fmt: skip


def _rows(pipeline: Pipeline, address: str) -> dict[str, tuple[int, dict[str, float]]]:
    """The one row of each channel: instant, and the values that it has."""
    found: dict[str, tuple[int, dict[str, float]]] = {}
    for name, at_us, *values in pipeline.query(
        f"SELECT name_of, at_us, {', '.join(VALUES)} FROM (SELECT channel.name AS name_of, "
        "to_us(measured_at) AS at_us, readings.* FROM readings JOIN channel USING (channel_id) "
        "JOIN device USING (device_id) WHERE address = %s) AS r", address,
    ):  # fmt: skip
        said = {field: value for field, value in zip(VALUES, values, strict=True)
                if value is not None}  # fmt: skip
        assert name not in found, f"{address} {name} has two rows"
        found[name] = (at_us, said)
    return found
