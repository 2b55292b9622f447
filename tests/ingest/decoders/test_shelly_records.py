"""Stored minutes of a Pro 3EM, and statuses that were asked over HTTP."""

import json
from itertools import pairwise

import pytest
from wire import NOW_S, RECEIVED_US, decoded, readings, refused, values

from ingest.decoders.topic_table import RULES, SUBSCRIPTIONS, address_of, is_polled
from schemas.decoded import Reason
from schemas.reading import Clock
from schemas.units import SECOND_US

METER = "shellypro3em-ec6260890b50"
REPLIES = f"meterstream/{METER}/rpc"
BEGIN_S = 1_763_704_800  # 2025-11-21T06:00:00Z
EACH = ("total_act_energy", "total_act_ret_energy", "avg_voltage")
KEYS = [
    *(f"{phase}_{what}" for phase in "abc" for what in EACH),
    "n_avg_current",
]


def record(a: float, b: float, c: float) -> list[float | None]:
    return [a, 0, 230.1, b, 0.5, 229.8, c, 0, 231.0, None]


def reply(*blocks: tuple[int, list[list[float | None]]], id: str = "emdata:0", keys=KEYS) -> dict:
    data = [{"ts": ts, "period": 60, "values": records} for ts, records in blocks]
    return {"id": id, "src": METER, "dst": f"meterstream/{METER}",
            "result": {"keys": keys, "data": data, "next_record_ts": BEGIN_S + 3600}}  # fmt: skip


def test_each_record_is_the_energy_of_the_minute_that_ends_at_its_reading():
    message = decoded(REPLIES, reply((BEGIN_S, [record(1.5, 0.25, 2), record(1, 0, 0.125)])))
    assert message.address == f"shelly:{METER}"
    by_place = {(each.channel, each.measured_us // SECOND_US - BEGIN_S): values(each)
                for each in message.readings}  # fmt: skip
    assert by_place == {
        ("l1", 60): {"interval_s": 60, "interval_import_wh": 1.5},
        ("l2", 60): {"interval_s": 60, "interval_import_wh": 0.25},
        ("l3", 60): {"interval_s": 60, "interval_import_wh": 2},
        ("total", 60): {"interval_s": 60, "interval_import_wh": 3.75},
        ("l1", 120): {"interval_s": 60, "interval_import_wh": 1},
        ("l2", 120): {"interval_s": 60, "interval_import_wh": 0},
        ("l3", 120): {"interval_s": 60, "interval_import_wh": 0.125},
        ("total", 120): {"interval_s": 60, "interval_import_wh": 1.125},
    }
    assert {each.clock for each in message.readings} == {Clock.DEVICE}
    assert (message.states, message.events) == ([], [])


def test_blocks_are_broken_by_power_loss():
    message = decoded(
        REPLIES, reply((BEGIN_S, [record(1, 1, 1)]), (BEGIN_S + 600, [record(2, 2, 2)]))
    )
    total = [each.measured_us // SECOND_US for each in message.readings if each.channel == "total"]
    assert total == [BEGIN_S + 60, BEGIN_S + 660]


def test_a_meter_of_single_phases_is_told_apart_by_the_id_that_was_asked_with():
    keys = ["total_act_energy", "total_act_ret_energy", "avg_voltage"]
    said = reply((BEGIN_S, [[7.5, 0, 230]]), id="em1data:2", keys=keys)
    assert readings(REPLIES, said) == {"em1:2": {"interval_s": 60, "interval_import_wh": 7.5}}


def test_a_phase_without_a_value_has_no_minute_and_makes_no_total():
    assert readings(REPLIES, reply((BEGIN_S, [record(None, 1, 2)]))).keys() == {"l2", "l3"}


def test_nothing_stored_is_no_reading():
    assert decoded(REPLIES, reply()).readings == []


def test_an_error_to_such_a_request_is_an_event():
    said = {"id": "emdata:0", "src": METER, "error": {"code": -105, "message": "no records"}}
    (event,) = decoded(REPLIES, said).events
    assert event.attributes == {"id": "emdata:0", "code": -105, "message": "no records"}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"data": []}, Reason.WRONG_TYPE),
        ({"keys": ["total_act_energy"], "data": []}, Reason.MISSING_VALUE),
        ({"keys": KEYS, "data": {}}, Reason.WRONG_TYPE),
        ({"keys": KEYS, "data": [{"period": 60, "values": [[]]}]}, Reason.MISSING_VALUE),
        ({"keys": KEYS, "data": [{"ts": BEGIN_S, "period": 0, "values": []}]},
         Reason.MISSING_VALUE),
        ({"keys": KEYS, "data": [{"ts": BEGIN_S, "period": 60, "values": [[1]]}]},
         Reason.MISSING_VALUE),
        ({"keys": KEYS, "data": [{"ts": BEGIN_S, "period": 60, "values": [record(-1, 0, 0)]}]},
         Reason.OUT_OF_RANGE),
        ({"keys": KEYS, "data": [{"ts": 600, "period": 60, "values": [record(1, 0, 0)]}]},
         Reason.OUT_OF_RANGE),
        ({"keys": KEYS, "data": [{"ts": BEGIN_S - 10**7, "period": 60,
                                  "values": [record(1, 0, 0)]}]}, Reason.TOO_OLD),
    ],
)  # fmt: skip
def test_records_that_cannot_be_are_refused(result, reason):
    refused(REPLIES, {"id": "emdata:0", "src": METER, "result": result}, reason)


def status(**sys: object) -> dict:
    return {
        "em:0": {"id": 0, "total_act_power": 1300.252},
        "emdata:0": {"id": 0, "total_act": 2852055.81, "total_act_ret": 0.0},
        "mqtt": {"connected": False},
        "sys": {"mac": "EC6260890B50", **sys},
    }


def test_a_status_asked_over_http_is_of_the_device_and_its_clock():
    topic = f"poll/shelly/{METER}/status"
    message = decoded(topic, status(unixtime=int(NOW_S)))
    assert message.address == address_of(topic, b"") == f"shelly:{METER}"
    (reading,) = message.readings
    assert values(reading) == {
        "power_w": 1300.252, "import_total_wh": 2852055.81, "export_total_wh": 0.0
    }  # fmt: skip
    assert (reading.measured_us, reading.clock) == (int(NOW_S) * SECOND_US, Clock.DEVICE)


def test_the_same_instant_by_both_ways_has_the_same_key():
    params = {"ts": int(NOW_S), **{key: status()[key] for key in ("em:0", "emdata:0")}}
    frame = {"method": "NotifyStatus", "src": METER, "params": params}
    (polled,) = decoded(f"poll/shelly/{METER}/status", status(unixtime=int(NOW_S))).readings
    (notified,) = decoded(f"{METER}/events/rpc", frame).readings
    assert polled == notified


@pytest.mark.parametrize("sys", [{"unixtime": None}, {}])
def test_a_device_that_does_not_know_the_time_takes_ours(sys):
    (reading,) = decoded("poll/shelly/a/b/c/d/status", status(**sys)).readings
    assert (reading.measured_us, reading.clock) == (RECEIVED_US, Clock.RECEIVED_NO_CLOCK)


def test_a_gen1_status_takes_our_clock_as_its_mqtt_does():
    said = {"meters": [{"power": 12.5, "total": 600}], "unixtime": 1_763_705_000}
    message = decoded("poll/shellies/shellyplug-s-1/status", said)
    assert message.address == "shelly1:shellyplug-s-1"
    (reading,) = message.readings
    assert reading.measured_us == RECEIVED_US
    assert values(reading) == {"power_w": 12.5, "import_total_wh": 10.0}


def test_nobody_can_publish_as_if_it_had_been_polled():
    polled = [rule.filter for rule in RULES if is_polled(rule.filter)]
    assert len(polled) == 5
    first = {filter.split("/")[0] for filter in SUBSCRIPTIONS}
    assert "poll" not in first
    for topic in (f"poll/{METER}/events/rpc", "poll/x/status/em:0", "poll/online"):
        refused(topic, {"params": {}}, Reason.UNKNOWN_TOPIC)


def test_the_ends_of_a_long_reply_rise():
    n = 120
    records = [record(i / 7, i / 3, 1) for i in range(n)]
    payload = json.dumps(reply((BEGIN_S - n * 60, records))).encode()
    ends = [r.measured_us for r in decoded(REPLIES, payload).readings if r.channel == "total"]
    assert len(ends) == n
    assert all(b - a == 60 * SECOND_US for a, b in pairwise(ends))
