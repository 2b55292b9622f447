"""Channels get their ids in order, devices no more than they may have, and changes are told."""

from typing import Any

import psycopg
import pytest

from sinks.device_registry import KnownDevice, channel_ids, known_devices, register_devices
from sinks.registry import claim_device
from streams.registry_changes import RegistryChanges

pytestmark = pytest.mark.stack


def test_channels_beyond_what_a_device_may_have_get_no_id(db: psycopg.Connection[Any]):
    register_devices(db, [("a:1", 60_000_000), ("a:2", 60_000_000)], most_a_minute=10)
    first = channel_ids(db, [("a:1", "x"), ("a:2", "x"), ("a:1", "y")], most_a_device=2)
    assert set(first) == {("a:1", "x"), ("a:1", "y"), ("a:2", "x")}
    wanted = [("a:1", "z"), ("a:1", "x"), ("a:2", "y"), ("a:2", "z")]
    later = channel_ids(db, wanted, most_a_device=2)
    assert set(later) == {*first, ("a:2", "y")}
    assert {pair: later[pair] for pair in first} == first
    assert len(set(later.values())) == 4


# ---------------------------------------------------------------- what people change


def addresses(changed: list[KnownDevice]) -> set[str]:
    return {one.address for one in changed}


@pytest.fixture
def three(db: psycopg.Connection[Any]) -> RegistryChanges:
    """Three devices, and somebody who has asked before they were changed."""
    register_devices(db, [(f"homesync:h/{n}", 60_000_000) for n in "abc"], most_a_minute=10)
    asks = RegistryChanges()
    asks.begin(db)
    asks.read(db)
    return asks


def test_who_asks_is_told_of_new_limits_and_homes_and_of_nothing_else(
    db: psycopg.Connection[Any], three: RegistryChanges
):
    assert three.read(db) == []
    db.execute("UPDATE device SET gap_limit_s = 60 WHERE address = 'homesync:h/a'")
    claim_device(db, "homesync:h/b", "B", "h1", "Asia/Bangkok")
    db.execute("UPDATE device SET name = 'C', location = 'attic' WHERE address = 'homesync:h/c'")
    db.execute("UPDATE device SET gap_limit_s = NULL WHERE address = 'homesync:h/c'")
    told = {one.address: one for one in three.read(db)}
    assert set(told) == {"homesync:h/a", "homesync:h/b"}
    assert told["homesync:h/a"].gap_limit_s == 60
    assert [tuple(home) for home in told["homesync:h/b"].homes] == [(0, None, "h1")]
    assert three.read(db) == []


def test_a_change_whose_transaction_ends_late_is_not_missed(
    db: psycopg.Connection[Any], three: RegistryChanges, sinks_url: str
):
    with psycopg.connect(sinks_url) as slow:
        slow.execute("UPDATE device SET max_power_w = 9 WHERE address = 'homesync:h/a'")
        db.execute("UPDATE device SET max_power_w = 9 WHERE address = 'homesync:h/b'")
        assert addresses(three.read(db)) == {"homesync:h/b"}
        three.read(db)
        slow.commit()
    assert "homesync:h/a" in addresses(three.read(db))
    assert three.read(db) == []


def test_a_change_between_the_first_question_and_the_first_answer_is_told(
    db: psycopg.Connection[Any], sinks_url: str
):
    register_devices(db, [("homesync:h/a", 60_000_000)], most_a_minute=10)
    asks = RegistryChanges()
    with psycopg.connect(sinks_url) as slow:
        slow.execute("UPDATE device SET max_power_w = 9")
        asks.begin(db)
        assert known_devices(db, ["homesync:h/a"])[0].max_power_w is None
        slow.commit()
    assert [one.max_power_w for one in asks.read(db)] == [9]


def test_of_a_server_that_counts_anew_all_is_read(
    db: psycopg.Connection[Any], three: RegistryChanges
):
    three._since = 1 << 60  # what a server of longer life has told
    assert addresses(three.read(db)) == {f"homesync:h/{n}" for n in "abc"}
    assert three.read(db) == []
