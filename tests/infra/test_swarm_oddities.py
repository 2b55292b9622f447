"""What odd nodes do follows from the seed, and their record tells the energy all the same."""

from pathlib import Path
from random import Random

import pytest

from infra.swarm.meters import LEAST_RESET_UWH, ROLLS_OVER_AT_UWH, Meter
from infra.swarm.oddities import (
    MOST_FAST_S,
    MOST_SLOW_S,
    ODD,
    PLAIN,
    Awaited,
    Behaviour,
    Prefix,
    Whims,
)
from infra.swarm.record import Header, Record, Sent, read
from schemas.units import SECOND_US
from streams.registers import Limits, register_segments

START_US = 1_763_700_000_000_000
LIMITS = Limits(
    gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000, register_span_uwh=ROLLS_OVER_AT_UWH
)


def whims(behaviour: Behaviour, seed: int = 1) -> Whims:
    return Whims(behaviour, Random(seed), Meter(0, 1, Random(2)))


def registers(meter: Meter, count: int, tmp_path: Path, reset_at: int = -1) -> list[Sent]:
    """So many readings of a meter, a second apart, as its record tells them."""
    record = Record(tmp_path / "r", Header("home", 1, 1, 1, "ack"))
    jumps = 0
    for k in range(count):
        if k == reset_at:
            assert meter.reset()
        numbers, _ = meter.read(START_US + k * SECOND_US)
        if meter.jumps != jumps:
            jumps = meter.jumps
            record.jumped(0, meter.hidden_uwh)
        record.sent(0, k + 1, 0, START_US + k * SECOND_US, numbers)
    record.close()
    return [frame for frame in read(tmp_path / "r") if isinstance(frame, Sent)]


def test_plain_nodes_have_no_whims():
    assert not PLAIN
    assert ODD


def test_a_clock_never_goes_back_and_stays_within_what_is_believed():
    for seed in range(50):
        one = whims(Behaviour(drift_ppm=200, clock_step=0.05), seed)
        shown = [one.clock(START_US + k * SECOND_US // 10) for k in range(2_000)]
        assert shown == sorted(set(shown))
        ahead = [at - START_US - k * SECOND_US // 10 for k, at in enumerate(shown)]
        assert min(ahead) >= -MOST_SLOW_S * SECOND_US
        assert max(ahead) <= MOST_FAST_S * SECOND_US + 200 * 200
        assert len(set(ahead)) > 100


def test_the_same_seed_has_the_same_whims():
    def course(seed: int) -> list[object]:
        one = whims(ODD, seed)
        return [
            (one.clock(START_US + k), one.resets(), one.silence_s(), one.duplicate_after_s(),
             one.order([k, k + 1], 0.0))
            for k in range(2_000)
        ]  # fmt: skip

    assert course(3) == course(3) != course(4)


def test_a_message_held_back_is_sent_with_the_next():
    one = whims(Behaviour(reorder=1.0))
    assert one.order([7], 0.0) == []
    assert one.order([8], 0.0) == [8, 7]
    assert sorted(one.order(list(range(20)), 0.0)) == list(range(20))


def test_after_a_reset_the_register_is_small_and_the_record_knows_the_energy(tmp_path: Path):
    frames = registers(Meter(3, 1, Random(5)), 40, tmp_path, reset_at=20)
    shown = [frame.numbers[5] for frame in frames]
    assert shown[20] < shown[19]
    assert shown[20] < LEAST_RESET_UWH
    true = [frame.registers_uwh()[0] for frame in frames]
    assert true == sorted(true)
    assert [frame.hidden_uwh for frame in frames[19:21]] == [(), (shown[19], frames[19].numbers[6])]
    read_as = [(frame.measured_us, frame.numbers[5]) for frame in frames]
    told = register_segments(read_as, LIMITS)
    assert told.silent == []
    assert sum(segment.energy_uwh for segment in told.segments) == true[-1][0] - true[0][0]


def test_a_register_that_was_just_reset_is_not_reset_again():
    meter = Meter(0, 3, Random(1))
    meter.read(START_US)
    assert meter.reset()
    meter.read(START_US + SECOND_US)
    assert not meter.reset()


def test_a_rollover_goes_through_the_largest_reading(tmp_path: Path):
    meter = Meter(0, 1, Random(5))
    meter.roll_over_soon(1_000_000)
    frames = registers(meter, 60, tmp_path)
    shown = [frame.numbers[5] for frame in frames]
    at = shown.index(min(shown))
    assert shown[at - 1] < ROLLS_OVER_AT_UWH
    assert shown[at] < 10_000_000
    true = [frame.registers_uwh()[0][0] for frame in frames]
    assert true == sorted(true)
    assert true[at] == shown[at] + ROLLS_OVER_AT_UWH
    told = register_segments([(f.measured_us, f.numbers[5]) for f in frames], LIMITS)
    assert told.silent == []
    assert sum(segment.energy_uwh for segment in told.segments) == true[-1] - true[0]


def test_a_register_that_is_about_to_roll_over_is_not_reset_before():
    meter = Meter(0, 1, Random(5))
    meter.roll_over_soon(1_000_000)
    refused = 0
    for k in range(60):
        numbers, _ = meter.read(START_US + k * SECOND_US)
        if numbers[5] > ROLLS_OVER_AT_UWH // 2:
            assert not meter.reset()
            refused += 1
    assert 0 < refused < 60
    assert meter.hidden_uwh == [ROLLS_OVER_AT_UWH, 0]


def test_the_last_reading_is_no_rollover():
    meter = Meter(0, 1, Random(5))
    meter.roll_over_soon(1_000_000)
    meter.read(START_US)
    meter.roll_over_no_more()
    numbers, _ = meter.read(START_US + 3600 * SECOND_US)
    assert numbers[5] > ROLLS_OVER_AT_UWH
    assert not meter.jumps


def test_of_odd_nodes_some_roll_over():
    rolled = 0
    for seed in range(200):
        meter = Meter(0, 1, Random(seed))
        Whims(ODD, Random(seed), meter)
        for k in range(60):
            meter.read(START_US + k * SECOND_US)
        rolled += meter.jumps
    assert 2 <= rolled <= 25


@pytest.mark.parametrize(
    ("confirmed", "until"), [([1, 2, 3], 3), ([2, 3], 0), ([3, 1, 2, 5], 3), ([1, 1, 2, 1], 2)]
)
def test_bare_nodes_believe_only_what_is_confirmed_without_a_gap(confirmed: list[int], until: int):
    prefix = Prefix()
    assert [prefix.confirm(seq) for seq in confirmed][-1] == until


def test_a_puback_is_only_taken_when_it_is_due():
    awaited = Awaited()
    awaited.published(9, 4)
    awaited.published(3, 2)
    assert awaited.confirmed(3) is None
    assert awaited.confirmed(9) == 4
    assert awaited.confirmed(3) == 2
    assert not awaited
    assert awaited.confirmed(3) is None
