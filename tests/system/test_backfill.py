"""Six hours that a Pro 3EM was cut off: asked of it over the real broker, not a minute is lost."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import psycopg
import pytest

from infra.simulator.load import Load
from infra.simulator.pro3em_device import Pro3em
from infra.simulator.shapes import own_shapes
from schemas.units import HOUR_US, MINUTE_US, SECOND_US
from schemas.usage import Quality
from sinks.bill_drafts import draft
from sinks.contracts import set_contract, set_home
from sinks.home_meters import set_meter
from sinks.registry import claim_device, resolve_device
from streams.tariffs.contract import Contract
from streams.tariffs.errors import NotKnown
from streams.tariffs.loading import known_tariffs
from streams.tariffs.month import Month
from tests.system.conftest import Pipeline, Window, minute_ago, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

CHANNELS = ("total", "l1", "l2", "l3")
BANGKOK = ZoneInfo("Asia/Bangkok")
TARIFF = "mea-1.2"
ROUNDED_UWH = 20_000  # two registers of 0.01 Wh each


@contextmanager
def poller(pipeline: Pipeline) -> Iterator[None]:
    process = pipeline.spawn("-m", "ingest.poller", METERSTREAM_POLLER_LOOK_S="1")
    try:
        yield
        assert process.poll() is None, process.communicate()[0]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
        print(output[-4000:])


def meter(now_us: int) -> Pro3em:
    """A meter of its own name; all have the same load."""
    load = Load(own_shapes().homes[1], 1000, 0, 0.0)
    return Pro3em(f"shellypro3em-{random.randrange(16**12):012x}", load, lambda: now_us)


def claimed(conn: psycopg.Connection, pipeline: Pipeline, one: Pro3em, home: str) -> None:
    address = f"shelly:{one.id}"
    wait_for(lambda: pipeline.query("SELECT 1 FROM device WHERE address = %s", address), address)
    claim_device(conn, address, f"meter of {home}", home, "Asia/Bangkok")


def healed(pipeline: Pipeline, one: Pro3em) -> bool:
    open_, done = pipeline.query(
        "SELECT count(*) FILTER (WHERE done_at IS NULL), count(done_at) FROM backfill "
        "JOIN device USING (device_id) WHERE address = %s",
        f"shelly:{one.id}",
    )[0]
    return done > 0 and open_ == 0


def energy_of(pipeline: Pipeline, one: Pro3em, channel: str) -> int:
    """Windows and gaps together, in µWh."""
    return pipeline.value(
        "SELECT coalesce(sum(energy_uwh), 0)::bigint FROM ("
        "SELECT channel_id, energy_uwh FROM usage_1m "
        "UNION ALL SELECT channel_id, energy_uwh FROM gap_energy) AS told "
        "JOIN channel c USING (channel_id) JOIN device USING (device_id) "
        "WHERE address = %s AND c.name = %s",
        f"shelly:{one.id}",
        channel,
    )


def test_six_hours_cut_off_cost_not_a_minute_and_not_a_satang(pipeline: Pipeline, home: str):
    begin_us = minute_ago(9 * 60)
    cut_us, back_us, end_us = (begin_us + hours * HOUR_US for hours in (1, 7, 8))
    whole, cut = meter(end_us), meter(end_us)
    try:
        for one in (whole, cut):
            one.connect(pipeline.stack.mqtt_port)
        whole.say(begin_us, end_us)
        cut.say(begin_us, cut_us)
        cut.cut()
        cut.connect(pipeline.stack.mqtt_port)
        cut.say(back_us, end_us)
        pipeline.final(f"shelly:{whole.id}", f"shelly:{cut.id}")
        before = [energy_of(pipeline, cut, channel) for channel in CHANNELS]
        silent = [w for w in pipeline.minutes(f"shelly:{cut.id}") if cut_us < w.start_us < back_us]
        assert silent == [], "six hours of which nothing is known but their sum"

        with poller(pipeline):
            wait_for(lambda: healed(pipeline, cut), "the silence is asked for", 300)
            pipeline.final(f"shelly:{cut.id}")
            wait_for(
                lambda: len(backfilled(pipeline, cut, cut_us, back_us)) == 360, "360 minutes", 120
            )
            pipeline.final(f"shelly:{cut.id}")
        assert [energy_of(pipeline, cut, channel) for channel in CHANNELS] == before
        _compare_windows(pipeline, whole, cut)
        _compare_bills(pipeline, home, whole, cut, begin_us)
        _ask_of(cut)
    finally:
        for one in (whole, cut):
            one.close()


def backfilled(pipeline: Pipeline, one: Pro3em, begin_us: int, end_us: int) -> list[Window]:
    return [
        window
        for window in pipeline.minutes(f"shelly:{one.id}")
        if begin_us <= window.start_us < end_us and window.quality == Quality.BACKFILLED
    ]


def _compare_windows(pipeline: Pipeline, whole: Pro3em, cut: Pro3em) -> None:
    """Each minute and each quarter hour within what the registers' steps can differ by; the sums
    are those of the registers to the µWh.
    """
    for channel in CHANNELS:
        for windows in (pipeline.minutes, pipeline.quarters):
            there = {w.start_us: w.energy_uwh for w in windows(f"shelly:{whole.id}", channel)}
            here = {w.start_us: w.energy_uwh for w in windows(f"shelly:{cut.id}", channel)}
            assert there.keys() == here.keys()
            worst = max(abs(there[at] - here[at]) for at in there)
            print(f"{channel} {windows.__name__}: {len(there)}, {worst} µWh apart at most")
            assert worst <= ROUNDED_UWH
            assert sum(there.values()) == sum(here.values())
        assert energy_of(pipeline, whole, channel) == energy_of(pipeline, cut, channel)


def _compare_bills(
    pipeline: Pipeline, home: str, whole: Pro3em, cut: Pro3em, begin_us: int
) -> None:
    day = datetime.fromtimestamp(begin_us / SECOND_US, BANGKOK).date()
    month = Month(day.year, day.month)
    try:
        known_tariffs().rates(TARIFF, month)
    except NotKnown as error:
        pytest.skip(f"tariff data: {error}")
    totals, energies = [], []
    with psycopg.connect(pipeline.stack.database_url, autocommit=True) as conn:
        for name, one in ((f"{home}-whole", whole), (f"{home}-cut", cut)):
            claimed(conn, pipeline, one, name)
            set_home(conn, name)
            first = day.replace(day=1)
            set_contract(conn, name, Contract(TARIFF, first, 1, Decimal(15)), known_tariffs())
            device = resolve_device(conn, f"shelly:{one.id}")
            since = datetime(day.year, day.month, 1, tzinfo=BANGKOK) - timedelta(days=1)
            set_meter(conn, name, device, "total", "grid", valid_from=since)
            document = draft(conn, known_tariffs(), name, month).document
            totals.append(Decimal(str(document["total"])))
            energies.append(document["energy_kwh"])
    print(f"bills {totals}, {energies} kWh")
    assert totals[0] == totals[1] > 0
    assert energies[0] == energies[1]


def _ask_of(cut: Pro3em) -> None:
    """What was asked: each hour once, in parts, by a name that no command has."""
    assert {frame["method"] for frame in cut.asked} == {"EMData.GetData"}
    assert {frame["src"] for frame in cut.asked} == {f"meterstream/{cut.id}"}
    begins = [frame["params"]["ts"] for frame in cut.asked]
    assert len(begins) == len(set(begins))
    assert all(isinstance(frame["id"], str) for frame in cut.asked)


def test_what_a_meter_does_not_have_stays_a_gap(pipeline: Pipeline):
    """A meter that lost its minutes is asked, answers nothing, and is left alone."""
    begin_us = minute_ago(5 * 60)
    one = meter(begin_us)  # its clock stands still: it has stored nothing since
    try:
        one.connect(pipeline.stack.mqtt_port)
        one.say(begin_us, begin_us + 20 * MINUTE_US)
        one.say(begin_us + 200 * MINUTE_US, begin_us + 220 * MINUTE_US)
        pipeline.final(f"shelly:{one.id}")
        before = energy_of(pipeline, one, "total")
        with poller(pipeline):
            wait_for(lambda: healed(pipeline, one), "the silence is asked for", 300)
        asked = len(one.asked)
        assert asked > 0
        assert energy_of(pipeline, one, "total") == before
        assert backfilled(pipeline, one, begin_us, begin_us + 5 * HOUR_US) == []
        with poller(pipeline):
            now = datetime.now(UTC)
            wait_for(lambda: looked_since(pipeline, now), "another look", 120)
        assert len(one.asked) == asked, "once is enough"
    finally:
        one.close()


def looked_since(pipeline: Pipeline, at: datetime) -> bool:
    return bool(pipeline.value("SELECT looked_until > %s FROM backfill_progress", at))
