"""Windows and repairs in the tables are those of the readings, however they came and were cut."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import psycopg
import pytest

from infra.local import Stack
from schemas.topics import RAW
from schemas.usage import Why
from sinks.migrate import migrate
from sinks.progress import FencedOut, take_over
from streams.energy import Repair
from streams.fold import fold
from streams.partition import Channel, Device
from streams.records import decode_chunks
from streams.registers import Limits
from streams.store import Store
from streams.work import Work
from tests.streams.test_fold import N1, Log, Record
from tests.streams.test_windows import point, whole

pytestmark = pytest.mark.stack

_DATABASE = "repair_tests"
LIMITS = Limits(300_000_000, 100_000_000, 10_000_000 * 10**6)
CHANNEL = 7

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    with psycopg.connect(stack.database_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {_DATABASE}".encode())
    url = stack.database_url.rpartition("/")[0] + f"/{_DATABASE}"
    migrate(url)
    return url


@pytest.fixture
def db(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


def empty(db: Connection) -> None:
    db.execute(
        "TRUNCATE readings, reading_conflict, usage_1m, gap_energy, register_repair, rollup_dirty, "
        "window_dirty, channel_state, announcement, stream_progress"
    )


def worker(db: Connection) -> Log:
    """The memory of a worker that has just taken the partition of one known device."""
    taken = take_over(db, RAW.name, 3)
    log = Log()
    log.partition.epoch = taken.epoch
    device = Device(1, N1, (), LIMITS)
    device.channels["total"] = Channel(CHANNEL, "total", device, None)
    log.partition.devices[N1] = device
    return log


def work_of(log: Log, records: Sequence[Record]) -> Work:
    chunks, samples = decode_chunks([(log.partition, records)])
    return fold(chunks, samples)


def store(db: Connection, records: Sequence[Record], ends: Sequence[int]) -> None:
    """All records into empty tables, in transactions that end before the places `ends`."""
    empty(db)
    log, start = worker(db), 0
    for end in ends:
        Store(db).store(work_of(log, records[start:end]), {})
        start = end


def stored(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT is_export, to_us(start_at), to_us(at), to_us(end_at), why, energy_uwh, before_uwh, "
        "after_uwh, channel_id, changed_offset FROM register_repair ORDER BY 1, 2, 3"
    ).fetchall()


def row(repair: Repair) -> tuple[Any, ...]:
    return (
        *(repair.is_export, repair.start_us, repair.at_us, repair.end_us, int(repair.why)),
        *(repair.energy_uwh, repair.before_uwh, repair.after_uwh, CHANNEL),
    )


Said = tuple[float, float, float, float]
"""Seconds, W, import Wh, export Wh."""


def course(chance: Random) -> list[Said]:
    """20 minutes, a reading each 5 s, 720 W: two resets, one rollover, two spikes of the import
    register, and one reset of the export register.
    """
    imported, exported, said = 9_999_960.0, 500.0, []
    for k in range(240):
        imported = (imported + 1) % 10_000_000
        if k in (120, 170):
            imported = 0.5
        if k == 140:
            exported = 0.0
        shown = imported
        if k in (60, 200):
            shown = chance.choice([imported / 2, imported + 3e6])
        said.append((5.0 * k, 720.0, shown, exported))
    return said


def log_of(arrivals: Sequence[Said], chance: Random) -> list[Record]:
    log, now = Log(), 0.0
    for seq, (at_s, power_w, imported, exported) in enumerate(arrivals):
        now = max(now, at_s)
        log.reading(
            at_s,
            seq=seq + 1,
            received_s=now,
            power_w=power_w,
            import_total_wh=imported,
            export_total_wh=exported,
        )
        if chance.random() < 0.2:
            log.tick(now)
    log.tick(now + 1000)
    return log.waiting


@pytest.mark.parametrize("seed", range(3))
def test_repairs_are_those_of_the_readings_wherever_transactions_end(db: Connection, seed: int):
    chance = Random(seed)
    said = course(chance)
    arrivals = list(said)
    if seed:  # every sixth comes up to five minutes late; or all in any order
        late = {one[0]: chance.random() * 300 * (chance.random() < 1 / 6) for one in said}
        arrivals.sort(key=lambda one: one[0] + late[one[0]])
    if seed == 2:
        chance.shuffle(arrivals)
    records = log_of(arrivals, chance)
    held = [point(at, power, wh, export_total_wh=out) for at, power, wh, out in said]
    repairs = whole(held, LIMITS).repairs
    assert len(repairs) == 6
    outcomes = []
    for step in (len(records), 37):
        store(db, records, [*range(step, len(records), step), len(records)])
        outcomes.append(stored(db))
    assert outcomes[0] == outcomes[1], "also the offsets that told them"
    assert [one[:-1] for one in outcomes[0]] == sorted(row(repair) for repair in repairs)


def test_a_repair_that_a_late_reading_explains_away_is_gone_and_others_keep_their_rows(
    db: Connection,
):
    #  a lone jump of 3 kWh is a spike until the readings after it say that it was none
    log = Log()
    shown = [100, 101, 40, 103, 104, 105] + [0.5 + k for k in range(20)]
    for k, wh in enumerate(shown):
        if k != 2:
            log.reading(5.0 * k, seq=k + 1, import_total_wh=float(wh))
    log.tick(500)
    before = len(log.waiting)
    log.reading(10.0, seq=3, received_s=500, import_total_wh=40.0)
    log.tick(501)
    records = log.waiting
    store(db, records[:before], [before])
    (reset,) = stored(db)
    assert (reset[4], reset[5]) == (Why.REGISTER_RESET, 500_000)
    store(db, records, [before, len(records)])
    spike, still = stored(db)
    assert (spike[4], spike[6], spike[7], spike[9]) == (
        Why.REGISTER_SPIKE, 101_000_000, 40_000_000, len(records) - 1,
    )  # fmt: skip
    assert still == reset, "with the offset that first told it"

    #  the same the other way round: what seemed a spike is not one
    log = Log()
    for k, wh in enumerate([100, 101, 9000, 103, 104, 105, 106, 107]):
        log.reading(5.0 * k, seq=1, import_total_wh=float(wh))
    log.tick(500)
    before = len(log.waiting)
    log.reading(10.0, seq=2, received_s=500, import_total_wh=102.0)  # a greater seq wins
    log.tick(501)
    store(db, log.waiting[:before], [before])
    assert [one[4] for one in stored(db)] == [Why.REGISTER_SPIKE]
    store(db, log.waiting, [before, len(log.waiting)])
    assert stored(db) == []


def test_repairs_of_a_transaction_whose_answer_was_lost_are_stored_once(db: Connection):
    log = Log()
    for k, wh in enumerate([100, 101, 0.5, 1.5, 2.5]):
        log.reading(5.0 * k, seq=k + 1, import_total_wh=float(wh))
    log.tick(500)
    empty(db)
    work = work_of(worker(db), log.waiting)
    Store(db).store(work, {})
    once = stored(db)
    Store(db).store(work, {})
    assert stored(db) == once
    assert len(once) == 1


def test_a_window_that_a_late_reading_changed_and_the_next_one_changed_back(db: Connection):
    #  100 W each minute; 1000 W at 2:15 changes the line from 1:30 on, then 100 W at 2:00 holds it
    log = Log()
    for k in range(8):
        log.reading(30 + 60.0 * k, seq=k + 1, power_w=100.0)
    log.tick(900)
    before = len(log.waiting)
    for seq, (at_s, power_w) in enumerate([(135.0, 1000.0), (120.0, 100.0)]):
        log.reading(at_s, seq=20 + seq, received_s=900, power_w=power_w)
        log.tick(901 + seq)
    records = log.waiting
    outcomes = []
    for ends in ([before, before + 2, before + 4], [before, before + 4]):
        store(db, records, ends)
        outcomes.append(
            db.execute(
                "SELECT energy_uwh, readings, quality FROM usage_1m ORDER BY window_start"
            ).fetchall()
        )
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] == (1_666_667, 1, 1), "100 W for a minute"


@pytest.mark.parametrize("seed", range(4))
def test_hours_that_come_late_leave_no_gap_wherever_transactions_end(db: Connection, seed: int):
    #  15 h, a reading each minute; three stretches of three hours come one by one, or in halves
    chance = Random(seed)
    hours = {k: list(range(180 * k, 180 * (k + 1))) for k in range(5)}
    late = chance.sample([1, 2, 3], 3)
    pieces = [half for k in late for half in (hours[k][:90], hours[k][90:])]
    if seed % 2:
        chance.shuffle(pieces)
    log, now = Log(), 0.0
    for piece in ([*hours[0], *hours[4]], *pieces):
        for k in piece:
            now = max(now, 60.0 * k)
            log.reading(60.0 * k, seq=k + 1, received_s=now, import_total_wh=1000.0 + 12 * k)
        now += 1000
        log.tick(now)
    records = log.waiting
    one_by_one = [n + 1 for n, record in enumerate(records) if record.value is None]
    assert len(one_by_one) == 1 + len(pieces)
    cuts = sorted(chance.sample(range(1, len(records)), 3))
    for ends in (one_by_one, [len(records)], [*cuts, len(records)]):
        store(db, records, ends)
        gaps = "SELECT to_us(start_at), energy_uwh FROM gap_energy WHERE energy_uwh <> 0"
        assert db.execute(gaps.encode()).fetchall() == []
        ((energy,),) = db.execute("SELECT sum(energy_uwh) FROM usage_1m")
        assert energy == (5 * 180 - 1) * 12_000_000


def test_a_worker_that_was_replaced_stores_no_repair(db: Connection):
    log = Log()
    for k, wh in enumerate([100, 101, 0.5, 1.5, 2.5]):
        log.reading(5.0 * k, seq=k + 1, import_total_wh=float(wh))
    log.tick(500)
    empty(db)
    old = worker(db)
    take_over(db, RAW.name, 3)
    with pytest.raises(FencedOut):
        Store(db).store(work_of(old, log.waiting), {})
    assert stored(db) == []
