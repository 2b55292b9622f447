"""The stream's windows against `minutes_of` over the whole sorted trace: the same, always."""

from bisect import insort
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.units import MINUTE_US, SECOND_US
from schemas.usage import Quality, Why
from streams.energy import GapEnergy, Limits, Measured, Minute, Point, minutes_of
from streams.recompute import affected, fetch_bounds
from streams.registers import Repair
from streams.windows import NEVER, ChannelWindows, Span, held_of
from tests.examples import examples
from tests.value_rows import value_row

LIMITS = Limits(gap_limit_us=300 * SECOND_US, max_power_mw=100_000_000)
T0 = 1_700_000_040 * SECOND_US  # a whole minute


def point(at_s: float, power_w: float | None = None, import_wh: float | None = None, **more):
    return held_of(
        T0 + round(at_s * SECOND_US),
        None,
        value_row(power_w=power_w, import_total_wh=import_wh, **more),
    )


def whole(readings, limits=LIMITS):
    points = [Point(*r[:6]) for r in sorted(readings)]
    if not points:
        return Measured([], [], [])
    start = min(p.at_us - (p.interval_us or 0) for p in points)
    return minutes_of(
        points,
        start - start % MINUTE_US,
        points[-1].at_us - points[-1].at_us % MINUTE_US + MINUTE_US,
        limits,
    )


@dataclass
class Table:
    """The stored side: readings, windows, gaps, repairs, corrected as the writer corrects them."""

    limits: Limits = LIMITS
    readings: list = field(default_factory=list)
    minutes: dict[int, Minute] = field(default_factory=dict)
    gaps: dict[tuple[int, int], GapEnergy] = field(default_factory=dict)
    repairs: dict[tuple[int, int, bool], Repair] = field(default_factory=dict)

    def keep(self, done: Measured):
        self.minutes.update((m.start_us, m) for m in done.minutes)
        self.gaps.update((g[:2], g) for g in done.gaps)
        self.repairs.update(((r.start_us, r.at_us, r.is_export), r) for r in done.repairs)

    def measured(self):
        return Measured(
            [self.minutes[key] for key in sorted(self.minutes)],
            [self.gaps[key] for key in sorted(self.gaps)],
            sorted(self.repairs.values()),
        )

    def correct(self, span: Span, complete_until_us: int):
        points = [Point(*r[:6]) for r in self.readings]
        low, high = fetch_bounds(points, span, self.limits)
        points = [p for p in points if low <= p.at_us <= high]
        start, end = affected(points, span, complete_until_us, self.limits)
        done = minutes_of(points, start, end, self.limits)
        for key in [k for k in self.minutes if start <= k < end]:
            del self.minutes[key]
        for key in [k for k in self.gaps if start <= k[0] < end]:
            del self.gaps[key]
        for key in [k for k, r in self.repairs.items() if start <= r.start_us < end]:
            del self.repairs[key]
        self.keep(done)


def run(arrivals, ticks_after, limits=LIMITS):
    """Feed readings in the order of arrival, with a tick wherever `ticks_after` says one."""
    table, windows, dirty, stream_us = Table(limits), None, [], 0
    for i, reading in enumerate(arrivals):
        if windows is None:
            windows = ChannelWindows(limits, ChannelWindows.first_window(reading))
        windows.heard_us = stream_us
        insort(table.readings, reading)
        if not windows.held or reading[0] > windows.held[-1][0]:
            span = windows.append(reading)
        else:
            span = windows.insert(reading)
        if span:
            dirty.append(span)
        if i in ticks_after:
            stream_us = max(stream_us, T0 + ticks_after[i] * SECOND_US)
            tick(table, windows, dirty, stream_us)
    tick(table, windows, dirty, 1 << 60)
    return table


def tick(table, windows, dirty, stream_us):
    done = windows.complete(stream_us)
    for minute in done.minutes:
        assert minute.start_us not in table.minutes, "a window completes once"
    for repair in done.repairs:
        key = repair.start_us, repair.at_us, repair.is_export
        assert key not in table.repairs, "a repair is made once"
    table.keep(done)
    for span in dirty:
        table.correct(span, windows.complete_until_us)
    dirty.clear()


@st.composite
def traces(draw):
    """A channel's readings with gaps, resets, spikes, missing fields; unlike in every field."""
    kind = draw(st.sampled_from(["register", "power", "both", "mixed", "interval", "healed"]))
    at, register, exported, readings = 0.0, draw(st.integers(0, 5000)) / 10, 0.0, []
    for _ in range(draw(st.integers(1, 40))):
        at += draw(st.sampled_from([1, 5, 5, 5, 30, 60, 61.5, 290, 301, 900, 3700, 7300]))
        power = draw(st.integers(-2000, 9000)) / 4
        register += draw(st.integers(0, 400)) / 100
        exported += draw(st.integers(0, 100)) / 100
        shown = register
        match draw(st.sampled_from(["fine"] * 12 + ["reset", "spike", "low", "back"])):
            case "reset":
                register = shown = draw(st.integers(0, 10)) / 10
            case "spike":
                shown = register + 1e9
            case "low":
                shown = register / 2
            case "back":
                register = shown = max(0.0, register - draw(st.integers(1, 30)))
        has_power = kind in ("power", "both") or (kind == "mixed" and draw(st.booleans()))
        mixes = kind in ("mixed", "healed")
        has_register = kind in ("register", "both") or (mixes and draw(st.booleans()))
        values = {}
        if kind == "interval" or (kind == "healed" and not (has_register and draw(st.booleans()))):
            values = {
                "interval_s": draw(st.sampled_from([60, 60, 30, 90])),
                "interval_import_wh": draw(st.integers(0, 1000)) / 10,
            }
        readings.append(
            point(
                at,
                power if has_power else None,
                shown if has_register else None,
                export_total_wh=exported if kind == "both" and draw(st.booleans()) else None,
                **values,
            )
        )
    return readings


@given(traces(), st.data())
@settings(max_examples=examples(250), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_order_of_arrival_and_any_ticks_end_in_the_windows_of_the_clean_trace(trace, data):
    arrivals = data.draw(st.permutations(trace)) if data.draw(st.booleans()) else trace
    last_s = (trace[-1][0] - T0) // SECOND_US
    ticks = data.draw(
        st.dictionaries(st.integers(0, len(trace) - 1), st.integers(0, last_s + 400), max_size=12)
    )
    table = run(arrivals, ticks)
    assert table.measured() == whole(trace)


@given(traces())
@settings(max_examples=examples(250), deadline=None, suppress_health_check=list(HealthCheck))
def test_windows_and_gaps_sum_to_the_trusted_register_to_the_microwatt_hour(trace):
    registers = [(r[0], r[2]) for r in trace if r[2] is not None]
    monotonic = all(LIMITS.plausible(a, b) for a, b in pairwise(registers))
    only_registers = [r for r in trace if r[2] is not None]
    if len(registers) < 2 or not monotonic:
        return
    minutes, gaps, _ = whole([point_without_power(r) for r in only_registers])
    total = sum(m.energy_uwh for m in minutes) + sum(g.energy_uwh for g in gaps)
    assert total == registers[-1][1] - registers[0][1]


def point_without_power(reading):
    return (reading[0], None, reading[2], None, None, None, *reading[6:])


def test_a_register_read_each_five_seconds_gives_each_minute_its_difference():
    # 720 W steady: 1 Wh each 5 s, 12 Wh a minute
    trace = [point(5 * i, 720, i) for i in range(25)]
    minutes, gaps, _ = whole(trace)
    assert [m.energy_uwh for m in minutes] == [12_000_000, 12_000_000, 0]
    assert [m.quality for m in minutes] == [Quality.MEASURED, Quality.MEASURED, Quality.GAP]
    assert gaps == []


def test_power_alone_is_integrated_by_the_trapezoid_rule():
    # 0 W to 3600 W in a straight line over 60 s: 1800 W on average, 30 Wh
    minutes, _, _ = whole([point(0, 0), point(60, 3600)])
    assert minutes[0].energy_uwh == 30_000_000
    assert minutes[0].quality is Quality.INTEGRATED


def test_power_that_crosses_zero_is_import_before_and_export_after():
    # +600 W to -600 W over 60 s: the triangle of 300 W mean over 30 s on each side = 2.5 Wh
    minutes, _, _ = whole([point(0, 600), point(60, -600)])
    assert (minutes[0].energy_uwh, minutes[0].export_uwh) == (2_500_000, 2_500_000)


def test_a_register_segment_over_two_minutes_follows_the_power_between():
    # 10 Wh over 120 s; power 0 W in the first minute, then 100 W: all in the second,
    # but for the ramp of one second between them
    trace = [point(0, 0, 100), point(59, 0), point(60, 100), point(120, 100, 110)]
    minutes, _, _ = whole(trace)
    assert sum(m.energy_uwh for m in minutes) == 10_000_000
    assert minutes[0].energy_uwh == 10_000_000 * 50 // (50 + 6000)


def test_a_register_that_was_silent_for_an_hour_is_interpolated():
    minutes, gaps, _ = whole([point(0, None, 0), point(3600, None, 60)])
    assert [m.energy_uwh for m in minutes[:60]] == [1_000_000] * 60
    assert {m.quality for m in minutes[:60]} == {Quality.INTERPOLATED}
    assert gaps == []


def test_a_register_that_was_silent_for_three_hours_makes_one_gap_and_no_minutes():
    minutes, gaps, _ = whole([point(0, None, 0), point(3 * 3600, None, 60)])
    assert gaps == [GapEnergy(T0, T0 + 3 * 3600 * SECOND_US, 60_000_000, 0, Why.SILENCE)]
    assert sum(m.energy_uwh for m in minutes) == 0


def test_a_reset_counts_from_zero_and_a_replaced_meter_does_not():
    reset = [point(5 * i, None, w) for i, w in enumerate([1000, 1001, 0.5, 1.5, 2.5])]
    assert sum(m.energy_uwh for m in whole(reset)[0]) == 1_000_000 + 500_000 + 2_000_000
    replaced = [point(5 * i, None, w) for i, w in enumerate([1000, 1001, 70_000, 70_001])]
    assert sum(m.energy_uwh for m in whole(replaced)[0]) == 2_000_000


def test_a_lone_spike_adds_nothing():
    trace = [point(5 * i, None, w) for i, w in enumerate([100, 101, 999_999, 103, 104])]
    assert sum(m.energy_uwh for m in whole(trace)[0]) == 4_000_000


def test_stored_minutes_count_where_no_register_speaks():
    trace = [
        point(60 * (i + 1), interval_s=60, interval_import_wh=w) for i, w in enumerate([1, 2.5])
    ]
    assert [m.energy_uwh for m in whole(trace)[0][:2]] == [1_000_000, 2_500_000]


def test_an_interval_that_ends_inside_a_later_one_takes_its_energy_from_complete_windows():
    # [5308.5 ------------------- 5398.5)  90 s: complete until 5340
    #             [5362.5 - 5392.5)        then these 30 s come: the 90 count from 5392.5 only
    later = point(5398.5, interval_s=90, interval_import_wh=12.9)
    earlier = point(5392.5, interval_s=30, interval_import_wh=57.8)
    table = run([later, earlier], {0: 5661})
    minutes, _, _ = whole([earlier, later])
    assert [table.minutes[k] for k in sorted(table.minutes)] == minutes
    # an hour, and a minute in its middle
    later = point(7200, interval_s=3600, interval_import_wh=60)
    earlier = point(5400, interval_s=60, interval_import_wh=1)
    table = run([later, earlier], {0: 7600})
    minutes, _, _ = whole([earlier, later])
    assert [table.minutes[k] for k in sorted(table.minutes)] == minutes
    assert sum(m.energy_uwh for m in minutes) == 31_000_000


def test_a_late_power_reading_changes_the_complete_windows_of_its_register_segment():
    # [0 - - - - - - - - - 120) one segment: complete until 60 when the reading of 90 s comes
    trace = [point(0, 1000, 0), point(65, 1000), point(90, 100_000), point(120, 1000, 50)]
    first, second, late, last = trace
    table = run([first, second, last, late], {2: 71, 3: 72})
    assert table.measured() == whole(trace)
    assert table.minutes[T0].energy_uwh < 2_000_000


def test_a_step_is_confirmed_for_complete_windows_by_the_next_plausible_reading():
    trace = [point(60, 100, 224), point(3760, 100, 3), point(3790, 100, 4)]
    table = run(trace, {0: 3803, 1: 3803})
    assert table.measured() == whole(trace)
    assert [repair.why for repair in table.repairs.values()] == [Why.REGISTER_RESET]


def test_a_window_waits_ten_seconds_for_stragglers_and_for_a_reading_after_its_end():
    windows = ChannelWindows(LIMITS, T0)
    for i in range(12):
        windows.append(point(5 * i, 720, i))
    assert windows.complete(T0 + 75 * SECOND_US).minutes == []
    windows.append(point(60, 720, 12))
    assert windows.complete(T0 + 69 * SECOND_US).minutes == []
    (minute,) = windows.complete(T0 + 70 * SECOND_US).minutes
    assert (minute.energy_uwh, minute.readings) == (12_000_000, 12)


def test_a_silent_channel_completes_after_its_gap_limit():
    windows = ChannelWindows(LIMITS, T0)
    windows.append(point(5, 720, 1))
    assert windows.complete(T0 + 359 * SECOND_US).minutes == []
    (minute,) = windows.complete(T0 + 360 * SECOND_US).minutes
    assert minute.quality is Quality.GAP


def test_a_window_without_a_reading_is_due_when_a_later_reading_is_there():
    """The silence is over: nothing is waited for but the grace."""
    windows = ChannelWindows(LIMITS, T0)
    for seconds in (0, 50, 130):
        windows.append(point(seconds, power_w=100.0))
    windows.complete(T0 + 71 * SECOND_US)
    assert windows.complete_until_us == T0 + 60 * SECOND_US
    assert windows.due() == (T0 + 130 * SECOND_US, NEVER)
