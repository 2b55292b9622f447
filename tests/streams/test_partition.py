"""Stream time, due windows and the spans to be redone, in the memory of one partition."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.families import FAMILIES
from schemas.units import HOUR_US, MINUTE_US, SECOND_US
from streams.energy import Limits
from streams.partition import (
    MOST_REDONE_A_TICK,
    REMEMBERED_PACKETS,
    SHARD_SILENT_US,
    TICK_AHEAD_US,
    Channel,
    Device,
    Partition,
    limits_of,
)
from streams.windows import ChannelWindows, Span, held_of
from tests.value_rows import value_row

T0 = 1_700_000_040 * SECOND_US  # a whole minute
LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND_US)


def partition(ticks: dict[str, int] | None = None, stream_us: int = 0) -> Partition:
    return Partition(0, 1, 0, 0, stream_us, ticks or {})


def tick(part: Partition, shard: str, seconds: float):
    return part.tick(shard, at(seconds), at(seconds))


# ---------------------------------------------------------------- stream time


def test_stream_time_is_the_least_of_the_shards_latest_ticks():
    part = partition()
    tick(part, "a", 10)
    assert part.stream_us == at(10)
    tick(part, "b", 20)
    assert part.stream_us == at(10)
    tick(part, "a", 15)
    assert part.stream_us == at(15)
    tick(part, "a", 40)
    assert part.stream_us == at(20)


def test_a_shard_that_is_silent_for_more_than_thirty_seconds_is_left_out():
    assert SHARD_SILENT_US == 30 * SECOND_US
    part = partition()
    tick(part, "dead", 0)
    tick(part, "live", 30)
    assert part.stream_us == at(0)
    tick(part, "live", 30.000001)
    assert part.stream_us == at(30.000001)


def test_a_shard_that_comes_back_does_not_take_stream_time_back():
    part = partition()
    tick(part, "a", 0)
    tick(part, "b", 100)
    assert part.stream_us == at(100)
    tick(part, "a", 80)  # alive again, and behind
    assert part.stream_us == at(100)
    tick(part, "b", 105)
    assert part.stream_us == at(100)
    tick(part, "a", 104)
    assert part.stream_us == at(104)


def test_a_tick_more_than_a_minute_ahead_of_its_append_time_is_refused():
    assert TICK_AHEAD_US == 60 * SECOND_US
    part = partition()
    assert part.tick("a", at(61), at(1)) is not None
    assert part.tick("b", at(62.000001), at(2)) is None
    assert part.ticks == {"a": at(61)}
    assert part.stream_us == at(61)


def test_a_tick_far_behind_its_append_time_counts():
    """A log that is read days later, or a connector that could not write for an hour."""
    part = partition()
    assert part.tick("a", at(0), at(100_000)) is not None
    assert part.stream_us == at(0)


def test_a_shard_whose_clock_steps_back_keeps_its_latest_tick():
    part = partition()
    tick(part, "a", 50)
    tick(part, "a", 20)
    assert part.ticks == {"a": at(50)}


TICKS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 120), st.integers(-120, 120)), max_size=30
)


@given(TICKS)
def test_stream_time_never_goes_back_and_never_passes_the_newest_tick(ticks):
    part = partition()
    accepted: dict[str, int] = {}
    for shard, second, ahead in ticks:
        before = part.stream_us
        done = part.tick(shard, at(second), at(second - ahead))
        assert (done is None) == (ahead > 60)
        if done is not None:
            accepted[shard] = max(at(second), accepted.get(shard, 0))
        assert part.stream_us >= before
        if accepted:
            newest = max(accepted.values())
            live = [t for t in accepted.values() if t >= newest - 30 * SECOND_US]
            assert min(live) <= part.stream_us <= newest


@given(TICKS, st.integers(0, 30))
def test_a_partition_that_is_handed_over_goes_on_as_if_it_had_not_been(ticks, cut):
    whole, first = partition(), partition()
    for shard, second, _ in ticks:
        tick(whole, shard, second)
    for shard, second, _ in ticks[:cut]:
        tick(first, shard, second)
    second_owner = partition(dict(first.ticks), first.stream_us)
    for shard, second, _ in ticks[cut:]:
        tick(second_owner, shard, second)
    assert (second_owner.stream_us, second_owner.ticks) == (whole.stream_us, whole.ticks)


# ---------------------------------------------------------------- windows that are due


def add_channel(part: Partition, channel_id: int = 1, name: str = "total") -> Channel:
    address = f"homesync:h/n{channel_id}"
    device = Device(channel_id, address, (), LIMITS)
    device.channels[name] = Channel(channel_id, name, device, ChannelWindows(LIMITS, T0))
    part.devices[address] = device
    return device.channels[name]


def read(part: Partition, channel: Channel, seconds: float, power_w: float) -> None:
    """What `fold` does with a reading that is the newest of its channel."""
    windows = channel.windows
    assert windows is not None
    span = windows.append(held_of(at(seconds), None, value_row(power_w=power_w)))
    windows.heard_us = part.stream_us
    if at(seconds) >= channel.wake_us:
        part.schedule(channel)
    if span is not None:
        part.mark_changed(channel, span)


def test_a_window_is_handed_out_once_ten_seconds_after_its_end():
    part = partition()
    channel = add_channel(part)
    for i in range(13):
        read(part, channel, 5 * i, 720 + i)
    assert tick(part, "a", 69.9).minutes == []
    done = tick(part, "a", 70)
    assert [(c.channel_id, m.start_us) for c, m in done.minutes] == [(1, T0)]
    assert done.touched == [(channel, T0)]
    assert tick(part, "a", 71).minutes == []
    assert tick(part, "a", 71).touched == []


def test_a_window_waits_for_a_reading_after_its_end_until_the_gap_limit():
    part = partition()
    channel = add_channel(part)
    read(part, channel, 0, 100)
    read(part, channel, 50, 110)
    assert tick(part, "a", 200).minutes == []
    assert tick(part, "a", 359).minutes == []
    assert [m.start_us for _, m in tick(part, "a", 360).minutes] == [T0]


def test_a_reading_that_a_window_waited_for_lets_the_next_tick_complete_it():
    part = partition()
    channel = add_channel(part)
    read(part, channel, 0, 100)
    read(part, channel, 50, 110)
    assert tick(part, "a", 80).minutes == []
    read(part, channel, 81, 120)
    assert [m.start_us for _, m in tick(part, "a", 82).minutes] == [T0]


@st.composite
def traffic(draw):
    """Readings of three channels and ticks, in the order of the log."""
    clock = {1: 0.0, 2: 0.0, 3: 0.0}
    now, events = 0.0, []
    for _ in range(draw(st.integers(1, 60))):
        now += draw(st.sampled_from([0, 1, 7, 30, 65, 400]))
        if draw(st.booleans()):
            events.append(("tick", draw(st.sampled_from("ab")), now))
        else:
            channel = draw(st.integers(1, 3))
            clock[channel] = max(clock[channel] + 1, now - draw(st.integers(0, 90)))
            events.append(("read", channel, clock[channel]))
    return events


@given(traffic())
@settings(max_examples=300, deadline=None)
def test_each_window_with_readings_completes_once_and_in_order_and_none_is_forgotten(events):
    part = partition()
    channels = {i: add_channel(part, i) for i in (1, 2, 3)}
    given_out: dict[int, list[int]] = {1: [], 2: [], 3: []}
    wanted: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}

    def take(done) -> None:
        for channel, minute in done.minutes:
            assert minute.start_us + MINUTE_US <= part.stream_us
            given_out[channel.channel_id].append(minute.start_us)

    for kind, who, seconds in events:
        if kind == "tick":
            take(tick(part, who, seconds))
        else:
            windows = channels[who].windows
            assert windows is not None
            if at(seconds) >= windows.complete_until_us:
                read(part, channels[who], seconds, seconds + who)
                wanted[who].add(at(seconds) - at(seconds) % MINUTE_US)
    end = max(seconds for _, _, seconds in events) + 400
    for later in (0, 100, 400):
        take(tick(part, "a", end + later))
        take(tick(part, "b", end + later))
    for i in (1, 2, 3):
        assert given_out[i] == sorted(set(given_out[i])), "once, in order"
        assert wanted[i] <= set(given_out[i]), "every window that holds a reading"


# ---------------------------------------------------------------- spans to be redone


def late(part: Partition, channel: Channel, start: float, end: float) -> None:
    part.mark_changed(channel, Span(at(start), at(end)))


def test_late_spans_close_to_each_other_are_redone_as_one():
    part = partition()
    channel = add_channel(part)
    late(part, channel, 7200, 7260)
    late(part, channel, 0, 60)
    late(part, channel, 3600, 3700)
    done = tick(part, "a", 0)
    assert done.redo == [(channel, Span(at(0), at(7260)), T0)]
    assert tick(part, "a", 1).redo == []


def test_late_spans_far_from_each_other_are_redone_apart():
    part = partition()
    channel, other = add_channel(part), add_channel(part, 2)
    late(part, channel, 20_000, 20_060)
    late(part, other, 5, 6)
    late(part, channel, 0, 60)
    spans = [(c, span) for c, span, _ in tick(part, "a", 0).redo]
    assert spans == [
        (channel, Span(at(0), at(60))),
        (channel, Span(at(20_000), at(20_060))),
        (other, Span(at(5), at(6))),
    ]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 40_000), st.integers(0, 4000), st.booleans()),
        max_size=25,
    )
)
def test_every_late_instant_is_redone_once_and_spans_of_a_channel_stay_apart(marks):
    part = partition()
    channels = {i: add_channel(part, i) for i in (1, 2, 3)}
    asked: dict[int, list[Span]] = {1: [], 2: [], 3: []}
    for who, start, length, stored in marks:
        span = Span(at(start), at(start + length))
        part.mark_changed(channels[who], span)
        asked[who].append(span)
        if stored:  # a transaction was committed in between
            channels[who].stored_changes = len(channels[who].changed)
    redone = tick(part, "a", 0).redo
    for who, spans in asked.items():
        given_out = [span for channel, span, _ in redone if channel.channel_id == who]
        for span in spans:
            assert (
                sum(g.start_us <= span.start_us <= span.end_us <= g.end_us for g in given_out) == 1
            )
        for one, next_one in pairwise(given_out):
            assert one.end_us + HOUR_US < next_one.start_us
        assert {g.start_us for g in given_out} <= {s.start_us for s in spans}
        assert {g.end_us for g in given_out} <= {s.end_us for s in spans}
    assert tick(part, "a", 1).redo == []
    assert part.changed == []


def test_a_span_that_is_stored_is_not_altered_in_memory():
    """The table holds it as it was; what is added after it is stored anew."""
    part = partition()
    channel = add_channel(part)
    late(part, channel, 0, 60)
    channel.stored_changes = 1
    late(part, channel, 30, 90)
    late(part, channel, 80, 200)
    assert channel.changed == [Span(at(0), at(60)), Span(at(30), at(200))]


def test_at_most_so_many_spans_are_redone_at_a_tick_and_the_others_at_the_next_ones():
    part = partition()
    channels = [add_channel(part, i) for i in range(1, 2 * MOST_REDONE_A_TICK + 51)]
    for channel in channels:
        late(part, channel, channel.channel_id, channel.channel_id + 1)
        channel.stored_changes = 1
    portions = [tick(part, "a", i).redo for i in range(4)]
    assert [len(portion) for portion in portions] == [
        MOST_REDONE_A_TICK, MOST_REDONE_A_TICK, 50, 0
    ]  # fmt: skip
    assert [c for portion in portions for c, _, _ in portion] == channels


def test_spans_that_wait_for_another_tick_are_to_be_stored_again():
    """A tick settles the whole table; what is left over must not be forgotten by a crash."""
    part = partition()
    channels = [add_channel(part, i) for i in range(MOST_REDONE_A_TICK + 2)]
    for channel in channels:
        late(part, channel, 0, 1)
        channel.stored_changes = 1
    tick(part, "a", 0)
    assert part.changed == channels[-2:]
    assert [c.stored_changes for c in part.changed] == [0, 0]


# ---------------------------------------------------------------- packets and limits


def test_a_redelivered_packet_with_the_same_content_was_seen_before():
    part = partition()
    assert not part.seen_before("s0", "7", 111, redelivered=False)
    assert part.seen_before("s0", "7", 111, redelivered=True)
    assert part.seen_before("s0", "7", 111, redelivered=True)


def test_a_packet_id_is_used_again_for_other_messages():
    part = partition()
    part.seen_before("s0", "7", 111, redelivered=False)
    assert not part.seen_before("s0", "7", 222, redelivered=True)
    assert not part.seen_before("s0", "7", 111, redelivered=True)
    assert not part.seen_before("s1", "7", 111, redelivered=True)
    assert not part.seen_before("s0", "8", 111, redelivered=True)
    assert not part.seen_before("s0", "7", 111, redelivered=False), "sent twice by the device"


def test_the_oldest_packets_are_forgotten():
    part = partition()
    part.seen_before("s0", "again", 1, redelivered=False)
    for i in range(REMEMBERED_PACKETS - 1):
        part.seen_before("s0", str(i), i, redelivered=False)
    assert part.seen_before("s0", "again", 1, redelivered=True)
    part.seen_before("s0", "one more", 1, redelivered=False)
    assert not part.seen_before("s0", "again", 1, redelivered=True)


def test_a_device_has_its_own_limits_else_those_of_its_family():
    tasmota = FAMILIES["tasmota"]
    assert limits_of(tasmota, None, None) == Limits(900 * SECOND_US, 30_000_000)
    assert limits_of(tasmota, 60, None) == Limits(60 * SECOND_US, 30_000_000)
    assert limits_of(tasmota, None, 2_000) == Limits(900 * SECOND_US, 2_000_000)
