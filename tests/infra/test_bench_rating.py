"""The rating stage, small: does it measure what it says?"""

from infra.bench import rating


def test_bills_are_counted_and_a_late_cycle_is_cheaper_than_its_year():
    rows = rating.measure(2, 2, lambda _text: None)
    whole, *late = rows
    assert whole.note == "2 homes, 72 bills"
    assert whole.figures["cpu_ms"].p50 > 0
    assert [row.name for row in late] == [rating.LATE_CYCLE, rating.LATE_YEAR]
    by_name = {row.name: row for row in late}
    assert by_name[rating.LATE_CYCLE].ratio == 1
    took_ms = {name: row.figures["cpu_ms"].least for name, row in by_name.items()}
    assert took_ms[rating.LATE_YEAR] > took_ms[rating.LATE_CYCLE]
