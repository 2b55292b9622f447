"""What a device stored of its register's silence, beside the register: both count once."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.units import MINUTE_US, SECOND_US, UWH_PER_WH
from schemas.usage import Quality, Why
from streams.energy import GapEnergy, Limits, Point, minutes_of
from streams.registers import Segment
from streams.stored_minutes import Stored, cut
from tests.examples import examples

T0 = 1_763_700_000 * SECOND_US
LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)
HOUR = 60


def register(minute: float, energy_wh: float) -> Point:
    return Point(T0 + round(minute * MINUTE_US), import_uwh=round(energy_wh * UWH_PER_WH))


def stored(minute: int, energy_wh: float) -> Point:
    """The energy of the minute that begins `minute` minutes after T0."""
    end_us = T0 + (minute + 1) * MINUTE_US
    return Point(end_us, interval_us=MINUTE_US, interval_uwh=round(energy_wh * UWH_PER_WH))


def in_order(points: list[Point]) -> list[Point]:
    """One point an instant, as `streams.merge` makes of two."""
    by_instant: dict[int, Point] = {}
    for point in points:
        known = by_instant.get(point.at_us, point)
        filled = (old if new is None else new for old, new in zip(known, point, strict=True))
        by_instant[point.at_us] = Point(*filled)  # type: ignore[arg-type]
    return [by_instant[at_us] for at_us in sorted(by_instant)]


def windows(points: list[Point]) -> tuple[list[tuple[int, Quality]], list[GapEnergy]]:
    """Energies in µWh and qualities of all minutes from T0 on, and the gaps."""
    points = in_order(points)
    end_us = points[-1].at_us // MINUTE_US * MINUTE_US + MINUTE_US
    measured = minutes_of(points, T0, end_us, LIMITS)
    found = {minute.start_us: (minute.energy_uwh, minute.quality) for minute in measured.minutes}
    starts = range(T0, end_us, MINUTE_US)
    return [found.get(start, (0, Quality.GAP)) for start in starts], measured.gaps


def test_stored_minutes_say_when_the_energy_of_a_silence_ran():
    # 10 minutes of silence: 55 Wh, 1 in the first minute, 2 in the second, …
    energies = list(range(1, 11))
    points = [
        register(0, 100),
        register(10, 155),
        *(stored(i, wh) for i, wh in enumerate(energies)),
    ]
    minutes, gaps = windows(points)
    assert [wh * UWH_PER_WH for wh in energies] == [uwh for uwh, _ in minutes[:10]]
    assert {quality for _, quality in minutes[:10]} == {Quality.BACKFILLED}
    assert gaps == []


def test_six_hours_become_360_minutes_where_there_was_one_gap():
    ends = [register(0, 0), register(6 * HOUR, 720)]
    assert windows(ends)[1] == [
        GapEnergy(T0, T0 + 6 * HOUR * MINUTE_US, 720 * UWH_PER_WH, 0, Why.SILENCE)
    ]
    minutes, gaps = windows([*ends, *(stored(i, i % 5) for i in range(6 * HOUR))])
    assert gaps == []
    assert [uwh for uwh, _ in minutes[:360]] == [i % 5 * UWH_PER_WH for i in range(360)]


def test_where_the_minutes_are_rounded_the_register_is_right():
    # The register has 0.01 Wh more than its minutes together, and no time is left open.
    points = [register(0, 0), register(10, 10.01), *(stored(i, 1) for i in range(10))]
    minutes, _ = windows(points)
    assert sum(uwh for uwh, _ in minutes) == 10_010_000
    assert {uwh for uwh, _ in minutes[:10]} == {1_001_000}


def test_what_lies_before_the_first_and_after_the_last_minute_has_the_rest():
    # silent from 0:30 to 10:30; nine whole minutes of 2 Wh, and 3 Wh more than these
    points = [register(0, 0), register(0.5, 1), register(10.5, 22)]
    minutes, _ = windows([*points, *(stored(i, 2) for i in range(1, 10))])
    assert [uwh for uwh, _ in minutes[1:10]] == [2 * UWH_PER_WH] * 9
    assert minutes[0][0] == 1 * UWH_PER_WH + 1_500_000
    assert minutes[10][0] == 1_500_000


def test_of_a_minute_that_begins_before_the_silence_its_part_is_taken():
    # 0:30 to 10:30: half of the first stored minute (4 Wh), nine of 2 Wh, half of the last (6 Wh)
    points = [register(0, 0), register(0.5, 1), register(10.5, 24), register(11, 28)]
    records = [stored(0, 4), *(stored(i, 2) for i in range(1, 10)), stored(10, 6)]
    minutes, _ = windows([*points, *records])
    assert minutes[0][0] == (1 + 2) * UWH_PER_WH
    assert minutes[10][0] == (3 + 4) * UWH_PER_WH


def test_hours_of_which_the_device_has_nothing_stay_one_gap():
    # 6 hours: the first and the last have minutes of 1 Wh, between them 100 Wh in 4 hours
    records = [stored(i, 1) for i in [*range(60), *range(300, 360)]]
    minutes, gaps = windows([register(0, 0), register(360, 220), *records])
    assert [uwh for uwh, _ in minutes[:60]] == [UWH_PER_WH] * 60
    assert [uwh for uwh, _ in minutes[300:360]] == [UWH_PER_WH] * 60
    start_us, end_us = T0 + 60 * MINUTE_US, T0 + 300 * MINUTE_US
    assert gaps == [GapEnergy(start_us, end_us, 100 * UWH_PER_WH, 0, Why.SILENCE)]


def test_minutes_that_contradict_the_register_are_scaled_to_it():
    # They say 30 Wh, the register 15.
    points = [register(0, 0), register(10, 15), *(stored(i, 3) for i in range(10))]
    assert [uwh for uwh, _ in windows(points)[0][:10]] == [1_500_000] * 10


def test_a_register_that_was_not_silent_needs_no_stored_minutes():
    points = [register(i, i) for i in range(11)]
    alone = windows(points)[0]
    beside = windows([*points, *(stored(i, 77)._replace(at_us=T0 + (i + 1) * MINUTE_US + 1)
                                 for i in range(9))])[0]  # fmt: skip
    assert [energy for energy, _ in alone] == [energy for energy, _ in beside]


@st.composite
def silences(draw: st.DrawFn) -> tuple[Segment, list[Stored]]:
    start_us = draw(st.integers(0, 10_000))
    end_us = start_us + draw(st.integers(1, 100_000))
    ends = sorted(draw(st.sets(st.integers(0, 120_000), max_size=12)))
    records, told_until = [], -(1 << 62)
    for at_us in ends:
        begins_us = at_us - draw(st.integers(1, 30_000))
        records.append(
            Stored(begins_us, at_us, max(begins_us, told_until), draw(st.integers(0, 10**9)))
        )
        told_until = at_us
    return Segment(start_us, end_us, draw(st.integers(0, 3 * 10**9)), Why.NOTHING), records


@settings(max_examples=examples(300), deadline=None)
@given(silences(), st.sampled_from([1, 10**6, 10**12]))
def test_the_parts_follow_each_other_and_sum_to_the_register(silence, max_power_mw):
    segment, records = silence
    parts = cut(segment, records, Limits(300, max_power_mw))
    assert (parts[0].start_us, parts[-1].end_us) == segment[:2]
    assert all(a.end_us == b.start_us for a, b in pairwise(parts))
    assert all(part.start_us < part.end_us and part.energy_uwh >= 0 for part in parts)
    assert sum(part.energy_uwh for part in parts) == segment.energy_uwh


@pytest.mark.parametrize("why", [Why.REGISTER_RESET, Why.REGISTER_ROLLOVER])
def test_a_repaired_step_of_the_register_stays_as_it_was_repaired(why):
    segment = Segment(T0, T0 + HOUR * MINUTE_US, 60, why)
    before = {Why.REGISTER_RESET: 5_000.0, Why.REGISTER_ROLLOVER: 9_999_990.0}[why]
    limits = Limits(LIMITS.gap_limit_us, LIMITS.max_power_mw, 10_000_000 * UWH_PER_WH)
    points = [register(0, before), register(60, 6), register(61, 7)]
    end_us = T0 + 62 * MINUTE_US
    alone = minutes_of(points, T0, end_us, limits)
    healed = minutes_of(in_order([*points, stored(30, 6)]), T0, end_us, limits)
    assert segment.why in {repair.why for repair in alone.repairs}
    assert [m.energy_uwh for m in alone.minutes] == [m.energy_uwh for m in healed.minutes]
