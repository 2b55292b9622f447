"""Whatever comes, on whatever topic: a decoder gives values or refuses, and never anything else."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire import RECEIVED_US

from ingest.decoders.topic_table import RULES, address_of, decode
from schemas.decoded import Decoded, Undecodable
from schemas.device import STATE_FIELDS
from schemas.reading import VALUE_NAMES
from tests.examples import examples

TOPIC_WORDS = """
    h1 0 power energy voltage total l1 circuit kwh daily switch:0 em:0 sys status all device
    telemetry rpc SENSOR STATE RESULT POWER1 STATUS8 STATUS11 INFO1
"""
WORDS = st.sampled_from(TOPIC_WORDS.split()) | st.text(max_size=8)
PAYLOAD_KEYS = """
    v boot seq first ts channels relay rssi_dbm firmware value metric node_id power energy w a pf
    voltage timestamp schema_version data status home_id device_id type method params src events
    event component switch:0 em:0 emdata:0 em1:0 em1data:0 sys wifi eth mqtt temperature:0 output
    source aenergy ret_aenergy total by_minute minute_ts temperature tC errors apower a_act_power
    meters emeters relays ison is_valid unixtime wifi_sta rssi ip update uptime result error id
    online command_id current l1 thd total_kwh active Time ENERGY Power Total Voltage ExportActive
    POWER POWER2 Wifi Signal UptimeSec StatusSNS AM2301 Temperature TempUnit Info1 Version state
    state_l2 power_l2 power_phase_b linkquality last_seen battery keys values period
"""
KEYS = st.sampled_from(PAYLOAD_KEYS.split()) | st.sampled_from(VALUE_NAMES)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [1_763_705_999, 1.5, "on", "online", "1.0", "NotifyStatus", "NotifyEvent", "emdata:0"]
    )
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
OBJECTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)
SHAPED = OBJECTS.map(lambda value: json.dumps(value).encode())
VALID = [
    b'{"v":1,"boot":"5f1c09ab","seq":812,"first":790,"ts":1763705999.25,"channels":{"total":'
    b'{"power_w":1250.5,"import_total_wh":15234560.0},"l1":{"voltage_v":229.8}},"relay":true}',
    b'{"voltage":229.8,"current":5.67,"power":1250.5,"energy":15.2}',
    b'{"schema_version":"1.0","device_id":"d","home_id":"h","timestamp":"2025-11-21T06:20:00Z",'
    b'"data":{"power":{"active":1},"voltage":{"l1":220.5}},"status":{"relay":"closed"}}',
    b'{"src":"x","method":"NotifyStatus","params":{"ts":1763705999.2,"switch:0":{"id":0,"apower":1,'
    b'"aenergy":{"total":2,"by_minute":[1,2,3],"minute_ts":1763705940},"errors":["overtemp"]}}}',
    b'{"params":{"ts":1,"events":[{"component":"input:0","event":"btn_down"}]},"method":"NotifyEvent"}',
    b'{"meters":[{"power":1.5,"total":60}],"relays":[{"ison":true}],"wifi_sta":{"rssi":-5}}',
    b'{"Time":"2018-02-15T17:37:10","TempUnit":"F","ENERGY":{"Total":[6.2,1],"Power":[8.15,0],'
    b'"Voltage":237},"AM2301":{"Temperature":71.5,"Humidity":40},"POWER":"ON","POWER2":"OFF"}',
    b'{"state":"ON","state_l2":"OFF","power":12,"energy":3.41,"linkquality":120,"last_seen":1e12}',
    b'{"id":"em1data:1@7","src":"h1","result":{"keys":["x","total_act_energy"],"data":[{"period":60,'
    b'"ts":1763704800,"values":[[0,1.5],[0,2]]}],"next_record_ts":1763704920}}',
    b"21.5",
    b"true",
    b"on",
]


@st.composite
def topics(draw):
    """A topic of one of the table's families, or anything at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.text(max_size=40))
    filter_ = draw(st.sampled_from(RULES)).filter
    words = [draw(WORDS) if level == "+" else level for level in filter_.split("/")]
    if words[-1] == "#":
        words[-1:] = draw(st.lists(WORDS, max_size=3))
    return "/".join(words)


@st.composite
def mutated(draw):
    payload = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3)
            | st.sampled_from([b"{", b'"', b"\\", b"1e", b"-", b",", b":null"])
        )
    return bytes(payload)


def outcome(topic: str, payload: bytes) -> Decoded | str:
    try:
        return decode(topic, payload, RECEIVED_US)
    except Undecodable as error:
        return str(error)


@pytest.mark.parametrize("payloads", [st.binary(max_size=64), mutated(), SHAPED])
def test_no_bytes_make_a_decoder_fail(payloads):
    @settings(max_examples=examples(500), deadline=None)
    @given(topics(), payloads)
    @example("devices/1/data", b"")
    def check(topic, payload):
        key = address_of(topic, payload)
        said = outcome(topic, payload)
        assert said == outcome(topic, payload)
        if isinstance(said, str):
            assert said.isprintable()
            return
        assert said.address == key
        assert len(key) <= 200
        assert key.isprintable()
        for state in said.states:
            assert state.fields
            for name, value in state.fields.items():
                assert isinstance(value, STATE_FIELDS[name])
        for reading in said.readings:
            assert reading.channel
            assert reading.values != type(reading.values)()

    check()


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=60), st.binary(max_size=60))
def test_an_address_is_always_found(topic, payload):
    assert isinstance(address_of(topic, payload), str)
