"""The figures of the commands stage."""

from infra.bench.commands import Given, Load, row_of


def test_times_are_from_the_call_to_the_relay_and_what_is_missing_is_told():
    given = [Given(1_000_000, 1_005_000, "a"), Given(2_000_000, 2_009_000, "b"), Given(3, 4, None)]
    ran = {"a": 1_020_000, "b": 2_040_000, "somebody else's": 7}
    ended = {"a": ("done", 1_050_000), "b": ("expired", 2_100_000)}
    row = row_of(Load("2 commands/s", 2, 1.5), given, 1.5, ran, ended)
    figures = {name: one.p50 for name, one in row.figures.items()}
    assert figures["p50_ms"] == 30.0
    assert figures["p99_ms"] == 39.8
    assert figures["done_p50_ms"] == 75.0
    assert figures["commands_per_s"] == 2.0
    assert figures["not_done"] == 2.0
    assert row.note == "3 commands in 2 s, 2 ran, 1 done"
    assert row.ratio == 1.0
