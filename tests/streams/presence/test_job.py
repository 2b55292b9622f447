"""Presence in the real database: no further than the worker, written once, told rightly."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from schemas.models import Model
from schemas.presence import Presence
from schemas.units import SECOND_US
from sinks import presence
from sinks.device_details import details
from sinks.device_homes import delete_device
from sinks.device_registry import keep_fields
from sinks.device_states import states_of
from sinks.models import set_model
from sinks.presence_history import changes, gaps
from sinks.registry import claim_device
from streams.presence.__main__ import alert_of
from streams.presence.job import PresenceJob, Record
from streams.presence.reading import Tick
from streams.presence.watch import Heard

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]
START = datetime(2027, 1, 15, 8, tzinfo=UTC)
START_US = round(START.timestamp()) * SECOND_US
PART = 3


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Log:
    """A partition of the raw log, which the worker has stored as far as `stored` says."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.records: list[Record] = []
        self.home: dict[str, str | None] = {}

    def device(self, address: str, home_id: str | None = None, **more: str) -> int:
        if home_id is not None:
            return claim_device(self.db, address, more.get("name"), home_id, "Asia/Bangkok")
        row = self.db.execute(
            "INSERT INTO device (address, family) VALUES (%s, %s) RETURNING device_id",
            [address, address.partition(":")[0]],
        ).fetchone()
        assert row is not None
        return int(row[0])

    def hear(self, address: str, seconds: float, says: bool | None = None) -> None:
        heard = Heard(START_US + round(seconds * SECOND_US), says)
        self.records.append(Record(PART, len(self.records), 0, address, heard))

    def ticks(self, *seconds: float) -> None:
        for each in seconds:
            us = START_US + round(each * SECOND_US)
            self.records.append(Record(PART, len(self.records), us, "", Tick("0", us)))

    def stored(self, until: int | None = None) -> None:
        self.db.execute(
            "INSERT INTO stream_progress (topic, part, epoch, pid, next_offset, published_offset) "
            "VALUES ('energy.raw.v1', %s, 1, 1, %s, 0) ON CONFLICT (topic, part) DO UPDATE "
            "SET next_offset = excluded.next_offset",
            [PART, len(self.records) if until is None else until],
        )

    def read_by(self, job: PresenceJob, start: int = 0) -> None:
        """All that is stored, from where the job is, and work it off."""
        self.stored()
        job.take(self.records[max(start, job.next_offset(PART)) :])
        job.work_off()


def history(db: Connection) -> list[tuple[Any, ...]]:
    return db.execute(
        "SELECT address, since_at, state::text, reason, heard_at, p.home_id "
        "FROM device_presence p JOIN device USING (device_id) ORDER BY 1, 2, 3"
    ).fetchall()


def told(db: Connection) -> list[tuple[str, str, datetime]]:
    """The alerts that wait to be told: identity, turn, instant; marked as told."""
    rows = presence.unannounced(db, 1000)
    presence.mark_announced(db, rows)
    alerts = [alert_of(row) for row in rows if row.alert]
    return [(alert.alert_id, alert.home_id, alert.at) for alert in alerts]


@pytest.fixture
def log(db: Connection) -> Log:
    return Log(db)


def test_a_silent_device_is_late_then_offline_then_back_and_its_home_is_told(
    db: Connection, log: Log
):
    address = "homesync:h1/meter"  # its family: late after 60 s, offline after 300 s
    device_id = log.device(address, "h1", name="Meter")
    job = PresenceJob(db)
    log.ticks(0)
    log.hear(address, 1.5)
    log.ticks(*range(2, 70))
    log.read_by(job)
    assert history(db) == [
        (address, at(1.5), "online", "first", None, "h1"),
        (address, at(61.5), "late", "silence", at(1.5), "h1"),
    ]
    assert told(db) == []
    log.ticks(*range(70, 303))
    log.read_by(job)
    assert history(db)[2:] == [(address, at(301.5), "offline", "silence", at(1.5), "h1")]
    raised = f"offline/{device_id}/{START_US + 301_500_000}/raised"
    assert told(db) == [(raised, "h1", at(301.5))]
    log.hear(address, 400)
    log.read_by(job)
    assert history(db)[3:] == [(address, at(400), "online", "heard", at(1.5), "h1")]
    assert told(db) == [(raised.replace("raised", "cleared"), "h1", at(400))]

    (said,) = states_of(db, [device_id])
    assert [state.fields for state in said.states] == [{"presence": "online"}]
    found = details(db, device_id)
    assert (found.presence, found.presence_since_at) == ("online", at(400))
    assert found.contract.name == "family:homesync"
    assert [one.state for one in changes(db, device_id, 10)] == [
        "online", "offline", "late", "online",
    ]  # fmt: skip
    (gap,) = gaps(db, device_id, at(0), at(1000))
    assert (gap.start_at, gap.end_at) == (at(1.5), at(400))
    assert gaps(db, device_id, at(500), at(1000)) == []


def test_a_last_will_raises_at_once_and_an_unclaimed_device_alarms_nobody(db: Connection, log: Log):
    log.device("shelly:plug", "h1")
    log.device("shelly:stranger")
    job = PresenceJob(db)
    log.ticks(0)
    for address in ("shelly:plug", "shelly:stranger"):
        log.hear(address, 1)
    log.read_by(job)
    for address in ("shelly:plug", "shelly:stranger"):
        log.hear(address, 2.25, says=False)
    log.read_by(job)
    assert [row[1:4] for row in history(db)] == [
        (at(1), "online", "first"), (at(2.25), "offline", "said"),
    ] * 2  # fmt: skip
    assert [(home, when) for _, home, when in told(db)] == [("h1", at(2.25))]


def test_what_is_back_already_wakes_nobody(db: Connection, log: Log):
    """A log that is read late: the alarm and its end come in one."""
    log.device("shelly:plug", "h1")
    log.ticks(0)
    for seconds in (1, 3, 5):
        log.hear("shelly:plug", seconds)
        log.hear("shelly:plug", seconds + 1, says=False)
    log.hear("shelly:plug", 7)
    log.read_by(PresenceJob(db))
    assert len(history(db)) == 7
    assert told(db) == []


def test_the_log_is_followed_no_further_than_the_worker(db: Connection, log: Log):
    job = PresenceJob(db)
    log.ticks(0)
    log.hear("shelly:new", 1)
    log.stored(1)
    job.take(log.records)
    job.work_off()
    assert (job.waiting, job.next_offset(PART)) == (1, 1)
    log.device("shelly:new")  # registered by the worker just before it stores the record
    log.stored()
    job.work_off()
    assert (job.waiting, job.next_offset(PART)) == (0, 2)
    assert [row[:3] for row in history(db)] == [("shelly:new", at(1), "online")]


def test_a_message_of_nobody_is_passed_over(db: Connection, log: Log):
    job = PresenceJob(db)
    log.ticks(0)
    log.hear("homesync:refused/always", 1)
    log.read_by(job)
    assert (job.waiting, history(db)) == (0, [])


def some_log(log: Log, seed: int) -> None:
    """20 minutes of five devices that fall silent, say farewell and come back."""
    chance = random.Random(seed)
    addresses = [f"homesync:h1/n{number}" for number in range(5)]
    for number, address in enumerate(addresses):
        log.device(address, "h1" if number % 2 else None)
    silent_until = dict.fromkeys(addresses, 0)
    for second in range(1200):
        if not 500 <= second < 560:  # the connector was away
            log.ticks(second)
            for address in addresses:
                if second < silent_until[address] or chance.random() > 0.2:
                    continue
                says = chance.choices([None, True, False], [20, 2, 1])[0]
                log.hear(address, second + chance.random(), says)
                if chance.random() < 0.05:
                    silent_until[address] = second + chance.choice([70, 200, 500])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_replay_and_any_crashes_give_the_same_rows(db: Connection, log: Log, seed: int):
    some_log(log, seed)
    log.read_by(PresenceJob(db))
    whole = history(db)
    states = {row[2] for row in whole}
    assert states == {"online", "late", "offline"}

    def wipe() -> None:
        db.execute("TRUNCATE device_presence, presence, presence_progress")
        db.execute("DELETE FROM device_state WHERE field = 'presence'")

    wipe()
    log.read_by(PresenceJob(db))
    assert history(db) == whole, "a replay"

    wipe()
    chance = random.Random(seed)
    place = 0
    while place < len(log.records):
        job = PresenceJob(db)  # after a crash: from the last checkpoint
        start = job.next_offset(PART)
        place = min(len(log.records), max(start, place) + chance.randrange(1, 300))
        log.stored(place)
        for cut in sorted({*chance.choices(range(start, place + 1), k=3), place}):
            job.take(log.records[start:cut])
            start = max(start, cut)
            job._checkpoint_at = 0.0
            job._next_part = chance.choice([PART, 5])
            job.work_off()
    assert history(db) == whole, "crashes"
    alerts = db.execute(
        "SELECT device_id, alert FROM device_presence WHERE alert IS NOT NULL "
        "ORDER BY device_id, since_at, state DESC"
    ).fetchall()
    for device_id in {device for device, _ in alerts}:
        turns = [turn for device, turn in alerts if device == device_id]
        assert turns == ["raised", "cleared"] * (len(turns) // 2) + ["raised"] * (len(turns) % 2)


def test_a_model_said_or_set_changes_the_contract(db: Connection, log: Log):
    device_id = log.device("shelly:em")
    job = PresenceJob(db)
    log.ticks(0)
    log.hear("shelly:em", 0)
    log.ticks(*range(1, 100))
    log.read_by(job)
    assert [row[2] for row in history(db)] == ["online"], "the family allows 180 s"
    db.execute(
        "INSERT INTO device_state VALUES (%s, '', 'model', %s, now(), 1)",
        [device_id, Jsonb("SPEM-003CEBEU")],
    )
    log.ticks(100)
    log.read_by(job)
    assert [row[1:3] for row in history(db)][1:] == [(at(60), "late")], "a Pro 3EM 60 s"
    assert details(db, device_id).contract.name == "SPEM-003CEBEU"

    set_model(db, Model("SPEM-003CEBEU", "shelly", 10, 30, 110, longest_gap_s=45))
    log.ticks(*range(101, 112))
    log.read_by(job)
    assert [row[1:3] for row in history(db)][2:] == [(at(110), "offline")]
    found = details(db, device_id)
    assert (found.contract.late_after_s, found.gap_limit_s) == (30, 45)
    db.execute("DELETE FROM model")
    log.read_by(job)
    assert details(db, device_id).gap_limit_s is None, "its family's again"
    db.execute("UPDATE device SET gap_limit_s = 77")
    set_model(db, Model("SPEM-003CEBEU", "shelly", 10, 30, 110, longest_gap_s=45))
    log.read_by(job)
    assert details(db, device_id).gap_limit_s == 77, "a person's word stays"


def test_a_deleted_device_is_watched_no_more_and_is_there_again_once_it_speaks(
    db: Connection, log: Log
):
    device_id = log.device("shelly:plug", "h1")
    job = PresenceJob(db)
    log.ticks(0)
    log.hear("shelly:plug", 1)
    log.read_by(job)
    delete_device(db, device_id)
    db.execute("UPDATE device SET deleted_at = %s", [at(10)])
    log.hear("shelly:plug", 9.5)  # on its way when it was deleted
    log.ticks(*range(2, 700))
    log.read_by(job)
    assert [row[2] for row in history(db)] == ["online"]
    assert details(db, device_id).presence is None
    assert details(db, device_id).deleted_at == at(10)

    log.hear("shelly:plug", 800, says=False)
    log.read_by(job)
    assert details(db, device_id).deleted_at is not None, "a farewell is no return"
    log.hear("shelly:plug", 801)
    log.read_by(job)
    log.hear("shelly:plug", 802)
    log.read_by(job)
    found = details(db, device_id)
    assert (found.deleted_at, found.home_id, found.presence) == (None, None, "online")
    assert history(db)[-1][1:4] == (at(802), "online", "first")


def channel(db: Connection, device_id: int, name: str, *registers: str) -> None:
    db.execute(
        "WITH c AS (INSERT INTO channel (device_id, name) VALUES (%s, %s) RETURNING channel_id) "
        "INSERT INTO channel_state SELECT channel_id, 3, now(), now(), now(), %s, %s, %s, true "
        "FROM c",
        [device_id, name, *(one in registers for one in ("import", "export", "interval"))],
    )


def test_capabilities_are_what_the_stream_has_seen(db: Connection, log: Log):
    device_id, other = log.device("shelly:4pm"), log.device("shelly:none")
    channel(db, device_id, "switch:0", "import", "export")
    channel(db, device_id, "switch:1")
    db.execute(
        "INSERT INTO device_state VALUES (%s, 'switch:0', 'relay', 'true', now(), 1)", [device_id]
    )
    PresenceJob(db).work_off()
    assert details(db, device_id).capabilities == {
        "channels": {"switch:0": ["import_register", "export_register"], "switch:1": []},
        "relays": ["switch:0"],
        "energy": True,
    }
    assert details(db, other).capabilities == {"channels": {}, "relays": [], "energy": False}


def test_capabilities_are_looked_for_in_turn(db: Connection, log: Log):
    ids = [log.device(f"shelly:{number}") for number in range(5)]
    assert presence.detect_capabilities(db, 0, 2) == ids[1]
    assert presence.detect_capabilities(db, ids[1], 2) == ids[3]
    assert presence.detect_capabilities(db, ids[3], 2) == 0


def test_a_device_of_another_home_is_not_told_the_end_of_its_alarm(db: Connection, log: Log):
    log.device("shelly:plug", "h1")
    job = PresenceJob(db)
    log.ticks(0)
    log.hear("shelly:plug", 1)
    log.hear("shelly:plug", 2, says=False)
    log.read_by(job)
    assert [home for _, home, _ in told(db)] == ["h1"]
    log.device("shelly:plug", "h2")
    log.hear("shelly:plug", 3)
    log.read_by(job)
    assert told(db) == []
    assert [row[5] for row in history(db)] == ["h1", "h1", "h2"]


def states_in(db: Connection) -> Iterable[tuple[str, int]]:
    return db.execute("SELECT state::text, count(*) FROM presence GROUP BY 1").fetchall()


def test_after_a_clean_end_nothing_is_read_twice(db: Connection, log: Log):
    log.device("shelly:plug")
    job = PresenceJob(db)
    log.ticks(0, 1)
    log.hear("shelly:plug", 1)
    log.read_by(job)
    job.save()
    again = PresenceJob(db)
    assert again.next_offset(PART) == 3
    assert again.counts() == {Presence.ONLINE: 1, Presence.LATE: 0, Presence.OFFLINE: 0}
    assert list(states_in(db)) == [("online", 1)]


def test_odd_names_and_many_changes_of_one_batch_are_stored_as_they_are(db: Connection, log: Log):
    names = ["tab\there", "line\nfeed\r", "back\\slash\\N", "\\.", "ไทย", "'quote\""]
    homes = {log.device(f"shelly:{n}", home): home for n, home in enumerate(names)}
    job = PresenceJob(db)
    for n in range(len(names)):
        log.hear(f"shelly:{n}", n)
        log.hear(f"shelly:{n}", n + 0.25, says=False)
        log.hear(f"shelly:{n}", n + 0.5)
        log.hear(f"shelly:{n}", n + 0.75, says=False)
    log.read_by(job)
    assert [(row[0], row[2], row[5]) for row in history(db)] == [
        (f"shelly:{n}", state, name)
        for n, name in enumerate(names)
        for state in ("online", "offline", "online", "offline")
    ]
    assert [(home, when) for _, home, when in told(db)] == [
        (homes[device_id], at(number + 0.75)) for number, device_id in enumerate(sorted(homes))
    ]
    for device_id in homes:
        (said,) = states_of(db, [device_id])
        assert [state.fields for state in said.states] == [{"presence": "offline"}]


def test_only_what_a_worker_may_be_publishing_is_told_again(db: Connection, log: Log):
    devices = {name: log.device(f"shelly:{name}") for name in "abc"}
    job = PresenceJob(db)
    for name in "abc":
        log.hear(f"shelly:{name}", 1)
    log.read_by(job)
    db.execute("UPDATE stream_progress SET published_offset = 2")
    for name, log_offset in (("a", 1), ("b", 2)):
        keep_fields(db, [(devices[name], "", "ip", "10.0.0.1", START_US, log_offset)])
    assert presence.unconfirmed(db, list(devices.values())) == [devices["b"]]
    assert presence.unconfirmed(db, [devices["a"], devices["c"]]) == []
    db.execute("UPDATE stream_progress SET published_offset = 3")
    assert presence.unconfirmed(db, list(devices.values())) == []


def test_what_comes_after_the_portion_that_was_told_waits_for_the_next(db: Connection, log: Log):
    for name in "abc":
        log.device(f"shelly:{name}")
    job = PresenceJob(db)
    for name in "abc":
        log.hear(f"shelly:{name}", 1)
        log.hear(f"shelly:{name}", 1.5, says=False)
    log.read_by(job)
    found = []
    while rows := presence.unannounced(db, 4):
        found.append([(row.address, row.state) for row in rows])
        presence.mark_announced(db, rows)
    both = [(f"shelly:{name}", state) for name in "abc" for state in ("online", "offline")]
    assert found == [both[:4], both[4:]]
