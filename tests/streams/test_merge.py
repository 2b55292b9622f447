"""Readings with the same key: whatever comes in whatever order, and again, the same one stays."""

from functools import reduce
from itertools import permutations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.reading import VALUE_NAMES
from streams.merge import Merged, merge
from tests.value_rows import value_row

NUMBERS = st.sampled_from([0.0, 1.0, 1.5, 9.0, 10.0, 250.25, 3000.0])
FIELDS = ("power_w", "voltage_v", "import_total_wh", "thd_current_percent")


def readings(fields=FIELDS):
    """Values of some of the fields, at least one of them."""
    return st.dictionaries(st.sampled_from(fields), NUMBERS, min_size=1).map(
        lambda said: value_row(**said)
    )


def whole_readings():
    return st.tuples(*[NUMBERS] * len(FIELDS)).map(
        lambda said: value_row(**dict(zip(FIELDS, said, strict=True)))
    )


SEQS = st.one_of(st.none(), st.integers(0, 3))


def chain(parts):
    """What is kept after each of `parts`, (seq, values), has been taken in turn."""

    def take(kept, part):
        merged = merge(*kept, *part)
        return merged.seq, merged.values

    return reduce(take, parts)


def said(values):
    return {
        name: value for name, value in zip(VALUE_NAMES, values, strict=True) if value is not None
    }


def test_absent_fields_are_filled_and_nothing_gives_way():
    power, voltage = value_row(power_w=5.0), value_row(voltage_v=230.0)
    both = Merged(None, value_row(power_w=5.0, voltage_v=230.0))
    assert merge(None, power, None, voltage) == merge(None, voltage, None, power) == both


def test_messages_of_one_node_with_the_same_ts_are_one_reading():
    # power was published with seq 5, the temperature of the same instant with seq 6
    merged = merge(5, value_row(power_w=5.0), 6, value_row(temperature_c=31.0))
    assert merged == Merged(6, value_row(power_w=5.0, temperature_c=31.0))


def test_equal_values_are_a_duplicate():
    values = value_row(power_w=5.0, import_total_wh=10.0)
    assert merge(4, values, 4, values) == Merged(4, values)


def test_of_different_values_those_with_the_greater_seq_stay_and_the_others_are_kept_aside():
    first, second = value_row(power_w=9.0, voltage_v=230.0), value_row(power_w=5.0)
    expected = Merged(8, value_row(power_w=5.0, voltage_v=230.0), 7, value_row(power_w=9.0))
    assert merge(7, first, 8, second) == merge(8, second, 7, first) == expected


def test_a_reading_without_seq_gives_way_to_one_with_seq():
    assert merge(None, value_row(power_w=9.0), 0, value_row(power_w=5.0)) == Merged(
        0, value_row(power_w=5.0), None, value_row(power_w=9.0)
    )


def test_without_seq_the_greater_value_stays():
    # not the one whose text is greater: "9.0" > "10.0"
    expected = Merged(None, value_row(power_w=10.0), None, value_row(power_w=9.0))
    assert merge(None, value_row(power_w=9.0), None, value_row(power_w=10.0)) == expected
    assert merge(None, value_row(power_w=10.0), None, value_row(power_w=9.0)) == expected


def test_what_was_merged_stays_when_one_of_its_parts_is_redelivered():
    a, b = value_row(voltage_v=1.0), value_row(power_w=1.0, voltage_v=5.0)
    kept = merge(None, a, None, b)
    assert merge(kept.seq, kept.values, None, b).values == kept.values
    assert merge(kept.seq, kept.values, None, a).values == kept.values


@given(SEQS, readings(), SEQS, readings())
def test_merging_is_commutative(seq_a, a, seq_b, b):
    assert merge(seq_a, a, seq_b, b) == merge(seq_b, b, seq_a, a)


@given(st.lists(st.tuples(SEQS, readings()), min_size=1, max_size=5), st.data())
def test_redelivery_of_anything_that_was_merged_changes_nothing(parts, data):
    kept = chain(parts)
    again = data.draw(st.lists(st.sampled_from(parts)))
    assert chain([kept, *again]) == kept


@given(SEQS, st.lists(readings(), min_size=2, max_size=4))
def test_readings_of_one_seq_end_in_the_same_reading_in_any_order(seq, parts):
    """Overlays of one instant without a seq, as Shelly sends them."""
    ends = {msgspec.json.encode(chain(p)) for p in permutations((seq, part) for part in parts)}
    assert len(ends) == 1


@given(st.lists(st.tuples(SEQS, whole_readings()), min_size=2, max_size=4))
def test_readings_of_the_same_fields_end_in_the_same_reading_in_any_order(parts):
    ends = {msgspec.json.encode(chain(p)) for p in permutations(parts)}
    assert len(ends) == 1


@given(SEQS, readings(), SEQS, readings())
def test_nothing_is_invented_and_nothing_said_is_lost(seq_a, a, seq_b, b):
    merged = merge(seq_a, a, seq_b, b)
    kept, lost = said(merged.values), said(merged.loser) if merged.loser else {}
    for name, value in [*said(a).items(), *said(b).items()]:
        assert value in (kept[name], lost.get(name))
    for name, value in [*kept.items(), *lost.items()]:
        assert value in (said(a).get(name), said(b).get(name))
    assert (merged.loser is None) == all(
        said(a)[name] == said(b)[name] for name in said(a).keys() & said(b).keys()
    )
