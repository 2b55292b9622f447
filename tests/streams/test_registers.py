"""Odd registers: what is counted, what is told of it, and that no order of arrival changes it."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.families import FAMILIES
from schemas.units import MWUS_PER_UWH, SECOND_US
from schemas.usage import Quality, Why
from streams.energy import Measured
from streams.partition import limits_of
from streams.registers import Limits, register_segments
from streams.windows import Held, held_of
from tests.examples import examples
from tests.streams.test_windows import T0, point, run, whole
from tests.value_rows import value_row

LIMITS = Limits(300 * SECOND_US, 100_000_000, 10_000_000 * 10**6)
WH = 10**6  # µWh


def meter(
    registers: Sequence[float], power_w: float | None = None, step_s: float = 5
) -> list[Held]:
    return [point(step_s * i, power_w, wh) for i, wh in enumerate(registers)]


def energy_uwh(done: Measured) -> int:
    return sum(m.energy_uwh for m in done.minutes) + sum(g.energy_uwh for g in done.gaps)


def told(readings: Sequence[Held]) -> list[tuple[str, float, float, float]]:
    return [
        (r.why.name, r.before_uwh / WH, r.after_uwh / WH, r.energy_uwh / WH)
        for r in whole(readings, LIMITS).repairs
    ]


# ---- one kind after the other


@pytest.mark.parametrize("asked_every_s", [1, 10, 29, 60])
def test_a_register_that_counts_by_whole_minutes_does_not_step_at_their_ends(asked_every_s: int):
    limits = limits_of(FAMILIES["shelly"], None, None)
    readings = [point(s, 24_000, s // 60 * 400.0) for s in range(0, 601, asked_every_s)]
    done = whole(readings, limits)
    assert done.repairs == []
    assert energy_uwh(done) == (range(0, 601, asked_every_s)[-1] // 60) * 400 * WH


def test_a_rollover_counts_on_through_the_end_of_the_span():
    readings = meter([9_999_997, 9_999_999, 1, 3])
    assert energy_uwh(whole(readings, LIMITS)) == 6 * WH
    assert told(readings) == [("REGISTER_ROLLOVER", 9_999_999, 1, 2)]
    minute = whole(meter([9_999_997, 9_999_999, 1, 3], step_s=20), LIMITS).minutes[0]
    assert minute.quality is Quality.MEASURED
    assert minute.why is Why.REGISTER_ROLLOVER


@pytest.mark.parametrize(
    ("registers", "why"),
    [
        ([5_000_000, 5_000_002, 1, 3], "REGISTER_RESET"),  # not near the end
        ([9_999_000, 9_999_002, 1, 3], "REGISTER_RESET"),  # 999 Wh in 5 s
        ([10_000_004, 10_000_006, 1, 3], "REGISTER_RESET"),  # beyond the end: no such span
        ([9_999_997, 9_999_999, 5_000_000, 5_000_001], "METER_REPLACED"),
    ],
)
def test_no_rollover_far_from_the_end_or_too_fast(registers: list[float], why: str):
    assert [row[0] for row in told(meter(registers))] == [why]


def test_a_register_without_a_known_span_does_not_roll_over():
    register = [(T0 + i * 5 * SECOND_US, wh * WH) for i, wh in enumerate([9_999_999, 1, 3])]
    plain = Limits(LIMITS.gap_limit_us, LIMITS.max_power_mw)
    assert register_segments(register, plain).segments[0].energy_uwh == 1 * WH
    assert register_segments(register, LIMITS).segments[0].energy_uwh == 2 * WH


def test_the_meters_of_nodes_and_sockets_roll_over_at_10_000_kwh():
    spans = {name: family.register_span_uwh for name, family in FAMILIES.items()}
    assert {name for name, span in spans.items() if span} == {"homesync", "wattaway"}
    assert spans["homesync"] == spans["wattaway"] == 10_000_000 * WH
    assert limits_of(FAMILIES["homesync"], None, None) == LIMITS


def test_what_a_reset_hid_is_put_back_from_power():
    # 3.6 kW: 5 Wh each 5 s. 4 of them were counted before the reset, 1 after it.
    readings = meter([1000, 1005, 1, 6], 3600)
    done = whole(readings, LIMITS)
    assert energy_uwh(done) == 15 * WH
    assert told(readings) == [("REGISTER_RESET", 1005, 1, 5)]
    minute = whole(meter([1000, 1020, 1, 21], 3600, step_s=20), LIMITS).minutes[0]
    assert minute.energy_uwh == 60 * WH
    assert (minute.quality, minute.why) == (Quality.INTEGRATED, Why.REGISTER_RESET)


def test_a_reset_with_a_load_that_changes_counts_what_the_register_says():
    # 3.6 kW before, nothing after: who knows when it was switched off
    readings = [point(0, 3600, 1000), point(5, 3600, 1005), point(10, 0, 1), point(15, 0, 1)]
    assert told(readings) == [("REGISTER_RESET", 1005, 1, 1)]


def test_a_relay_that_restarts_at_boot_and_says_power_and_energy_apart():
    """Shelly Gen1: each 30 s, power and register a few ms apart, 600 W: 5 Wh each time."""
    registers = [100, 105, 110, 2, 7, 12, 17, 22, 1, 6]
    readings = []
    for i, wh in enumerate(registers):
        readings += [point(30 * i, 600), point(30 * i + 0.004, None, wh)]
    done = whole(readings, LIMITS)
    assert told(readings) == [("REGISTER_RESET", 110, 2, 5), ("REGISTER_RESET", 22, 1, 5)]
    assert abs(energy_uwh(done) - 45 * WH) < 0.01 * WH


def test_a_restored_register_is_counted_on_and_not_once_more():
    # 720 W: 1 Wh each 5 s. The meter lost its mains and came back with a register of 98.
    registers = [100, 101, 102, 98.5, 99.5, 100.5, 101.5, 102.5]
    readings = meter(registers, 720)
    assert energy_uwh(whole(readings, LIMITS)) == 7 * WH
    assert told(readings) == [("REGISTER_RESTORED", 102, 98.5, 1)]
    without_power = meter(registers)
    assert energy_uwh(whole(without_power, LIMITS)) == 6 * WH
    assert told(without_power) == [("REGISTER_RESTORED", 102, 98.5, 0)]


@pytest.mark.parametrize("other", [70_000_000, 900, 5_000_000])
def test_power_stands_in_for_a_meter_that_was_replaced(other: float):
    old = [20_000_000 + i for i in range(4)]
    readings = meter([*old, *(other + i for i in range(4))], 720)
    assert energy_uwh(whole(readings, LIMITS)) == 7 * WH
    assert told(readings) == [("METER_REPLACED", old[-1], other, 1)]


def test_a_spike_is_told_and_adds_nothing():
    readings = meter([100, 101, 999_999, 103, 0, 105, 106])
    assert energy_uwh(whole(readings, LIMITS)) == 6 * WH
    assert told(readings) == [
        ("REGISTER_SPIKE", 101, 999_999, 0),
        ("REGISTER_SPIKE", 103, 0, 0),
    ]
    first, second = whole(readings, LIMITS).repairs
    assert [(r.start_us - T0, r.at_us - T0, r.end_us - T0) for r in (first, second)] == [
        (5 * SECOND_US, 10 * SECOND_US, 15 * SECOND_US),
        (15 * SECOND_US, 20 * SECOND_US, 25 * SECOND_US),
    ]


def test_a_spike_to_0_of_a_young_register_is_no_reset():
    # 182 and 184 could as well have been counted from 0 in their time
    readings = meter([168, 170, 0, 182, 184, 186])
    assert energy_uwh(whole(readings, LIMITS)) == 18 * WH
    assert told(readings) == [("REGISTER_SPIKE", 170, 0, 0)]


def test_import_and_export_are_repaired_apart():
    imports, exports = [9_999_998, 9_999_999, 0.5, 1.5], [5000, 5001, 5002, 0.25]
    readings = [
        held_of(
            T0 + 5 * i * SECOND_US,
            None,
            value_row(import_total_wh=imported, export_total_wh=exported),
        )
        for i, (imported, exported) in enumerate(zip(imports, exports, strict=True))
    ]
    readings.append(point(20, None, 2.5, export_total_wh=0.5))
    done = whole(readings, LIMITS)
    assert energy_uwh(done) == round(4.5 * WH)
    assert sum(m.export_uwh for m in done.minutes) == round(2.5 * WH)
    assert [(r.why, r.is_export) for r in done.repairs] == [
        (Why.REGISTER_ROLLOVER, False),
        (Why.REGISTER_RESET, True),
    ]
    by_power = [point(5 * i, -720, 0, export_total_wh=wh) for i, wh in enumerate([90, 91, 0, 1, 2])]
    done = whole(by_power, LIMITS)
    assert (energy_uwh(done), sum(m.export_uwh for m in done.minutes)) == (0, 4 * WH)


# ---- the made-up meter

SPAN_MWS = 10_000_000 * 3_600_000
RESETS_S = (603, 909, 1211)
SPIKES_S = (25, 1500)


def made_up(chance: Random) -> tuple[list[Held], int]:
    """Half an hour of readings each 5 s of a meter that rolls over, is reset three times, says
    nonsense twice, and loses 5 % of its readings; and what was used from the first to the last,
    in µWh. The load changes each second, but not within a minute of a reset.
    """
    spared = {0, 1800, *(at + d for at in SPIKES_S for d in (-5, 0, 5))}
    lost = chance.sample([at for at in range(0, 1801, 5) if at not in spared], 18)
    load_w, used_mws, register_mws = 1000, 0, SPAN_MWS - 40 * 3_600_000
    readings, used = [], []
    for at_s in range(1801):
        if at_s in RESETS_S:
            register_mws = 0
        if all(abs(at_s - reset) > 60 for reset in RESETS_S):
            load_w = max(20, min(6000, load_w + chance.randrange(-200, 201)))
        if at_s % 5 == 0 and at_s not in lost:
            shown_wh = register_mws // 3_600 / 1000
            if at_s in SPIKES_S:
                shown_wh = chance.choice([shown_wh / 2, shown_wh + 4e6, 4e9])
            readings.append(point(at_s, load_w, shown_wh))
            used.append(used_mws)
        used_mws += load_w * 1000
        register_mws = (register_mws + load_w * 1000) % SPAN_MWS
    return readings, (used[-1] - used[0]) * SECOND_US // MWUS_PER_UWH


@pytest.mark.parametrize("seed", range(12))
def test_the_made_up_meter_is_true_to_1_wh_in_any_order_of_arrival(seed: int):
    chance = Random(seed)
    readings, used_uwh = made_up(chance)
    done = whole(readings, LIMITS)
    assert abs(energy_uwh(done) - used_uwh) < 1 * WH
    kinds = [repair.why for repair in done.repairs]
    assert kinds.count(Why.REGISTER_RESET) == 3
    assert kinds.count(Why.REGISTER_ROLLOVER) == 1
    assert kinds.count(Why.REGISTER_SPIKE) == 2
    assert len(kinds) == 6
    ticks = {i: 5 * i + chance.randrange(60) for i in range(0, len(readings), 12)}
    arrivals = list(readings)
    if seed % 3 == 1:  # a tenth comes up to five minutes late
        late = {r[0]: chance.random() * 300 * SECOND_US * (chance.random() < 0.1) for r in arrivals}
        arrivals.sort(key=lambda r: r[0] + late[r[0]])
    elif seed % 3 == 2:
        chance.shuffle(arrivals)
    assert run(arrivals, ticks, LIMITS).measured() == done


# ---- properties


@st.composite
def courses(draw: st.DrawFn) -> list[Held]:
    """Readings whose register rises, restarts, goes back, rolls over, jumps, or is nonsense;
    power may be there.
    """
    has_power = draw(st.booleans())
    at_s, shown = 0, [draw(st.sampled_from([0, 500, 8_000_000, 9_999_990])) * WH]
    readings = [point(0, 100 if has_power else None, shown[0] / WH)]
    for _ in range(draw(st.integers(1, 25))):
        at_s += draw(st.sampled_from([1, 5, 5, 10, 60, 400, 9000]))
        rise = draw(st.integers(0, 2 * WH))
        register = (shown[-1] + rise) % (10_000_000 * WH)
        match draw(st.sampled_from(["fine"] * 10 + ["reset", "restored", "spike", "replaced"])):
            case "reset":
                register = draw(st.integers(0, rise))
            case "restored":
                register = max(0, register - draw(st.integers(0, 50 * WH)))
            case "replaced":
                register = draw(st.integers(0, 9_000_000 * WH))
        shown.append(register)
        is_nonsense = draw(st.integers(0, 19)) == 0
        said = draw(st.integers(0, 10**15)) if is_nonsense else register
        power_w = draw(st.integers(0, 20_000)) if has_power else None
        readings.append(point(at_s, power_w, said / WH))
    return readings


@given(courses())
@settings(max_examples=examples(200), deadline=None)
def test_the_register_and_its_repairs_are_the_energy_and_none_is_negative(
    readings: list[Held],
):
    done = whole(readings, LIMITS)
    register = [reading[2] for reading in readings]
    assert all(minute.energy_uwh >= 0 for minute in done.minutes)
    assert all(gap.energy_uwh >= 0 for gap in done.gaps)
    assert all(repair.energy_uwh >= 0 for repair in done.repairs)
    silent = register_segments([(r[0], r[2]) for r in readings], LIMITS).silent
    if any(span.why is Why.REGISTER_DOUBTED for span in silent):
        return
    repaired = sum(repair.added_uwh for repair in done.repairs)
    difference = energy_uwh(done) - (register[-1] - register[0]) - repaired
    assert abs(difference) <= len(done.minutes) + len(done.repairs), "µWh of rounding"


@given(
    st.lists(st.tuples(st.sampled_from([1, 5, 60, 400, 9000]), st.integers(0, 10 * WH))), st.data()
)
@settings(max_examples=examples(200), deadline=None)
def test_a_meter_that_rolls_over_loses_nothing(steps: list[tuple[int, int]], data: st.DataObject):
    span = 10_000_000 * WH
    first = span - data.draw(st.integers(1, 60 * WH))
    at_s = accumulate((step[0] for step in steps), initial=0)
    total = list(accumulate((step[1] for step in steps), initial=first))
    readings = [point(at, None, uwh % span / WH) for at, uwh in zip(at_s, total, strict=True)]
    rolls = [i for i, (a, b) in enumerate(pairwise(total), 1) if a < span <= b]
    if rolls == [len(total) - 1]:
        return  # not confirmed yet
    done = whole(readings, LIMITS)
    assert energy_uwh(done) == total[-1] - total[0]
    assert [r.why for r in done.repairs] == [Why.REGISTER_ROLLOVER] * len(rolls)
