"""When a device is asked over HTTP: only while its MQTT, or the broker, is silent."""

from random import Random

import pytest

from ingest.poller.watch import BROKER_AWAY_S, OPEN_FIRST_S, OPEN_MOST_S, Breaker, Watch

INTERVAL_S, SILENT_S = 10, 60


def watch_from(now_s: float = 0) -> Watch:
    return Watch(INTERVAL_S, SILENT_S, now_s, Random(1))


def asked_at(watch: Watch, seconds: range, *, broker_lost_s: float | None = None) -> list[int]:
    """The seconds at which a poller that looks each second asks."""
    found = []
    for now_s in seconds:
        away_s = 0 if broker_lost_s is None else max(0, now_s - broker_lost_s)
        if watch.is_due(now_s, away_s):
            watch.asked(now_s)
            found.append(now_s)
    return found


def test_a_device_that_speaks_is_never_asked():
    watch = watch_from()
    for now_s in range(0, 600, 5):
        watch.heard(now_s)
        assert not watch.is_due(now_s + 4, 0)


def test_one_that_is_silent_is_asked_at_its_interval_until_it_speaks():
    watch = watch_from()
    first, *others = asked_at(watch, range(130))
    assert first == SILENT_S
    assert all(5 <= b - a <= 15 for a, b in zip([first, *others], others, strict=False))
    watch.heard(130)
    assert asked_at(watch, range(130, 130 + SILENT_S)) == []
    assert asked_at(watch, range(130 + SILENT_S, 200)) != []


def test_without_the_broker_all_are_asked():
    watch = watch_from()
    watch.heard(20)
    first, *_ = asked_at(watch, range(20, 60), broker_lost_s=21)
    assert first == 21 + BROKER_AWAY_S


def test_time_that_was_missed_is_not_made_up_for():
    watch = watch_from()
    assert len(asked_at(watch, range(60, 62))) == 1
    assert len(asked_at(watch, range(10_000, 10_010))) <= 3


def test_who_does_not_answer_is_left_alone_longer_and_longer():
    chance, waits = Random(7), []
    breaker, now_s = Breaker(chance), 0.0
    for _ in range(12):
        breaker.failed(now_s)
        waits.append(max(0.0, breaker.open_until_s - now_s))
        now_s = max(now_s, breaker.open_until_s)
    assert waits[:2] == [0, 0]
    longest = [min(OPEN_MOST_S, OPEN_FIRST_S * 2**i) for i in range(10)]
    for wait_s, most_s in zip(waits[2:], longest, strict=True):
        assert most_s / 2 <= wait_s <= most_s
    assert len(set(waits[2:])) == 10, "no two devices at one time"
    breaker.succeeded()
    assert not breaker.is_open(now_s)


@pytest.mark.parametrize("failures", [3, 5])
def test_an_open_breaker_keeps_a_silent_device_from_being_asked(failures):
    watch = watch_from()
    for _ in range(failures):
        watch.breaker.failed(SILENT_S)
    assert not watch.is_due(SILENT_S + 1, 0)
    assert watch.is_due(SILENT_S + OPEN_MOST_S, 0)
