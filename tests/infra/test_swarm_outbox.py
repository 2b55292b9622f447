"""A node forgets nothing it was not told is safe, and believes nothing before it is on disk."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.swarm import wire
from infra.swarm.meters import ABSENT, CHANNELS, FIELDS, Meter, values_of
from infra.swarm.outbox import MOST_IN_FLIGHT, PATIENCE_S, FalseAck, Outbox
from infra.swarm.record import Acked, Header, Record, Sent, read, read_header
from ingest.end_to_end import EndToEnd
from schemas.homesync import Payload, Position
from schemas.units import MWUS_PER_UWH


def filled(count: int) -> Outbox:
    outbox = Outbox()
    for number in range(1, count + 1):
        assert outbox.add(b"%d" % number) == number
    return outbox


# ---- outbox ----


def test_a_reading_is_sent_once_and_kept():
    outbox = filled(3)
    assert outbox.take(0.0) == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert outbox.take(0.0) == []
    assert list(outbox.held) == [b"1", b"2", b"3"]


def test_no_more_than_the_window_is_in_flight_and_an_ack_lets_more_go():
    outbox = filled(MOST_IN_FLIGHT + 5)
    assert len(outbox.take(0.0)) == MOST_IN_FLIGHT
    assert outbox.acknowledged(3, 1.0) == 3
    assert [seq for seq, _ in outbox.take(1.0)] == [MOST_IN_FLIGHT + n for n in (1, 2, 3)]


def test_an_ack_is_cumulative_and_an_old_one_changes_nothing():
    outbox = filled(4)
    outbox.take(0.0)
    assert outbox.acknowledged(3, 1.0) == 3
    assert outbox.acknowledged(2, 2.0) == 0
    assert outbox.first == 4
    assert list(outbox.held) == [b"4"]


def test_an_ack_of_what_was_never_sent_is_not_believed():
    outbox = filled(2)
    with pytest.raises(FalseAck):
        outbox.acknowledged(1, 0.0)
    outbox.take(0.0)
    with pytest.raises(FalseAck):
        outbox.acknowledged(3, 0.0)
    assert list(outbox.held) == [b"1", b"2"]


def test_without_progress_for_ten_seconds_everything_is_sent_again_with_back_off():
    outbox, chance = filled(2), Random(1)
    outbox.take(0.0)
    assert not outbox.is_overdue(PATIENCE_S - 0.1)
    assert outbox.is_overdue(PATIENCE_S)
    outbox.send_again(PATIENCE_S, chance)
    assert outbox.take(PATIENCE_S) == [(1, b"1"), (2, b"2")]
    assert not outbox.is_overdue(2 * PATIENCE_S)
    assert outbox.is_overdue(3 * PATIENCE_S)


def test_progress_makes_the_outbox_patient_again():
    outbox = filled(2)
    outbox.take(0.0)
    outbox.send_again(10.0, Random(1))
    outbox.take(10.0)
    outbox.acknowledged(1, 15.0)
    assert not outbox.is_overdue(24.9)
    assert outbox.is_overdue(25.0)


def test_an_idle_outbox_is_never_overdue():
    outbox = filled(1)
    assert not outbox.is_overdue(1e9)
    outbox.take(1e9)
    assert not outbox.is_overdue(1e9 + 1)
    outbox.acknowledged(1, 1e9 + 2)
    assert not outbox.is_overdue(2e9)


def test_a_new_connection_begins_at_the_oldest_unacknowledged():
    outbox = filled(5)
    outbox.take(0.0)
    outbox.acknowledged(2, 0.0)
    outbox.rewind()
    assert [seq for seq, _ in outbox.take(0.0)] == [3, 4, 5]
    assert outbox.sent_until == 6


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["measure", "deliver", "lose", "ack", "reconnect", "wait", "restart"]),
        st.integers(min_value=1, max_value=12),
    ),
    max_size=120,
)


@given(steps=STEPS)
@settings(deadline=None)
def test_whatever_is_lost_on_the_way_nothing_leaves_the_outbox_but_what_the_log_has(
    steps: list[tuple[str, int]],
):
    """The connector is ours (`EndToEnd`); `restart` makes it forget all it knew."""
    outbox, connector, chance = Outbox(), EndToEnd(), Random(0)
    wire_: list[tuple[int, Position]] = []
    log: set[int] = set()
    now = ack_now = 0.0
    made = 0

    def send() -> None:
        first = outbox.first
        wire_.extend((seq, Position(1, "b", seq, first)) for seq, _ in outbox.take(now))

    def deliver(count: int) -> None:
        for seq, position in wire_[:count]:
            log.add(seq)
            connector.confirm([("node", position)])
        del wire_[:count]

    def acknowledge() -> None:
        nonlocal ack_now
        ack_now += 2.0
        for _, ack in connector.due(ack_now):
            outbox.acknowledged(ack.seq, now)

    for step, size in steps:
        if step == "measure":
            for _ in range(size):
                made = outbox.add(b"")
            send()
        elif step == "deliver":
            deliver(size)
        elif step == "lose":
            del wire_[:size]
        elif step == "ack":
            acknowledge()
            send()
        elif step == "reconnect":
            wire_.clear()
            outbox.rewind()
            send()
        elif step == "wait":
            now += size * 10.0
            if outbox.is_overdue(now):
                outbox.send_again(now, chance)
                send()
        else:
            connector = EndToEnd()
        assert set(range(1, outbox.first)) <= log
        assert made == outbox.end - 1
    for _ in range(made + 2):
        outbox.rewind()
        send()
        deliver(len(wire_))
        acknowledge()
    assert not outbox.held
    assert log == set(range(1, made + 1))


# ---- record ----


def header(phases: int = 1) -> Header:
    return Header("home", 2, phases, 7, "ack")


@pytest.mark.parametrize("phases", [1, 3])
def test_a_record_gives_back_what_was_written(tmp_path: Path, phases: int):
    numbers = tuple(range(-1, 7 * len(CHANNELS[phases]) - 1))
    record = Record(tmp_path / "r", header(phases))
    record.sent(1, 2, 3, 4, numbers)
    record.acked(1, 2, 5)
    record.close()
    assert read_header(tmp_path / "r") == header(phases)
    assert list(read(tmp_path / "r")) == [Sent(1, 2, 3, 4, numbers), Acked(1, 2, 5)]


def test_a_record_holds_on_disk_only_what_was_committed(tmp_path: Path):
    record = Record(tmp_path / "r", header())
    record.sent(0, 1, 3, 4, range(7))
    assert list(read(tmp_path / "r")) == []
    taken = record.take()
    record.acked(0, 1, 5)
    record.write(taken)
    assert [type(frame) for frame in read(tmp_path / "r")] == [Sent]
    record.close()
    assert [type(frame) for frame in read(tmp_path / "r")] == [Sent, Acked]


def test_a_last_frame_that_a_crash_cut_off_is_left_out(tmp_path: Path):
    record = Record(tmp_path / "r", header())
    record.sent(0, 1, 3, 4, range(7))
    record.sent(0, 2, 3, 4, range(7))
    record.close()
    whole = (tmp_path / "r").read_bytes()
    (tmp_path / "r").write_bytes(whole[:-3])
    assert [frame.seq for frame in read(tmp_path / "r")] == [1]


# ---- meter ----


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize("index", [0, 3])
def test_the_payload_says_exactly_the_numbers_of_the_record(index: int, phases: int):
    import msgspec

    meter = Meter(index, phases, Random(5))
    for k in range(500):
        at_us = 1_763_700_000_123_457 + k * 1_000_003
        numbers, body = meter.read(at_us)
        said = msgspec.json.decode(b'{"v":1,"boot":"b","seq":2,"first":1,' + body, type=Payload)
        assert round(said.ts * 1e6) == at_us
        assert tuple(said.channels) == CHANNELS[phases]
        for i, values in enumerate(said.channels.values()):
            told = tuple(getattr(values, name) for name in FIELDS)
            assert told == values_of(numbers[7 * i : 7 * i + 7])


@pytest.mark.parametrize("index", [0, 3])
def test_the_registers_rise_by_exactly_the_energy_of_the_power(index: int):
    meter = Meter(index, 1, Random(2))
    first, _ = meter.read(0)
    imported = exported = 0
    for k in range(1, 2_000):
        numbers, _ = meter.read(k * 10_000_000)
        imported += max(0, numbers[0]) * 10_000_000
        exported += max(0, -numbers[0]) * 10_000_000
    assert abs((numbers[5] - first[5]) * MWUS_PER_UWH - imported) < MWUS_PER_UWH
    if index == 3:
        assert exported > 0
        assert abs((numbers[6] - first[6]) * MWUS_PER_UWH - exported) < MWUS_PER_UWH
    else:
        assert numbers[6] == ABSENT
        assert exported == 0


def test_the_same_seed_says_the_same_and_rows_differ_in_every_field():
    one, other = Meter(3, 1, Random(9)), Meter(3, 1, Random(9))
    rows = [one.read(k * 1_000_000) for k in range(1, 50)]
    assert rows == [other.read(k * 1_000_000) for k in range(1, 50)]
    for column in range(5):
        assert len({numbers[column] for numbers, _ in rows}) > 40 or column == 3
    assert len({numbers[3] for numbers, _ in rows}) > 20


# ---- packets ----


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151])
def test_a_length_is_read_as_it_was_written(size: int):
    packet = b"\x30" + wire.varint(size) + bytes(size)
    assert wire.packets(packet + b"\x40\x02\x00") == ([(0x30, bytes(size))], b"\x40\x02\x00")


def test_packets_are_found_however_the_stream_is_cut():
    stream = wire.puback(7) + wire.publish(wire.text("a/b"), 9, b"payload") + wire.PINGREQ
    for cut in range(len(stream)):
        first, rest = wire.packets(stream[:cut])
        second, rest = wire.packets(rest + stream[cut:])
        assert rest == b""
        assert [kind for kind, _ in first + second] == [0x40, 0x32, 0xC0]
    (_, body) = wire.packets(stream)[0][1]
    assert wire.published(0x32, body) == (b"a/b", 9, b"payload")
