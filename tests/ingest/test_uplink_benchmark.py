"""The benchmark runs; its figures are not judged here, for the machine may be busy."""

import pytest

from infra.bench import uplink as benchmark
from infra.local import Stack

pytestmark = pytest.mark.stack


def test_both_connectors_drain_the_same_queue(servers: Stack):
    ours, stock = benchmark.run(
        servers.mqtt_port,
        servers.kafka_bootstrap,
        messages=3000,
        stock_messages=3000,
        devices=50,
        feeds=["homesync"],
    )
    assert (ours.connector, stock.connector) == ("meterstream", "stock paho")
    assert ours.messages == stock.messages == 3000
    assert 150 < ours.bytes_per_message < 250
    assert ours.messages_per_s > 0
    assert ours.cpu_us_per_message < stock.cpu_us_per_message


def test_messages_of_a_feed_are_about_two_hundred_bytes_and_differ():
    for kind in benchmark.FEEDS:
        messages = list(benchmark.feed(kind, 1000, 10))
        assert len({topic for topic, _ in messages}) == 10
        assert len(set(messages)) == 1000
        assert all(150 < len(payload) < 250 for _, payload in messages)
