"""What is remembered of a device follows the registry; nothing else changes by it."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reading import Clock, Reading, Values
from schemas.units import MINUTE_US, SECOND_US
from sinks.device_registry import KnownDevice
from sinks.usage_windows import LimitsRow
from streams.announce import announced_readings
from streams.partition import Channel, Device, Partition
from streams.registry_changes import apply, device_of, homes_of
from streams.windows import ChannelWindows, held_of
from streams.work import Work
from tests.streams.test_fold import N1, Log
from tests.value_rows import value_row

T0 = 1_763_700_000 * SECOND_US
PLAIN = KnownDevice(1, "homesync:h/n1", "homesync", 300, None, [(0, None, "a")])


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND_US)


# ---------------------------------------------------------------- whose a device was


def test_a_device_is_nobodys_before_its_first_home_and_between_two():
    device = device_of(
        PLAIN._replace(homes=[(10, 20, "a"), (20, 30, "b"), (40, 50, "a"), (60, None, "c")])
    )
    told = {at: device.home_at(at) for at in (9, 10, 19, 20, 29, 30, 39, 40, 49, 50, 60, 1 << 60)}
    assert told == {
        9: None, 10: "a", 19: "a", 20: "b", 29: "b", 30: None, 39: None, 40: "a", 49: "a",
        50: None, 60: "c", 1 << 60: "c",
    }  # fmt: skip


@given(st.sets(st.integers(0, 50), min_size=2, max_size=12), st.data())
def test_whose_a_device_was_is_what_its_spans_say(cuts: set[int], data: st.DataObject):
    edges = sorted(cuts)
    spans: list[tuple[int, int | None, str]] = [
        (since, until, data.draw(st.sampled_from("abc")))
        for since, until in pairwise(edges)
        if data.draw(st.booleans())
    ]
    if data.draw(st.booleans()):
        spans.append((edges[-1], None, "d"))
    device = Device(1, "x", homes_of(spans), device_of(PLAIN).limits)
    for instant in range(-1, 52):
        owners = [home for s, u, home in spans if s <= instant and (u is None or instant < u)]
        assert device.home_at(instant) == (owners[0] if owners else None)


def test_readings_of_one_transaction_are_told_as_each_homes_own():
    device = device_of(PLAIN._replace(homes=[(0, at(10), "a"), (at(10), None, "b")]))
    work = Work()
    for second in (8, 12, 9, 10):
        work.told_of(device).append(Reading("total", at(second), Values(), Clock.DEVICE))
    packed = [
        (one.home_id, [r.measured_us for r in one.readings]) for one in announced_readings(work)
    ]
    assert packed == [("a", [at(8), at(9)]), ("b", [at(12), at(10)])]


# ---------------------------------------------------------------- limits


@pytest.fixture
def part() -> Iterator[Partition]:
    """A partition whose device spoke at 0 and 50 s, and its stream time is 50 s."""
    one = Partition(0, 1, 0, 0, at(50), {"a": at(50)})
    device = one.devices[PLAIN.address] = device_of(PLAIN)
    channel = device.channels["total"] = Channel(1, "total", device, None)
    windows = channel.windows = ChannelWindows(device.limits, T0 - T0 % MINUTE_US)
    windows.heard_us = at(50)
    for second in (0, 50):
        windows.append(held_of(at(second), None, value_row(power_w=100.0)))
    one.schedule(channel)
    return one


def completes_at(part: Partition) -> int:
    """The first second whose tick completes a window."""
    for second in range(51, 2000):
        done = part.tick("a", at(second), at(second))
        assert done is not None
        if done.minutes:
            return second
    raise AssertionError("nothing completes")


@pytest.mark.parametrize("gap_limit_s", [60, 300, 1500])
def test_a_new_gap_limit_decides_how_long_an_open_window_waits(part: Partition, gap_limit_s: int):
    changed = PLAIN._replace(gap_limit_s=gap_limit_s)
    assert apply([part], [changed]) == (gap_limit_s != 300)
    assert apply([part], [changed]) == 0
    end_s = (T0 - T0 % MINUTE_US + MINUTE_US - T0) // SECOND_US
    assert completes_at(part) == max(50, end_s) + gap_limit_s


def test_silence_is_a_gap_by_the_limit_that_holds_when_its_windows_complete(part: Partition):
    device = part.devices[PLAIN.address]
    for gap_limit_s, silence_s in ((300, 200), (100, 200), (300, 250)):
        apply([part], [PLAIN._replace(gap_limit_s=gap_limit_s)])
        channel = device.channels["total"]
        assert channel.windows is not None
        begins = channel.windows.held[-1][0]
        ends = begins + silence_s * SECOND_US
        channel.windows.append(held_of(ends, None, value_row(power_w=100.0)))
        part.schedule(channel)
        done = part.tick("a", ends + 70 * SECOND_US, ends + 70 * SECOND_US)
        assert done is not None
        whole = range(begins - begins % MINUTE_US + MINUTE_US, ends - MINUTE_US, MINUTE_US)
        told = {minute.start_us: minute.energy_uwh for _, minute in done.minutes}
        expected = 1_666_667 if silence_s <= gap_limit_s else None  # 100 W for a minute
        assert [_near(told.get(start)) for start in whole] == [expected] * len(whole)
        assert len(whole) > 1


def _near(energy_uwh: int | None) -> int | None:
    """Rounded from where the integral is cut, so one µWh more or less."""
    return 1_666_667 if energy_uwh in (1_666_666, 1_666_667) else energy_uwh


def test_new_limits_are_to_be_stored_once_with_the_next_transaction():
    log = Log()
    for second in range(0, 300, 10):
        log.reading(second, seq=second, power_w=100.0)
    log.tick(300)
    work = log.fold()
    ((state,), channel) = work.channel_states, log.partition.devices[N1].channels["total"]
    assert work.limits == [LimitsRow(channel.channel_id, 300, 100_000, None)]
    apply([log.partition], [PLAIN._replace(address=N1, gap_limit_s=60, max_power_w=7)])
    log.tick(900)
    work = log.fold()
    assert work.limits == [LimitsRow(channel.channel_id, 60, 7, state.complete_until_us)]
    log.tick(901)
    assert log.fold().limits == []


def test_a_device_that_the_partition_does_not_hold_is_passed_over(part: Partition):
    other = PLAIN._replace(address="homesync:h/other", gap_limit_s=5)
    assert apply([part], [other]) == 0
    assert set(part.devices) == {PLAIN.address}


STEPS = st.lists(st.tuples(st.sampled_from([1, 9, 70, 400]), st.booleans(), st.booleans()))


@given(STEPS, st.sampled_from([0, 3600]))
def test_limits_that_come_and_go_between_two_records_leave_no_trace(
    steps: list[tuple[int, bool, bool]], behind_s: int
):
    plain, disturbed = ([], []), ([], [])
    for done, disturb in ((plain, False), (disturbed, True)):
        part = Partition(0, 1, 0, 0, T0, {})
        device = part.devices[PLAIN.address] = device_of(PLAIN)
        channel = device.channels["total"] = Channel(
            1, "total", device, ChannelWindows(device.limits, T0 - T0 % MINUTE_US)
        )
        second, register_wh = 0, 1000.0
        for wait_s, has_register, change in steps:
            second += wait_s
            register_wh += wait_s / 36
            said = value_row(power_w=100.0, import_total_wh=register_wh if has_register else None)
            assert channel.windows is not None
            span = channel.windows.append(held_of(at(second), None, said))
            channel.windows.heard_us = part.stream_us
            part.schedule(channel)
            if span is not None:
                part.mark_changed(channel, span)
            if change and disturb:
                apply([part], [PLAIN._replace(gap_limit_s=17, max_power_w=5)])
                apply([part], [PLAIN])
            now_us = at(second + behind_s)
            given_out = part.tick("a", now_us, now_us)
            assert given_out is not None
            done[0].extend(minute for _, minute in given_out.minutes)
            done[1].extend((span, until) for _, span, until in given_out.redo)
    assert plain == disturbed
