"""What a seed makes of kinds and targets, and to which fault a loss is counted."""

from collections import Counter
from itertools import islice

import pytest

from infra.chaos.plan import (
    KINDS,
    PROCESSES,
    BadPlan,
    Planned,
    hits_commands,
    hits_money,
    kinds_of,
    plan,
    targets_of,
)  # fmt: skip
from infra.chaos.report import Row, attribute
from sinks.accounting import Failure


def drawn(
    count: int, seed: int = 7, kinds: str = "kill,kill2", target: str = "all", **fixed_s: float
) -> list[Planned]:
    return list(islice(plan(seed, kinds_of(kinds), targets_of(target), fixed_s), count))


def test_the_same_seed_plans_the_same_and_another_does_not():
    assert drawn(50, kinds="all") == drawn(50, kinds="all")
    assert drawn(50, kinds="all") != drawn(50, seed=8, kinds="all")


def test_a_longer_run_begins_as_the_shorter_one():
    assert drawn(60, kinds="all")[:20] == drawn(20, kinds="all")


def test_every_process_is_killed_equally_often_and_some_in_pairs():
    faults = drawn(200)
    assert Counter(one.kind for one in faults) == {"kill": 180, "kill2": 20}
    killed = Counter(one.target for one in faults if one.kind == "kill")
    assert killed.keys() == set(PROCESSES)
    assert max(killed.values()) - min(killed.values()) <= 1
    assert all(len(set(one.targets)) == 2 for one in faults if one.kind == "kill2")


def test_all_kinds_hit_only_what_they_can():
    faults = drawn(400, kinds="all")
    assert {one.kind for one in faults} == KINDS.keys()
    for one in faults:
        kind = KINDS[one.kind]
        assert set(one.targets) <= set(kind.targets)
        assert kind.least_s <= one.lasts_s <= kind.most_s
        assert 0.2 <= one.pause_s <= 1.5


def test_stops_are_mostly_short_and_sometimes_long():
    lasts_s = sorted(one.lasts_s for one in drawn(200, kinds="stop"))
    assert lasts_s[100] < 12
    assert lasts_s[-1] > 45


def test_how_long_may_be_fixed():
    assert {one.lasts_s for one in drawn(10, kinds="down", down=90.0)} == {90.0}


def test_a_process_stands_for_its_hops():
    assert targets_of("uplink") == ("uplink", "broker-uplink", "uplink-kafka")
    hops = {one.target for one in drawn(30, kinds="stall", target="uplink")}
    assert hops == {"broker-uplink", "uplink-kafka"}


def test_bills_and_commands_go_on_where_a_fault_may_hit_who_makes_them():
    assert hits_money(kinds_of("kill"), targets_of("all"))
    assert hits_commands(kinds_of("kill"), targets_of("all"))
    assert hits_commands(kinds_of("wipe,stop"), targets_of("downlink,mosquitto"))
    assert not hits_commands(kinds_of("wipe,net"), targets_of("all"))
    assert not hits_money(kinds_of("kill"), targets_of("commands,poller"))


@pytest.mark.parametrize(
    ("kinds", "target", "word"),
    [
        ("kil", "all", "kil"),
        ("kill", "kafkas", "kafkas"),
        ("wipe", "kafka", "mosquitto"),
        ("kill2", "kafka", "kill2"),
    ],
)
def test_what_cannot_be_planned_is_told(kinds: str, target: str, word: str):
    with pytest.raises(BadPlan, match=word):
        drawn(1, kinds=kinds, target=target)


def test_a_loss_is_counted_to_the_last_fault_that_began_before_it_was_measured():
    rows = [
        Row(1, "kill", "kafka", "2026-11-21T09:00:00+00:00", 0.0),
        Row(2, "full", "kafka", "2026-11-21T09:00:20+00:00", 0.0, skipped="cannot mount"),
        Row(3, "kill", "worker", "2026-11-21T09:00:40+00:00", 0.0),
    ]
    attribute(
        rows,
        [
            Failure("n1 total", "2026-11-21T09:00:37.500000+00:00", "lost: seq 5 …"),
            Failure("n1 total", "2026-11-21T09:00:38.500000+00:00", "lost: seq 6 …"),  # in flight
            Failure("n1 total", "2026-11-21T09:00:59.000000+00:00", "duplicate: seq 7 …"),
            Failure("n1 total", "2026-11-21T08:00:00.000000+00:00", "lost: seq 1 …"),
            Failure("n1 total", "", "energy: …"),
        ],
    )
    assert [(row.lost, row.duplicates) for row in rows] == [(2, 0), (0, 0), (1, 1)]
