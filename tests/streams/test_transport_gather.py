"""How long the broker may gather records for one fetch."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from streams import transport
from streams.transport import ConsumerThread


class Fetches:
    """A consumer thread whose fetches bring so many records after so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self._brought: dict[str, range] = {}
        self._thread = ConsumerThread.__new__(ConsumerThread)
        self._consumer = SimpleNamespace(_fetcher=SimpleNamespace())
        monkeypatch.setattr(transport.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", self._bring)

    async def _bring(self, *_: Any, **__: Any) -> dict[str, range]:
        return self._brought

    def fetch(self, records: int, after_s: float) -> int:
        """The wait that the next fetch is asked for, in ms."""
        self.now_s += after_s
        self._brought = {"a": range(records - records // 2), "b": range(records // 2)}
        if not records:
            self._brought = {}
        asyncio.run(self._thread._fetch_records(self._consumer))
        settings = self._consumer._fetcher
        assert (settings._fetch_min_bytes == 1) == (settings._fetch_max_wait_ms == 500)
        return int(settings._fetch_max_wait_ms)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    return Fetches(monkeypatch)


@pytest.mark.parametrize(
    ("records_per_s", "wait_ms"),
    [(100, 25), (1_000, 25), (4_000, 40), (5_000, 50), (20_000, 100)],
)
def test_the_faster_records_come_the_longer_they_are_gathered(
    fetches: Fetches, records_per_s: int, wait_ms: int
):
    waits = [fetches.fetch(round(records_per_s / 50), 0.020) for _ in range(500)]
    assert waits[-1] == pytest.approx(wait_ms, abs=1)
    assert waits[0] == 500  # the first after a silence
    assert waits[1] == 25  # a rate is not known from two fetches


def test_what_comes_after_a_silence_comes_at_once(fetches: Fetches):
    for _ in range(200):
        fetches.fetch(400, 0.020)
    assert fetches.fetch(1, 5.0) == 500
    assert fetches.fetch(1, 0.010) == 25  # the old rate is forgotten
    assert fetches.fetch(0, 0.010) == 500


def test_one_large_fetch_does_not_make_the_next_ones_wait(fetches: Fetches):
    for _ in range(200):
        fetches.fetch(45, 0.015)
    assert fetches.fetch(180, 0.004) < 35
