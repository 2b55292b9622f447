"""Devices that are asked over HTTP while their MQTT is silent: what they say counts once."""

import itertools
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from infra.simulator.load import Load
from infra.simulator.pro3em import status
from infra.simulator.pro3em_device import Pro3em
from infra.simulator.shapes import own_shapes
from ingest.poller.raw_writer import RawWriter
from schemas.reading import Source
from schemas.topics import RAW, RawHeader
from schemas.units import MINUTE_US, SECOND_US
from sinks.device_registry import register_devices
from sinks.polled_devices import leave_device, poll_device
from sinks.registry import resolve_device
from tests.system.conftest import Pipeline, health_at, minute_ago, wait_for
from tests.whole_topic import read_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

LOAD = Load(own_shapes().homes[2], 1000, 0, 0.0)
PASSWORD = "correct horse"
SPEED = 60
KILLS = 4


class FastClock:
    """A device's clock that stands, runs a minute a second, and stands again, in whole seconds."""

    def __init__(self, begin_us: int) -> None:
        self._begin_us = begin_us
        self._started_s: float | None = None
        self._end_us: int | None = None

    def now_us(self) -> int:
        if self._end_us is not None:
            return self._end_us
        if self._started_s is None:
            return self._begin_us
        passed_s = int((time.monotonic() - self._started_s) * SPEED)
        return self._begin_us + passed_s * SECOND_US

    def start(self) -> None:
        self._started_s = time.monotonic()

    def stop(self) -> int:
        """Stand still at the next whole minute."""
        now_us = self.now_us()
        self._end_us = now_us - now_us % MINUTE_US + MINUTE_US
        return self._end_us


class AskedClock:
    """A device's clock that goes on, or not, each time that it is asked; `told` is what it said."""

    def __init__(self, begin_us: int) -> None:
        self._now_us = begin_us
        self._steps_s = itertools.cycle((0, 1, 7, 20, 31))
        self._stands = False
        self.told: list[int] = []

    def now_us(self) -> int:
        if not self._stands:
            self._now_us += next(self._steps_s) * SECOND_US
        self.told.append(self._now_us)
        return self._now_us

    def skip(self, minutes: int) -> None:
        self._now_us += minutes * MINUTE_US

    def stop(self) -> int:
        """Stand still at a whole minute."""
        self._stands = True
        self._now_us += MINUTE_US - self._now_us % MINUTE_US
        return self._now_us


def new_meter(now_us: Callable[[], int], password: str | None = None) -> Pro3em:
    return Pro3em(f"shellypro3em-{random.randrange(16**12):012x}", LOAD, now_us, password)


def address_of(meter: Pro3em) -> str:
    return f"shelly:{meter.id}"


def polled(pipeline: Pipeline, meter: Pro3em, host: str, silent_after_s: int, secret: str | None):
    """Put a meter that has perhaps never spoken on the list of those that are asked."""
    with psycopg.connect(pipeline.stack.database_url, autocommit=True) as conn:
        register_devices(conn, [(address_of(meter), time.time_ns() // 1000)], most_a_minute=1000)
        device = resolve_device(conn, address_of(meter))
        poll_device(conn, device.device_id, host, secret, 1, silent_after_s)


def no_more_polled(pipeline: Pipeline, *meters: Pro3em) -> None:
    with psycopg.connect(pipeline.stack.database_url, autocommit=True) as conn:
        for meter in meters:
            leave_device(conn, resolve_device(conn, address_of(meter)).device_id)


def spawned(pipeline: Pipeline, secrets: Path, **more: str) -> "subprocess.Popen[str]":
    return pipeline.spawn(
        *("-m", "ingest.poller"),
        METERSTREAM_POLLER_LOOK_S="0.5",
        METERSTREAM_POLLER_SECRETS_DIR=str(secrets),
        **more,
    )


@contextmanager
def poller(pipeline: Pipeline, secrets: Path, **more: str) -> Iterator["subprocess.Popen[str]"]:
    process = spawned(pipeline, secrets, **more)
    try:
        yield process
        assert process.poll() is None, "it goes on"
    finally:
        process.terminate()
        print(process.communicate(timeout=60)[0][-3000:])


def rows(pipeline: Pipeline, meter: Pro3em, source: Source, channel: str = "total") -> int:
    return pipeline.value(
        "SELECT count(*) FROM readings JOIN channel c USING (channel_id) "
        "JOIN device USING (device_id) WHERE address = %s AND c.name = %s AND source = %s",
        address_of(meter), channel, int(source),
    )  # fmt: skip


def newest_us(pipeline: Pipeline, meter: Pro3em) -> int:
    return pipeline.value(
        "SELECT coalesce(to_us(max(measured_at)), 0) FROM readings "
        "JOIN channel c USING (channel_id) JOIN device USING (device_id) "
        "WHERE address = %s AND c.name = 'total' "
        "AND import_total_wh IS NOT NULL",
        address_of(meter),
    )


def energies(pipeline: Pipeline, meter: Pro3em) -> dict[str, int]:
    """Windows and gaps of each channel together, in µWh."""
    return dict(
        pipeline.query(
            "SELECT c.name, sum(energy_uwh)::bigint FROM ("
            "SELECT channel_id, energy_uwh FROM usage_1m "
            "UNION ALL SELECT channel_id, energy_uwh FROM gap_energy) AS told "
            "JOIN channel c USING (channel_id) JOIN device USING (device_id) "
            "WHERE address = %s AND c.name <> 'temperature:0' GROUP BY c.name",
            address_of(meter),
        )
    )


def test_energy_is_the_same_over_mqtt_over_http_and_over_both(pipeline: Pipeline, tmp_path: Path):
    clock = FastClock(minute_ago(12 * 60))
    begin_us = clock.now_us()
    over_mqtt, over_both = new_meter(clock.now_us), new_meter(clock.now_us)
    over_http = new_meter(clock.now_us, PASSWORD)
    (tmp_path / "meter").write_text(PASSWORD)
    meters = (over_mqtt, over_http, over_both)
    speaking = {over_mqtt, over_both}
    said_until_us = dict.fromkeys(speaking, begin_us)
    done, turn = threading.Event(), threading.Lock()

    def speak() -> None:
        """What each device that is on MQTT has to say since the last time."""
        while not done.wait(0.2):
            with turn:
                for one in speaking:
                    now_us = clock.now_us()
                    if now_us > said_until_us[one]:
                        one.say(said_until_us[one], now_us, 10 * SECOND_US)
                        said_until_us[one] = now_us

    voice = threading.Thread(target=speak)
    try:
        for one in speaking:
            one.connect(pipeline.stack.mqtt_port)
            one.say(begin_us, begin_us)
        polled(pipeline, over_http, over_http.serve(), 5, "meter")
        polled(pipeline, over_both, over_both.serve(), 5, None)
        with poller(pipeline, tmp_path):
            wait_for(lambda: newest_us(pipeline, over_http), "the silent one is asked")
            clock.start()
            voice.start()
            wait_for(lambda: newest_us(pipeline, over_both) > begin_us + 5 * MINUTE_US, "MQTT")

            with turn:
                speaking.discard(over_both)
                over_both.cut()
            asked = rows(pipeline, over_both, Source.POLL)
            wait_for(lambda: rows(pipeline, over_both, Source.POLL) > asked + 3, "HTTP")

            with turn:
                over_both.connect(pipeline.stack.mqtt_port)
                said_until_us[over_both] = clock.now_us()
                speaking.add(over_both)
            wait_for(lambda: steps_back(pipeline, over_both), "it steps back")

            end_us = clock.stop()
            wait_for(lambda: newest_us(pipeline, over_http) == end_us, "the end, over HTTP")
            for one in (over_mqtt, over_both):
                wait_for(lambda one=one: newest_us(pipeline, one) == end_us, "the end, over MQTT")
        done.set()
        voice.join()
        no_more_polled(pipeline, over_http, over_both)
        pipeline.final(*map(address_of, meters))

        assert rows(pipeline, over_mqtt, Source.POLL) == 0
        assert rows(pipeline, over_http, Source.MQTT) == 0
        expected = energies(pipeline, over_mqtt)
        shares = {"total": 1000, "l1": 470, "l2": 310, "l3": 220}
        for channel, share in shares.items():
            first, last = (LOAD.register_uwh(at, share) // 10_000 for at in (begin_us, end_us))
            assert expected[channel] == (last - first) * 10_000
        assert energies(pipeline, over_http) == expected
        assert energies(pipeline, over_both) == expected
        assert over_http.challenges <= 1 + over_http.requests // 10, "a nonce serves many requests"
    finally:
        done.set()
        for one in meters:
            one.close()


def steps_back(pipeline: Pipeline, meter: Pro3em) -> bool:
    """Whether nothing is polled for 3 s while MQTT speaks."""
    polled_before = rows(pipeline, meter, Source.POLL)
    heard_before = rows(pipeline, meter, Source.MQTT)
    time.sleep(3)
    pipeline.caught_up()
    return (
        rows(pipeline, meter, Source.POLL) == polled_before
        and rows(pipeline, meter, Source.MQTT) > heard_before
    )


def test_the_same_instants_by_both_ways_are_the_same_readings(pipeline: Pipeline):
    begin_us = minute_ago(60)
    once, twice = new_meter(lambda: begin_us), new_meter(lambda: begin_us)
    writer = RawWriter(pipeline.stack.kafka_bootstrap)
    instants = range(begin_us, begin_us + 10 * MINUTE_US + 1, MINUTE_US)
    try:
        for one in (once, twice):
            one.connect(pipeline.stack.mqtt_port)
            one.say(instants[0], instants[-1], MINUTE_US)
        for at_us in instants:
            whole = status(LOAD, twice.id, at_us, on_mqtt=False)
            said = {key: whole[key] for key in ("em:0", "emdata:0", "sys")}
            writer.write(f"poll/shelly/{twice.id}/status", json.dumps(said).encode())
        writer.close(60)
        assert (writer.dropped, writer.trouble) == (0, None)
        pipeline.caught_up()
        pipeline.final(address_of(once), address_of(twice))
        for channel in ("total", "l1", "l2", "l3"):
            counted = [
                rows(pipeline, one, Source.MQTT, channel)
                + rows(pipeline, one, Source.POLL, channel)
                for one in (once, twice)
            ]
            assert counted == [len(instants)] * 2
            first, second = (
                [w.content[:3] for w in pipeline.minutes(address_of(one), channel)]
                for one in (once, twice)
            )
            assert first == second
        conflicts = (
            "SELECT count(*) FROM reading_conflict JOIN channel USING (channel_id) "
            "JOIN device USING (device_id) WHERE address = %s"
        )
        assert pipeline.value(conflicts, address_of(twice)) == 0
    finally:
        for one in (once, twice):
            one.close()


def test_without_the_broker_a_device_is_asked_that_would_not_be(pipeline: Pipeline, tmp_path: Path):
    clock_us = minute_ago(30)
    meter = new_meter(lambda: clock_us)
    try:
        polled(pipeline, meter, meter.serve(), 3600, None)
        with poller(pipeline, tmp_path):
            time.sleep(5)
            assert meter.requests == 0, "its MQTT may be silent for an hour"
        nobody = str(pipeline.stack.settings.kafka_controller_port + 1000)
        with poller(pipeline, tmp_path, METERSTREAM_MQTT_PORT=nobody):
            wait_for(lambda: rows(pipeline, meter, Source.POLL), "it is asked")
        no_more_polled(pipeline, meter)
    finally:
        meter.close()


def test_a_poller_that_is_killed_loses_and_doubles_nothing_that_it_handed_on(
    pipeline: Pipeline, tmp_path: Path
):
    clock, chance = AskedClock(minute_ago(12 * 60)), random.Random(6)
    meter = new_meter(clock.now_us)
    address = address_of(meter)
    try:
        polled(pipeline, meter, meter.serve(), 1, None)
        for number in range(KILLS):
            process = spawned(pipeline, tmp_path)
            asked, stored = meter.requests, newest_us(pipeline, meter)
            try:
                if number % 2:  # with the meter's answer in its hands
                    deadline = time.monotonic() + 300
                    while meter.requests < asked + 2:
                        assert time.monotonic() < deadline, "it does not ask"
                        time.sleep(0.001)
                else:
                    wait_for(lambda at=stored: newest_us(pipeline, meter) > at, "it hands on", 300)
                    time.sleep(chance.random())
            finally:
                process.kill()
                process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            clock.skip((4, 150)[number // 2 % 2])  # bridged, and longer than any spread
        with poller(pipeline, tmp_path):
            asked = meter.requests
            wait_for(lambda: meter.requests > asked + 5, "it asks on", 300)
            end_us = clock.stop()
            wait_for(lambda: newest_us(pipeline, meter) == end_us, "the end", 300)
        no_more_polled(pipeline, meter)
        pipeline.final(address, timeout_s=300)

        taken = [
            (dict(one.headers())[RawHeader.RECEIVED_AT], json.loads(one.value()))
            for one in read_topic(pipeline.stack.kafka_bootstrap, RAW.name)
            if one.key() == address.encode()
        ]
        assert len({received_at for received_at, _ in taken}) == len(taken) > KILLS
        instants = {said["sys"]["unixtime"] * SECOND_US for _, said in taken}
        assert instants <= set(clock.told)
        first_us = min(instants)
        begin_us = first_us - first_us % MINUTE_US  # the first register is this old
        energy_uwh = energies(pipeline, meter)
        for channel, share in {"total": 1000, "l1": 470, "l2": 310, "l3": 220}.items():
            stored = pipeline.query(
                "SELECT to_us(measured_at) FROM readings JOIN channel c USING (channel_id) "
                "JOIN device USING (device_id) WHERE address = %s AND c.name = %s AND source = %s",
                address, channel, int(Source.POLL),
            )  # fmt: skip
            assert sorted(at_us for (at_us,) in stored) == sorted(instants)
            first, last = (LOAD.register_uwh(at, share) // 10_000 for at in (begin_us, end_us))
            assert energy_uwh[channel] == (last - first) * 10_000
        print(f"{KILLS} kills, {meter.requests} answers of the meter, {len(taken)} in the log")
    finally:
        meter.close()


def test_with_nothing_to_write_it_knows_that_kafka_is_back(pipeline: Pipeline, tmp_path: Path):
    poller = spawned(pipeline, tmp_path)
    try:
        assert poller.stdout is not None
        url = f"http://127.0.0.1:{json.loads(poller.stdout.readline())['metrics_port']}"
        wait_for(lambda: health_at(url) == 200, "the poller is well")
        pipeline.kill("kafka")
        wait_for(lambda: health_at(url) == 503, "it says that Kafka is away")
        wait_for(lambda: health_at(url) == 200, "it is well again")
    finally:
        poller.send_signal(signal.SIGTERM)
        poller.communicate()
