"""Records in, one transaction's work out."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.decoded import Reason
from schemas.reading import Clock, Source
from schemas.units import DAY_US, SECOND_US
from streams.energy import Limits
from streams.fold import fold, missing_channels
from streams.partition import Channel, Device, Partition
from streams.records import Chunk, Message, Refused, Tick, decode_chunks
from streams.windows import Span
from streams.work import Work
from tests.value_rows import value_row

T0 = 1_700_000_040 * SECOND_US  # a whole minute
LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)
N1, N2 = "homesync:h/n1", "homesync:h/n2"


@dataclass
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND_US)


class Log:
    """One partition: records are appended, folded in chunks, and their channels given ids."""

    def __init__(self, next_offset: int = 0, *, refuse_new: bool = False) -> None:
        self.partition = Partition(3, 99, next_offset, 0, 0, {})
        self.refuse_new = refuse_new
        self.waiting: list[Record] = []
        self.offset = 0
        self.channel_ids: dict[tuple[str, str], int] = {}

    def message(
        self,
        topic: str,
        payload: object,
        received_s: float = 0.0,
        *,
        key: str = N1,
        source: str = "mqtt",
        more: list[tuple[str, bytes]] | None = None,
    ) -> int:
        value = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        headers = [
            ("mqtt_topic", topic.encode()),
            ("received_at", str(at(received_s)).encode()),
            ("source", source.encode()),
            ("shard", b"s0"),
            *(more or []),
        ]
        return self.raw(key.encode(), value, headers, received_s)

    def reading(
        self,
        seconds: float,
        node: str = "n1",
        seq: int = 1,
        *,
        received_s: float | None = None,
        ts: bool = True,
        more: list[tuple[str, bytes]] | None = None,
        source: str = "mqtt",
        channel: str = "total",
        **values: Any,
    ) -> int:
        payload = {
            "v": 1,
            "boot": "b",
            "seq": seq,
            "first": 0,
            "ts": at(seconds) / 1e6 if ts else None,
            "channels": {channel: values},
        }
        topic = f"homesync/h/nodes/{node}/telemetry/power"
        received_s = seconds if received_s is None else received_s
        return self.message(
            topic, payload, received_s, key=f"homesync:h/{node}", more=more, source=source
        )

    def tick(self, seconds: float, shard: str = "s0", *, ahead_s: float = 0.0) -> int:
        headers = [("shard", shard.encode()), ("tick", str(at(seconds)).encode())]
        return self.raw(None, None, headers, seconds - ahead_s)

    def raw(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        appended_s: float = 0.0,
    ) -> int:
        self.waiting.append(Record(self.offset, at(appended_s) // 1000, key, value, headers))
        self.offset += 1
        return self.offset - 1

    def fold(self) -> Work:
        records, self.waiting = self.waiting, []
        chunks, samples = decode_chunks([(self.partition, records)])
        self.resolve(chunks)
        work = fold(chunks, samples)
        work.rows = sorted(work.rows + samples.columns.rows(), key=lambda row: row[3])
        return work

    def resolve(self, chunks: list[Chunk]) -> None:
        """What `streams.takeover.resolve` does with the database."""
        for missing in missing_channels(chunks):
            device = self.partition.devices.get(missing.address)
            if device is None:
                if self.refuse_new:
                    continue
                number = len(self.partition.devices) + 1
                device = Device(number, missing.address, (), LIMITS)
                self.partition.devices[missing.address] = device
            if missing.channel:
                channel_id = 10 * device.device_id + len(device.channels)
                self.channel_ids[missing.address, missing.channel] = channel_id
                device.channels[missing.channel] = Channel(
                    channel_id, missing.channel, device, None
                )


# ---------------------------------------------------------------- readings become rows


def test_each_reading_becomes_a_row_with_its_own_offset_clock_seq_and_source():
    log = Log()
    log.reading(0, seq=5, received_s=0.25, power_w=100.5, import_total_wh=10.0)
    log.reading(1, "n2", seq=70, ts=False, received_s=1.5, power_w=-20.0)
    log.reading(2, seq=6, source="import", channel="l1", voltage_v=231.0)
    work = log.fold()
    first = value_row(100.5, import_total_wh=10.0)
    assert work.rows == [
        (10, at(0), at(0.25), 0, 5, Clock.DEVICE, Source.MQTT, first),
        (20, at(1.5), at(1.5), 1, 70, Clock.RECEIVED_NO_CLOCK, Source.MQTT, value_row(-20.0)),
        (11, at(2), at(2), 2, 6, Clock.DEVICE, Source.IMPORT, value_row(voltage_v=231.0)),
    ]
    assert (work.duplicates, work.refused, work.late_rows) == (0, [], [])
    assert {d.address: [r.seq for r in told] for d, told in work.announced()} == {
        N1: [5, 6],
        N2: [70],
    }
    assert set(work.touched) == {10, 11, 20}


def test_a_transaction_advances_its_partition_from_where_it_was_to_behind_its_last_record():
    log = Log()
    log.reading(0, power_w=1.0)
    log.tick(5)
    (advance,) = log.fold().advances
    assert (advance.part, advance.epoch, advance.expected, advance.next_offset) == (3, 99, 0, 2)
    assert (advance.stream_us, advance.ticks) == (at(5), {"s0": at(5)})
    log.reading(6, power_w=2.0)
    (advance,) = log.fold().advances
    assert (advance.expected, advance.next_offset) == (2, 3)


def test_several_chunks_of_one_partition_make_one_advance():
    log = Log()
    log.reading(0, power_w=1.0)
    log.reading(1, power_w=2.0)
    records = log.waiting
    chunks, samples = decode_chunks([(log.partition, records[:1]), (log.partition, records[1:])])
    log.resolve(chunks)
    work = fold(chunks, samples)
    assert [(a.expected, a.next_offset) for a in work.advances] == [(0, 2)]
    assert [row[3] for row in work.rows] == [0, 1]


def test_an_advance_is_not_altered_by_later_ticks():
    log = Log()
    log.tick(5)
    (advance,) = log.fold().advances
    log.tick(9)
    log.fold()
    assert advance.ticks == {"s0": at(5)}


# ---------------------------------------------------------------- duplicates


def test_the_same_reading_again_is_a_duplicate_and_is_not_announced_twice():
    log = Log()
    log.reading(0, seq=1, power_w=100.0, current_a=0.4)
    log.reading(0, seq=1, received_s=3, power_w=100.0, current_a=0.4)
    work = log.fold()
    assert (len(work.rows), work.duplicates, work.merged, work.conflicts) == (1, 1, [], [])
    assert [len(told) for _, told in work.announced()] == [1]


def test_a_second_half_of_a_reading_is_merged_into_it():
    log = Log()
    log.reading(0, seq=1, power_w=100.0)
    log.reading(0, seq=2, temperature_c=31.5)
    work = log.fold()
    assert len(work.rows) == 1
    (merged,) = work.merged
    assert merged == (10, at(0), 2, value_row(power_w=100.0, temperature_c=31.5))
    assert (work.duplicates, work.conflicts) == (0, [])


def test_of_two_readings_that_differ_the_greater_seq_stays_and_the_other_is_kept_aside():
    log = Log()
    log.reading(0, seq=8, power_w=100.0)
    log.reading(0, seq=7, power_w=300.0)
    work = log.fold()
    assert (work.duplicates, work.merged) == (1, [])
    assert work.conflicts == [(10, at(0), 1, 7, value_row(power_w=300.0))]
    log.reading(0, seq=9, power_w=50.0)
    work = log.fold()
    assert work.merged == [(10, at(0), 9, value_row(power_w=50.0))]
    assert work.conflicts == [(10, at(0), 2, 8, value_row(power_w=100.0))]


PACKETS = {"sent": [("mid", b"7")], "again": [("dup", b"7")], "other": [("dup", b"8")]}


def test_a_redelivered_message_without_a_clock_is_dropped():
    log = Log()
    log.reading(0, ts=False, received_s=0, power_w=100.0, more=PACKETS["sent"])
    log.reading(0, ts=False, received_s=9, power_w=100.0, more=PACKETS["again"])
    work = log.fold()
    assert ([row[1] for row in work.rows], work.duplicates) == ([at(0)], 1)


def test_a_message_without_a_clock_that_is_not_redelivered_is_another_reading():
    """A device that says the same twice: the same values a second later are a reading."""
    log = Log()
    log.reading(0, ts=False, received_s=0, power_w=100.0, more=PACKETS["sent"])
    log.reading(0, ts=False, received_s=1, power_w=100.0, more=PACKETS["sent"])
    log.reading(0, ts=False, received_s=2, power_w=100.0, more=PACKETS["other"])
    log.reading(0, ts=False, received_s=3, power_w=100.5, more=PACKETS["again"])
    work = log.fold()
    assert ([row[1] for row in work.rows], work.duplicates) == ([at(0), at(1), at(2), at(3)], 0)


def test_a_redelivered_message_with_a_clock_is_known_by_its_key():
    """Its packet id says nothing: the broker may have lost the first one."""
    log = Log()
    log.reading(0, power_w=100.0, more=PACKETS["again"])
    log.reading(1, power_w=100.0, more=PACKETS["again"])
    log.reading(0, power_w=100.0, received_s=5, more=PACKETS["again"])
    work = log.fold()
    assert (len(work.rows), work.duplicates) == (2, 1)


def test_a_retained_message_without_packet_id_is_no_redelivery():
    log = Log()
    topic = "homesync/h/nodes/n1/online"
    for _ in range(2):
        log.message(topic, b"online", more=[("retained", b"1")])
    work = log.fold()
    assert work.duplicates == 0
    assert [s.state.retained for s in work.states] == [True, True]


# ---------------------------------------------------------------- refused records


def test_a_message_that_cannot_be_decoded_is_refused_and_the_next_one_flows():
    log = Log()
    log.message("homesync/h/nodes/n1/telemetry/power", b"\xff\xfe{", 4.5)
    log.reading(5, power_w=1.0)
    work = log.fold()
    (refused,) = work.refused
    assert (refused.part, refused.offset, refused.address) == (3, 0, N1)
    assert (refused.reason, refused.payload) == (Reason.MALFORMED, b"\xff\xfe{")
    assert (refused.mqtt_topic, refused.source) == (
        "homesync/h/nodes/n1/telemetry/power",
        Source.MQTT,
    )
    assert refused.received_us == at(4.5)
    assert len(work.rows) == 1


STRAY: list[list[tuple[str, bytes]]] = [
    [],
    [("shard", b"s0")],
    [("tick", b"5")],
    [("shard", b"s0"), ("tick", b"soon")],
    [("shard", b"s0"), ("tick", b"")],
    [("mqtt_topic", b"a"), ("received_at", b"5"), ("source", b"mqtt")],
    [("mqtt_topic", b"a"), ("received_at", b"x"), ("source", b"mqtt"), ("shard", b"s")],
    [("mqtt_topic", b"a"), ("received_at", b"5"), ("source", b"pigeon"), ("shard", b"s")],
    [("mqtt_topic", b"a"), ("source", b"mqtt"), ("received_at", b"5"), ("shard", b"s")],
    [("x", b"\xff"), ("mqtt_topic", b"\xff"), ("received_at", b"5"), ("source", b"mqtt")],
]


def test_records_that_no_connector_wrote_are_refused_as_malformed():
    log = Log()
    for headers in STRAY:
        log.raw(b"some:key", b"bytes", headers, 2.0)
    log.raw(None, None, [])
    work = log.fold()
    assert {refused.reason for refused in work.refused} == {Reason.MALFORMED}
    assert [refused.offset for refused in work.refused] == list(range(len(STRAY) + 1))
    assert work.refused[0].payload == b"bytes"
    assert work.refused[0].received_us == at(2.0)
    assert "was not written by a connector" in work.refused[0].error
    assert work.advances[0].next_offset == len(STRAY) + 1


def test_a_clock_that_is_older_than_ninety_days_is_refused_but_not_in_an_import():
    log = Log()
    days = 100 * DAY_US / SECOND_US
    log.reading(-days, received_s=0, power_w=1.0)
    log.reading(-days, received_s=0, power_w=2.0, source="import")
    work = log.fold()
    assert [refused.reason for refused in work.refused] == [Reason.TOO_OLD]
    assert [row[7][0] for row in work.rows] == [2.0]


def test_messages_of_a_device_that_was_not_registered_are_refused():
    log = Log(refuse_new=True)
    log.reading(0, power_w=1.0)
    log.message("homesync/h/nodes/n1/online", b"online")
    work = log.fold()
    assert [refused.reason for refused in work.refused] == [Reason.TOO_MANY_NEW] * 2
    assert "1000 unknown addresses" in work.refused[0].error
    assert work.refused[0].payload.startswith(b'{"v": 1')
    assert work.refused[1].payload == b"online"
    assert (work.rows, work.states, [*work.announced()]) == ([], [], [])


def test_channels_that_are_missing_are_asked_for_once_in_the_order_of_the_log():
    log = Log()
    log.reading(0, "n2", channel="l2", power_w=1.0)
    log.reading(1, "n1", power_w=1.0)
    log.reading(2, "n2", channel="l2", power_w=2.0)
    log.message("homesync/h/nodes/n9/online", b"online", 3.0, key="homesync:h/n9")
    chunks, _ = decode_chunks([(log.partition, log.waiting)])
    assert missing_channels(chunks) == [
        (3, N2, "l2", at(0)),
        (3, N1, "total", at(1)),
        (3, "homesync:h/n9", "", at(3)),
    ]
    log.resolve(chunks)
    assert missing_channels(chunks) == []


# ---------------------------------------------------------------- states and events


def test_states_and_events_of_a_message_become_rows():
    log = Log()
    log.message("homesync/h/nodes/n1/status", {"relay": True, "rssi": -61, "ts": at(3) / 1e6})
    log.message("homesync/h/nodes/n1/response/command", {"id": "c1", "ts": at(4) / 1e6})
    work = log.fold()
    (change,) = work.states
    assert (change.device.address, change.offset) == (N1, 0)
    assert change.state.fields == {"relay": True, "rssi_dbm": -61}
    (event,) = work.events
    assert (event.part, event.offset, event.number) == (3, 1, 0)
    assert (event.event.name, event.event.measured_us) == ("command_response", at(4))


# ---------------------------------------------------------------- records that are stored already


def test_records_before_the_stored_offset_are_announced_and_not_stored():
    log = Log()
    log.reading(0, power_w=1.0)
    log.message("homesync/h/nodes/n1/online", b"online", 1.0)
    log.message("a/b", b"nobody's", key="a/b")
    log.tick(2)
    log.reading(3, power_w=4.0)
    log.partition.next_offset = 4
    work = log.fold()
    assert [row[3] for row in work.rows] == [4]
    told = [r.values.power_w for _, readings in work.announced() for r in readings]
    assert told == [1.0, 4.0]
    assert [s.offset for s in work.states] == [1]
    assert [r.offset for r in work.refused] == [2]
    assert log.partition.stream_us == 0, "the tick has been taken before"
    assert [(a.expected, a.next_offset) for a in work.advances] == [(4, 5)]


def test_a_chunk_of_stored_records_alone_moves_nothing():
    log = Log()
    log.reading(0, power_w=1.0)
    log.tick(2)
    log.partition.next_offset = 50
    work = log.fold()
    assert (work.rows, work.minutes) == ([], [])
    assert [(a.expected, a.next_offset) for a in work.advances] == [(50, 50)]
    assert log.partition.devices[N1].channels["total"].windows is None


# ---------------------------------------------------------------- ticks, windows, late readings


def test_a_tick_completes_windows_with_its_own_offset():
    log = Log()
    for i in range(13):
        log.reading(5 * i, seq=i, power_w=720.0, import_total_wh=float(i))
    assert log.tick(70) == 13
    log.reading(71, seq=13, power_w=720.0, import_total_wh=14.0)
    work = log.fold()
    (row,) = work.minutes
    assert (row.part, row.offset, row.channel.channel_id) == (3, 13, 10)
    assert (row.minute.start_us, row.minute.energy_uwh) == (T0, 12_000_000)


def test_a_tick_ahead_is_counted_and_moves_nothing():
    log = Log()
    log.tick(100, ahead_s=61)
    work = log.fold()
    assert (work.ticks_ahead, log.partition.stream_us, log.partition.ticks) == (1, 0, {})


def full_minutes(log: Log) -> None:
    """A register each 5 s for three minutes; two windows are complete."""
    for i in range(37):
        log.reading(5 * i, seq=i, power_w=720.0, import_total_wh=float(i))
    log.tick(135)
    assert len(log.fold().minutes) == 2


def test_a_late_reading_is_stored_noted_and_redone_at_the_next_tick():
    log = Log()
    full_minutes(log)
    offset = log.reading(62, seq=40, received_s=180, power_w=700.0, import_total_wh=12.4)
    work = log.fold()
    assert [row[1] for row in work.rows + work.late_rows] == [at(62)]
    (changed,) = work.changed
    assert (changed.part, changed.offset, changed.channel.channel_id) == (3, offset, 10)
    assert changed.span.start_us <= at(62) <= changed.span.end_us
    assert (work.redo, work.settled) == ([], {})
    tick = log.tick(181)
    work = log.fold()
    assert [(r.offset, r.span, r.complete_until_us) for r in work.redo] == [
        (tick, changed.span, at(120))
    ]
    assert work.settled == {3: tick}
    assert work.changed == []
    log.tick(182)
    assert log.fold().settled == {}


def test_a_late_reading_before_a_tick_of_the_same_chunk_needs_no_note():
    log = Log()
    full_minutes(log)
    log.reading(62, seq=40, received_s=180, power_w=700.0, import_total_wh=12.4)
    log.tick(181)
    work = log.fold()
    assert (len(work.redo), work.changed, work.settled) == (1, [], {})


def test_a_note_is_stored_once_and_what_is_added_to_it_as_well():
    log = Log()
    full_minutes(log)
    log.reading(62, seq=40, received_s=180, power_w=700.0, import_total_wh=12.4)
    log.fold()
    log.reading(180, seq=41, power_w=720.0, import_total_wh=36.0)
    assert log.fold().changed == []
    log.reading(3, seq=42, received_s=181, power_w=700.0, import_total_wh=0.5)
    assert [c.span.end_us for c in log.fold().changed] == [at(3)]


def test_a_reading_from_before_memory_goes_the_slow_way():
    log = Log()
    for i in range(400):
        log.reading(5 * i, seq=i, power_w=720.0 + i, import_total_wh=float(i))
    log.tick(2005)
    log.fold()
    log.reading(7, seq=900, received_s=2010, power_w=1.0, import_total_wh=1.2)
    work = log.fold()
    assert (work.rows, [row[1] for row in work.late_rows]) == ([], [at(7)])
    assert [c.span for c in work.changed] == [Span(at(7), at(7))]


# ---------------------------------------------------------------- where the chunks are cut


@st.composite
def logs(draw):
    """A log of two nodes and Shelly's bare messages, with junk, ticks, late and equal records."""
    made, now = Log(), 0.0
    for seq in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 1.0, 5.0, 40.0, 130.0]))
        late = draw(st.sampled_from([0.0, 0.0, 0.0, 3.0, 100.0]))
        node = draw(st.sampled_from(["n1", "n2"]))
        match draw(st.sampled_from(["reading"] * 4 + ["tick"] * 2 + ["junk", "state", "again"])):
            case "reading":
                made.reading(
                    now - late, node, seq, received_s=now, power_w=100.0 + seq,
                    voltage_v=230.0 + seq / 8, import_total_wh=now,
                )  # fmt: skip
            case "tick":
                made.tick(now, draw(st.sampled_from(["s0", "s1"])))
            case "junk":
                made.message(f"junk/{seq}", b"\x00" * seq, now, key=f"junk/{seq}")
            case "state":
                made.message(f"homesync/h/nodes/{node}/status", {"rssi": -seq - 1}, now)
            case "again" if made.waiting:
                old = made.waiting[draw(st.integers(0, len(made.waiting) - 1))]
                made.raw(old.key, old.value, old.headers, now)
    made.tick(now + 500, "s0")
    made.tick(now + 500, "s1")
    return made.waiting


def outcome(works: list[Work]) -> dict[str, Any]:
    """What is stored in the end, but for where transactions begin and end."""
    kept: dict[tuple[int, int], Any] = {}
    for work in works:
        for row in work.rows + work.late_rows:
            kept[row[0], row[1]] = (row[4], row[7])
        for merged in work.merged:
            kept[merged.channel_id, merged.measured_us] = (merged.seq, merged.values)
    return {
        "kept": kept,
        "minutes": [(m.offset, m.channel.channel_id, m.minute) for w in works for m in w.minutes],
        "gaps": [(g.offset, g.channel.channel_id, g.gap) for w in works for g in w.gaps],
        "redo": [
            (r.offset, r.channel.channel_id, r.span, r.complete_until_us)
            for w in works
            for r in w.redo
        ],
        "refused": [(r.offset, r.reason) for w in works for r in w.refused],
        "states": [(s.offset, s.state.fields) for w in works for s in w.states],
        "conflicts": [c for w in works for c in w.conflicts],
        "duplicates": sum(w.duplicates for w in works),
        "until": works[-1].advances[0].next_offset,
        "stream_us": works[-1].advances[0].stream_us,
    }


@given(logs(), st.sets(st.integers(1, 26)))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_where_a_fetch_was_cut_changes_nothing(records, cuts):
    def run(ends: list[int]) -> dict[str, Any]:
        log, works, start = Log(), [], 0
        for end in ends:
            log.waiting, log.offset = list(records[start:end]), end
            works.append(log.fold())
            start = end
        return outcome(works)

    whole = len(records)
    assert run([whole]) == run([*sorted(c for c in cuts if c < whole), whole])


def test_parsing_gives_a_tick_a_message_or_a_refusal():
    log = Log()
    log.tick(1)
    log.reading(1, power_w=1.0)
    log.message("a/b", b"x")
    ((_, parsed, _),), _ = decode_chunks([(log.partition, log.waiting)])
    assert [type(item) for item in parsed] == [Tick, Message, Refused]
    assert parsed[0] == Tick(0, "s0", at(1), at(1))


def test_a_message_that_says_nothing_is_not_refused_though_nobody_knows_its_device():
    log = Log()
    log.message(
        "shellypro3em-fcb0/events/rpc",
        {"src": "x", "method": "NotifyStatus", "params": {"ts": at(0) / 1e6, "id": {"id": 0}}},
        key="shelly:shellypro3em-fcb0",
    )
    work = log.fold()
    assert (work.refused, work.rows, work.states) == ([], [], [])


def test_a_reading_older_than_all_in_memory_is_where_the_next_owner_reads_from():
    log = Log()
    log.reading(22, power_w=1.0)
    (state,) = log.fold().channel_states
    assert state.context_from_us == at(22)
    log.reading(6, received_s=23, power_w=1.0)
    (state,) = log.fold().channel_states
    assert (state.context_from_us, state.complete_until_us) == (at(6), at(0))


def test_a_message_with_a_channel_more_than_a_device_may_have_is_refused_whole():
    log = Log()
    log.reading(0, power_w=1.0)
    log.fold()
    log.partition.devices[N1].is_full = True
    log.reading(1, channel="surplus", power_w=1.0)
    log.reading(2, power_w=2.0)
    chunks, samples = decode_chunks([(log.partition, log.waiting)])
    assert missing_channels(chunks) == []
    work = fold(chunks, samples)
    assert [(refused.offset, refused.reason) for refused in work.refused] == [
        (1, Reason.TOO_MANY_CHANNELS)
    ]
    assert "256 channels" in work.refused[0].error
    assert [row[3] for row in work.rows] == [2]
