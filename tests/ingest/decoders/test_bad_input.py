"""Messages that nobody should send: each is refused with its reason, on every family's topics."""

import gc
import time

import pytest
from wire import NOW_S, RECEIVED_US, refused

from ingest.decoders.topic_table import decode
from schemas.decoded import Reason, Undecodable

TOPICS = [
    "homesync/h1/nodes/n1/telemetry/power",
    "devices/42/data",
    "home/h1/sensor/power/total",
    "home/h1/device/d1/telemetry",
    "shellypro3em-ec6260890b50/events/rpc",
    "shellies/shellyem3-C45BBE/info",
]
OBJECTS = [
    (
        "homesync/h1/nodes/n1/telemetry/power",
        b'{"v":1,"boot":"5f","seq":9,"first":1,"ts":1763705999,"channels":{"total":{"power_w":@}}}',
    ),
    ("devices/42/data", b'{"power":@,"ts":1763705999}'),
    ("home/h1/sensor/power/total", b'{"w":@}'),
    (
        "home/h1/device/d1/telemetry",
        b'{"schema_version":"1.0","data":{"power":{"active":@},"voltage":{"l1":220}}}',
    ),
    (
        "shellypro3em-ec6260890b50/events/rpc",
        b'{"method":"NotifyStatus","params":{"em:0":{"a_voltage":229,"total_act_power":@}}}',
    ),
    ("shellies/shellyem3-C45BBE/info", b'{"emeters":[{"power":@}]}'),
    ("shellies/shellyem3-C45BBE/emeter/0/power", b"@"),
]


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"   ", Reason.MALFORMED),
        (b"{", Reason.MALFORMED),
        (b'{"power": 1', Reason.MALFORMED),
        (b"\x00\x01\x02", Reason.MALFORMED),
        (b"\xff\xfe{\x00}\x00", Reason.MALFORMED),
        (b'{"a": "\xff"}', Reason.MALFORMED),
        (b'{"a": "\xed\xa0\x80"}', Reason.MALFORMED),
        (b'{"a": "\\ud800"}', Reason.MALFORMED),
        (b'{"\\udc00\\ud800": 1}', Reason.MALFORMED),
        (b'{"a": 1, "a": 2}', Reason.MALFORMED),
        (b'{"a": 1} trailing', Reason.MALFORMED),
        (b'{"a": NaN}', Reason.NOT_FINITE),
        (b'{"a": -Infinity}', Reason.NOT_FINITE),
        (b"[" * 1000 + b"]" * 1000, Reason.TOO_DEEP),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, Reason.TOO_DEEP),
        (b'{"a":' * 9 + b"1" + b"}" * 9, Reason.TOO_DEEP),
        (b"[" * 60_000, Reason.TOO_DEEP),
        (b'"\\"' * 20_000, Reason.MALFORMED),
        (b'{"a":"' + b"x" * 1_048_576 + b'"}', Reason.TOO_LARGE),
        (b"\xff" * 1_048_576, Reason.TOO_LARGE),
        (b"true", Reason.WRONG_TYPE),
        (b'"text"', Reason.WRONG_TYPE),
        (b"[]", Reason.WRONG_TYPE),
    ],
)
def test_what_is_no_sound_json_object_is_refused(topic, payload, reason):
    text = refused(topic, payload, reason)
    assert text.isprintable()
    assert ";" in text


@pytest.mark.parametrize(("topic", "payload"), OBJECTS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"NaN", Reason.NOT_FINITE),
        (b"Infinity", Reason.NOT_FINITE),
        (b"-Infinity", Reason.NOT_FINITE),
        (b"nan", Reason.NOT_FINITE),
        (b'"1250"', Reason.WRONG_TYPE),
        (b"true", Reason.WRONG_TYPE),
        (b"[1]", Reason.WRONG_TYPE),
        (b"{}", Reason.WRONG_TYPE),
        (b"1e9", Reason.OUT_OF_RANGE),
        (b"-1e9", Reason.OUT_OF_RANGE),
        (b"1e400", Reason.OUT_OF_RANGE),
        (b"9" * 400, Reason.OUT_OF_RANGE),
        (b"9" * 5000, Reason.OUT_OF_RANGE),
        (b"01", Reason.MALFORMED),
        (b"0x10", Reason.MALFORMED),
    ],
)
def test_a_power_that_is_none_is_refused(topic, payload, value, reason):
    refused(topic, payload.replace(b"@", value), reason)


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("devices/42/data", {"power": 1, "ts": "@"}),
        ("home/h1/sensor/power/total", {"w": 1, "ts": "@"}),
        ("homesync/h1/nodes/n1/telemetry/power", {"power": 1, "ts": "@"}),
        (
            "homesync/h1/nodes/n1/telemetry/power",
            {"v": 1, "boot": "5f", "seq": 9, "first": 1, "ts": "@",
             "channels": {"total": {"power_w": 1}}},
        ),
        ("x/events/rpc", {"method": "NotifyStatus", "params": {"ts": "@", "sys": {}}}),
        ("shellies/s/info", {"unixtime": "@"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("ts", "reason"),
    [
        (4_294_967_295, Reason.CLOCK_AHEAD),
        (NOW_S - 200 * 86_400, Reason.TOO_OLD),
        (86_400 * 400, Reason.TOO_OLD),
        ([], Reason.WRONG_TYPE),
        (True, Reason.WRONG_TYPE),
    ],
)
def test_a_clock_far_off_is_refused(topic, said, ts, reason):
    def put(value):
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        return ts if value == "@" else value

    refused(topic, put(said), reason)


@pytest.mark.parametrize("topic", ["devices/42/data", "home/h1/device/d1/telemetry"])
def test_a_text_of_1970_is_refused(topic):
    refused(topic, {"power": 1, "timestamp": "1970-01-01T00:00:12Z"}, Reason.TOO_OLD)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 65_000,
        b"[" + b"{}," * 21_000 + b"0]",
        b'{"a":' * 13_000,
        b'"\\"' * 21_000 + b"[" * 9,
        b'["",' * 16_000,
        b"{" + b",".join(b'"%d":[]' % n for n in range(6_000)) + b"}",
    ],
    ids=lambda payload: payload[:8],
)
def test_no_payload_of_the_size_that_is_read_holds_up_the_others(payload):
    gc.disable()  # the tests' own heap is not what is measured
    began = time.thread_time()
    with pytest.raises(Undecodable):
        decode("homesync/h1/nodes/n1/status", payload, RECEIVED_US)
    took_s = time.thread_time() - began
    gc.enable()
    assert took_s < 0.1
