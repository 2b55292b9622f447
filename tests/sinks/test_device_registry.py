"""Channels get their ids in order, and a device no more of them than it may have."""

from typing import Any

import psycopg

from sinks.device_registry import channel_ids, register_devices


def test_channels_beyond_what_a_device_may_have_get_no_id(db: psycopg.Connection[Any]):
    register_devices(db, [("a:1", 60_000_000), ("a:2", 60_000_000)], most_a_minute=10)
    first = channel_ids(db, [("a:1", "x"), ("a:2", "x"), ("a:1", "y")], most_a_device=2)
    assert set(first) == {("a:1", "x"), ("a:1", "y"), ("a:2", "x")}
    wanted = [("a:1", "z"), ("a:1", "x"), ("a:2", "y"), ("a:2", "z")]
    later = channel_ids(db, wanted, most_a_device=2)
    assert set(later) == {*first, ("a:2", "y")}
    assert {pair: later[pair] for pair in first} == first
    assert len(set(later.values())) == 4
